"""Which metrics fit a store, where none are named."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import xarray as xr

import probekit as pk

RNG = np.random.default_rng(0)


def tree_of(
    sites: dict[str, str], nodes: int = 4, samples: int = 60, classes: int | None = 3, dims: tuple[str, ...] = ()
) -> xr.DataTree:
    """Sites by the type of their module."""
    root = xr.Dataset()
    if classes is not None:
        root = root.assign_coords(label=("sample", np.arange(samples) % classes))
    children = {
        name: xr.Dataset(
            {"activation": (dims or ("sample", "node"), RNG.random((samples, nodes)))},
            attrs={"type": kind, "kind": "output"},
        )
        for name, kind in sites.items()
    }
    return xr.DataTree.from_dict({"/": root, **children})


def chosen(tree: xr.DataTree, **options: Any) -> tuple[set[str], dict[str, str]]:
    measured = pk.measure(tree, **options)
    return set(json.loads(measured.attrs["default_metrics"])), json.loads(measured.attrs["left_out"])


def test_relus_with_labels_have_all_that_compares_classes() -> None:
    names, left_out = chosen(tree_of({"a": "ReLU", "b": "ReLU"}))
    of_classes = {"auroc", "overlap:null='permute'", "selectivity", "linear_probe"}
    assert names == {"mean", "std", "sparsity", "effective_rank", "cka"} | of_classes
    assert left_out == {}


def test_without_labels_nothing_compares_classes() -> None:
    names, left_out = chosen(tree_of({"a": "ReLU"}, classes=None))
    assert names == {"mean", "std", "sparsity", "effective_rank"}
    assert set(left_out.values()) == {"there are no labels"}
    assert chosen(tree_of({"a": "ReLU"}), by=None) == (names, left_out)


def test_bounds_decide() -> None:
    names, left_out = chosen(tree_of({"a": "Sigmoid", "b": "Tanh"}))
    assert {"saturation", "sparsity"} <= names  # a sigmoid's least value is 0
    assert left_out == {"selectivity": "site 'b' may go below 0"}
    names, left_out = chosen(tree_of({"a": "Linear"}))
    assert names.isdisjoint({"sparsity", "saturation", "selectivity"})
    assert left_out == {"selectivity": "site 'a' may go below 0"}


def test_sizes_decide() -> None:
    names, left_out = chosen(tree_of({"a": "ReLU", "b": "ReLU"}, nodes=2049, samples=24, classes=2))
    assert names.isdisjoint({"linear_probe", "effective_rank", "cka"})
    assert left_out["cka"] == left_out["linear_probe"] == "site 'a' has 2049 nodes, more than 2048"
    names, left_out = chosen(tree_of({"a": "ReLU"}, samples=18, classes=2))
    assert left_out["auroc"] == "there are no two classes with 10 samples"
    assert "overlap" in chosen(tree_of({"a": "ReLU"}, samples=2000, classes=2))[0]
    assert "overlap:null='permute'" in chosen(tree_of({"a": "ReLU"}, samples=1999, classes=2))[0]
    many = {f"s{n}": "ReLU" for n in range(33)}
    assert chosen(tree_of(many, samples=20, classes=2))[1]["cka"] == "there are 33 sites, more than 32"


def test_tokens_have_no_probe_and_no_comparison() -> None:
    tree = tree_of({"a": "ReLU", "b": "ReLU"}, dims=("row", "node"))
    for site in "ab":
        tree[site] = tree[site].to_dataset().assign_coords(label=("row", np.arange(60) % 3))
    names, left_out = chosen(tree)
    assert names.isdisjoint({"linear_probe", "cka"})
    assert left_out["linear_probe"].startswith("nothing tells which tokens are of one sample")
    assert left_out["cka"] == "the sites have different observations"


def test_a_target_is_measured() -> None:
    tree = tree_of({"a": "ReLU"})
    tree.dataset = tree.to_dataset().assign_coords(age=("sample", np.arange(60.0)))
    assert {"correlation", "ridge_probe"} <= chosen(tree, target="age")[0]


def test_named_metrics_are_no_default() -> None:
    assert "default_metrics" not in pk.measure(tree_of({"a": "ReLU"}), "mean").attrs
    with pytest.raises(pk.errors.PluginError, match="No metric was given"):
        pk.measure(tree_of({"a": "ReLU"}), [])
