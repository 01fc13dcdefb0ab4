"""Public functions with arguments of the wrong kind: an error says what was given and what it has to be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

import probekit as pk
from probekit import load, plot
from probekit.errors import ProbekitError
from probekit.report import Page
from tests.stores import LABELS, one_site

TREE = one_site(label=LABELS)
RESULTS = pk.measure(TREE, ["mean", "median", "histogram"])
MODEL, X = torch.nn.ReLU(), torch.randn(6, 4)
ROWS = [{"a": 1.5}]

# What takes one value, the name of the argument in the error, and values that people hand over by mistake.
MISTAKES: dict[str, tuple[Callable[[Any], object], str, list[Any]]] = {
    "measure": (lambda v: pk.measure(v, "mean"), "store", [None, 3, [TREE], {"a": TREE}, X, MODEL]),
    "measure by": (lambda v: pk.measure(TREE, "mean", by=v), "by", [["label"], ("label", "fold"), 3, LABELS, True]),
    "measure scheduler": (lambda v: pk.measure(TREE, "mean", scheduler=v), "scheduler", [8786, ["tcp://a"]]),
    "measure progress": (lambda v: pk.measure(TREE, "mean", progress=v), "progress", [True, 3, "bar"]),
    "measure nan": (lambda v: pk.measure(TREE, "mean", nan=v), "nan", [True, None, np.arange(3), TREE]),
    "measure out": (lambda v: pk.measure(TREE, "mean", out=v), "out", [3, ["a"], "s3://bucket/m.zarr"]),
    "live by": (lambda v: pk.measure_live(MODEL, X, "mean", by=v), "by", [["label"], 3, LABELS]),
    "batch_size": (
        lambda v: pk.measure_live(MODEL, X, "mean", batch_size=v),
        "batch_size",
        [2.5, "8", True, [4]],
    ),
    "capture dtype": (lambda v: pk.capture(MODEL, X, "never", dtype=v), "dtype", [["float16"], torch.float16, {}]),
    "capture columns": (lambda v: pk.capture(MODEL, X, "never", columns=v), "columns", [["a"], 3, "a"]),
    "open": (pk.open, "store", [None, 3, ["a.zarr"], TREE]),
    "info": (pk.info, "store", [None, 3, TREE]),
    "verify": (pk.verify, "store", [None, 3, TREE]),
    "export": (lambda v: pk.export(v, "never", "npy"), "store", [None, 3, [TREE], X]),
    "export format": (lambda v: pk.export(TREE, "never", v), "format", [None, "hdf5", ["npy"]]),
    "export path": (lambda v: pk.export(TREE, v, "npy"), "path", [None, 3, "s3://bucket/a"]),
    "as_dataset": (pk.as_dataset, "site", [None, "a.zarr", X]),
    "as_dataset label": (lambda v: pk.as_dataset(TREE["site"], label=v), "label", [["label"], 3]),
    "watch every": (lambda v: pk.Watch(MODEL, X, "mean", every=v), "every", [["10"], "10", 0, {"a": 1}]),
    "watch step": (lambda v: pk.Watch(MODEL, X, "mean")(v), "step", [1.5, None, "3", True]),
    "measure target": (lambda v: pk.measure(TREE, "correlation", target=v), "target", [["age"], 3]),
    "compare": (lambda v: pk.compare(v, "mean"), "stores", [None, "a.zarr", 3, TREE, [3, 4], {"a": 3, "b": 4}]),
    "compare repeats": (lambda v: pk.compare([TREE, TREE], "mean", repeats=v), "repeats", [None, "3", 1, 1.5, True]),
    "compare confidence": (lambda v: pk.compare([TREE, TREE], "mean", confidence=v), "confidence", [None, "95", 95]),
    "compare seed": (lambda v: pk.compare([TREE, TREE], "mean", seed=v), "seed", [None, "1", -1, 0.5]),
    "compare progress": (lambda v: pk.compare([TREE, TREE], "mean", progress=v), "progress", [True, "bars"]),
    "top": (lambda v: pk.top(v, "mean"), "measured", [None, "m.zarr", RESULTS["site"].to_dataset()]),
    "top by": (lambda v: pk.top(RESULTS, v), "by", [None, ["mean"], 3]),
    "top per_class": (lambda v: pk.top(RESULTS, "mean", per_class=v), "per_class", [None, "3", 0, 1.5, True]),
    "top smallest": (lambda v: pk.top(RESULTS, "mean", smallest=v), "smallest", ["yes", 1]),
    "summary fmt": (lambda v: pk.summary(RESULTS, fmt=v), "fmt", [None, 3, "four"]),
    "sel": (lambda v: pk.sel(v, label=0), "tree", [None, "m.zarr", RESULTS["site"].to_dataset()]),
    "summary": (pk.summary, "measured", [None, "m.zarr", RESULTS["site"].to_dataset(), [RESULTS]]),
    "to_dataframe": (lambda v: pk.to_dataframe(v, "mean"), "measured", [None, "m.zarr", [RESULTS]]),
    "to_dataframe variable": (lambda v: pk.to_dataframe(RESULTS, v), "variables", [["mean"], 3, None]),
    "medians": (plot.medians, "tree", [None, "m.zarr", [RESULTS], RESULTS["site"].to_dataset()]),
    "medians sites": (lambda v: plot.medians(RESULTS, sites=v), "sites", ["site", 3]),
    "medians ax": (lambda v: plot.medians(RESULTS, ax=v), "ax", [3, "left"]),
    "medians_grid": (plot.medians_grid, "trees", [[RESULTS], None]),
    "medians_grid columns": (lambda v: plot.medians_grid({"a": RESULTS}, columns=v), "columns", [0, "2", 1.5]),
    "heatmap site": (lambda v: plot.heatmap(RESULTS, v), "site", [0, ["site"], None]),
    "heatmap variable": (lambda v: plot.heatmap(RESULTS, "site", v), "variable", [["mean"], 3, None]),
    "distributions": (lambda v: plot.distributions(RESULTS, "site", v), "nodes", [3, ["a"], None, [1.5]]),
    "distributions resolution": (
        lambda v: plot.distributions(RESULTS, "site", [0], resolution=v),
        "resolution",
        [0, "9"],
    ),
    "distribution_grid": (lambda v: plot.distribution_grid(RESULTS, v), "rows", [["site"], "site", None]),
    "profile": (lambda v: plot.profile(v, "mean"), "trees", [None, "m.zarr", ["m.zarr"], {"a": [3]}]),
    "profile lists": (lambda v: plot.profile(v, "mean"), "trees", [["m.zarr"], {"a": [3]}]),
    "heatmap_grid": (plot.heatmap_grid, "tree", [None, "m.zarr"]),
    "by_class": (lambda v: plot.by_class(v, "mean"), "tree", [None, "m.zarr"]),
    "matrix": (plot.matrix, "tree", [None, "m.zarr"]),
    "confusion": (lambda v: plot.confusion(v), "tree", [None, "m.zarr"]),
    "by_step": (lambda v: plot.by_step(v, "mean"), "tree", [None, "m.zarr"]),
    "images": (plot.images, "rows", [None, [1]]),
    "sentences": (plot.sentences, "rows", [None, "text"]),
    "standard kinds": (lambda v: plot.standard(RESULTS, v), "kinds", ["medians", 3]),
    "palette": (plot.palette, "count", [None, "3", 2.5]),
    "figure": (lambda v: Page("t").figure(v, "c"), "picture", [None, 3, RESULTS]),
    "table": (lambda v: Page("t").table(v, "c"), "data", [None, 3, "text", [[1, 2]]]),
    "table formats": (lambda v: Page("t").table(ROWS, "c", formats=v), "formats", [3, ["%"], {"a": 1}, "three"]),
    "table badges": (lambda v: Page("t").table(ROWS, "c", badges=v), "badges", [3, ["good"]]),
    "numbers": (lambda v: Page("t").numbers(v), "values", [3, [1, 2], None]),
    "text": (lambda v: Page("t").text(v), "paragraph", [3, None, ["a"]]),
    "write": (lambda v: Page("t").write(v), "path", [3, None, "s3://bucket/page.html"]),
    "dataset": (load.dataset, "name", [None, 3, Path("x.npz")]),
    "dataset limit": (lambda v: load.dataset("digits", limit=v), "limit", ["3", 2.5, True]),
    "dataset split": (lambda v: load.dataset("digits", v), "split", [None, ["train"], 3]),
    "arrays": (load.arrays, "name", [None, 3, ["digits"]]),
    "model": (load.model, "name", [None, 3, MODEL]),
    "example": (load.example, "model", [None, "torchvision:resnet18"]),
    "weights_digest": (pk.weights_digest, "model", [None, {}, "resnet"]),
}


@pytest.mark.parametrize(
    ("call", "argument", "value"),
    [(call, argument, value) for call, argument, values in MISTAKES.values() for value in values],
    ids=[f"{name}-{type(value).__name__}" for name, (_, _, values) in MISTAKES.items() for value in values],
)
def test_a_value_of_the_wrong_kind_is_named(call: Callable[[Any], object], argument: str, value: object) -> None:
    with pytest.raises(ProbekitError) as raised:
        call(value)
    message = str(raised.value)
    assert argument in message
    assert message.endswith(".")
    assert len(message) < 600
    inside = [*value.values()] if isinstance(value, dict) else value if isinstance(value, list) else []
    given = [value, *inside, *(value if isinstance(value, dict) else ())]
    assert any(text in message for one in given for text in (type(one).__name__, repr(one), str(one)))


def test_a_single_site_is_measured_in_any_form() -> None:
    site = TREE["site"].to_dataset().assign_coords(label=("sample", LABELS))
    expected = pk.measure(TREE, ["mean", "median"])["site"].sel(label=[0, 2])
    for given in (
        TREE["site"],
        site,
        site.assign_attrs(site="a/b"),
        site["activation"],
        site["activation"].rename("x"),
    ):
        (found,) = pk.measure(given, ["mean", "median"]).children.values()
        for name in ("mean", "median"):
            np.testing.assert_array_equal(found[name].sel(label=[0, 2]), expected[name])
    assert pk.measure(site.assign_attrs(site="a/b"), "mean", sites="a/b").children["a%2Fb"].attrs["site"] == "a/b"
    np.testing.assert_array_equal(pk.measure(TREE["site"], "mean")["site"]["class_name"], ["ant", "bee", "cat"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (xr.Dataset({"relu": ("sample", [1.0])}), "'activation'; this one has 'relu'.*the path of a store"),
        (xr.DataArray(np.ones((3, 2))), r"dims \('dim_0', 'dim_1'\).*dims \('sample', \.\.\.\)"),
        (xr.DataTree(), "the tree holds no sites"),
        (
            xr.DataTree.from_dict({"/a/b": TREE["site"].to_dataset()}),
            "'/a/b' has, but sites are the groups right below",
        ),
    ],
)
def test_what_holds_no_site_is_refused(given: Any, message: str) -> None:
    with pytest.raises(ProbekitError, match=message):
        pk.measure(given, "mean")
