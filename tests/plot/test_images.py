"""Every kind of figure looks as it did: drawn again, it is compared with a picture in the folder `pictures`.

Fonts are matplotlib's own; FreeType's versions differ by less than the tolerance. After a change that is meant to be
seen, draw the pictures anew with ``PROBEKIT_DRAW=1 pytest tests/plot/test_images.py``, and look at each of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import xarray as xr
from matplotlib.testing.compare import compare_images

import probekit as pk
from tests.plot.trees import aurocs, overlaps, similarities, tree, variable

PICTURES = Path(__file__).parent / "pictures"
TOLERANCE = 8  # root of the mean squared difference of bytes
DPI = 50


def _activations(nodes: int = 40) -> xr.DataTree:
    """Two layers of ReLUs, with medians, means and histograms of four classes."""
    random = np.random.default_rng(1)
    centres = random.normal(0.3, 1, (2, 4, nodes))
    samples = np.maximum(random.normal(centres[:, :, None], 0.6, (2, 4, 200, nodes)), 0)
    edges = np.linspace(0.001, samples.max(), 33)
    found = {}
    for site, x in zip(("relu1", "relu2"), samples, strict=True):
        bins = np.array([[np.histogram(values[values > 0], edges)[0] for values in each.T] for each in x])
        found[site] = {
            "median": variable(("label", "node"), np.median(x, 1), "median"),
            "mean": variable(("label", "node"), x.mean(1), "mean"),
            "histogram": variable(("label", "node", "bin"), bins, "histogram"),
            "histogram_edges": variable(("node", "edge"), np.tile(edges, (nodes, 1)), "histogram"),
            "histogram_atoms": variable(("label", "node", "atom"), (x == 0).sum(1)[..., None], "histogram"),
            "histogram_atom": variable(("node", "atom"), np.zeros((nodes, 1)), "histogram"),
        }
    return tree(found, ["ant", "bee", "cat", "dog"])


def _many_medians() -> xr.DataTree:
    values = np.maximum(np.random.default_rng(2).normal(np.linspace(0, 2, 4)[:, None], 1, (4, 20_000)), 0)
    parts = {"relu1": values[:, :12_000], "relu2": values[:, 12_000:]}
    named = {site: {"median": variable(("label", "node"), part, "median")} for site, part in parts.items()}
    return tree(named, ["ant", "bee", "cat", "dog"])


def _pairs() -> xr.DataTree:
    values = np.random.default_rng(3).uniform(0.2, 0.9, (6, 6, 8))
    found = {"overlap_pairs": variable(("label", "label_b", "node"), values, "overlap")}
    return tree({"relu1": found}, [f"class {code}" for code in range(6)])


def _cka(sites: int) -> xr.DataTree:
    apart = abs(np.subtract.outer(np.arange(sites), np.arange(sites)))
    names = [f"layer{number}.act" for number in range(sites)]
    return xr.DataTree.from_dict({"/": similarities("cka", np.exp(-4 * apart / sites), names)})


def _predictions() -> xr.DataTree:
    random = np.random.default_rng(4)
    labels = random.integers(0, 5, 500)
    predicted = np.where(random.uniform(size=500) < 0.8, labels, random.integers(0, 5, 500))
    return xr.DataTree(xr.Dataset({"label": ("sample", labels), "prediction": ("sample", predicted)}))


def _training() -> xr.DataTree:
    steps = np.array([0, 1, 3, 10, 30, 100, 300])
    found = {
        f"relu{n}": {"selectivity": variable(("step",), 0.1 * n + np.sqrt(steps) / 20, "selectivity", neutral=0.0)}
        for n in range(3)
    }
    return tree(found, root=xr.Dataset(coords={"step": steps}))


def _positions() -> xr.DataTree:
    random = np.random.default_rng(5)
    found = {
        f"h.{n}": {"std": variable(("label", "node"), random.uniform(0.5, 1, (16, 4)) + n, "std")} for n in range(12)
    }
    return tree(found, [str(position) for position in range(16)], by="position")


def _pictures() -> dict[str, list[np.ndarray]]:
    random = np.random.default_rng(6)
    return {f"relu1 [{node}]": [random.uniform(size=(8, 8)) for _ in range(4)] for node in (3, 17)}


TEXT = "The quick brown fox jumps over the lazy dog, and then it jumps again."
SEEDS = {"trained": [overlaps(seed, 0.2) for seed in range(3)], "untrained": overlaps(5)}

FIGURES: dict[str, Callable[[], pk.plot.Drawing]] = {
    "profile": lambda: pk.plot.profile(SEEDS, "overlap"),
    "medians": lambda: pk.plot.medians(_activations()),
    "medians-many": lambda: pk.plot.medians(_many_medians()),
    "medians-grid": lambda: pk.plot.medians_grid({"untrained": _activations(20), "trained": _activations(30)}),
    "distributions": lambda: pk.plot.distributions(_activations(), "relu1", [0, 3]),
    "heatmap": lambda: pk.plot.heatmap(aurocs(), "relu0", "auroc_rest"),
    "heatmap-grid": lambda: pk.plot.heatmap_grid(_activations()),
    "by-class": lambda: pk.plot.by_class(aurocs(classes=25, sites=20), "auroc_rest"),
    "matrix": lambda: pk.plot.matrix(_cka(4)),
    "matrix-sixty": lambda: pk.plot.matrix(_cka(60)),
    "pairs": lambda: pk.plot.pairs(_pairs(), "relu1"),
    "confusion": lambda: pk.plot.confusion(_predictions()),
    "by-step": lambda: pk.plot.by_step(_training(), "selectivity"),
    "by-position": lambda: pk.plot.by_position(_positions(), "std"),
    "images": lambda: pk.plot.images(_pictures(), captions={name: [4, 3, 2, 1] for name in _pictures()}),
    "sentences": lambda: pk.plot.sentences(
        {"h.3 [17]": [(TEXT, 4, 9, 2.5), (TEXT, 26, 30, 1.5), ("a fox", 2, 5, 0.5)]}
    ),
}


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_looks_as_it_did(name: str, tmp_path: Path) -> None:
    expected, drawn = PICTURES / f"{name}.png", tmp_path / f"{name}.png"
    FIGURES[name]().save(drawn, dpi=DPI)
    if os.environ.get("PROBEKIT_DRAW"):
        with PIL.Image.open(drawn) as image:
            image.convert("RGB").save(expected, optimize=True)
    assert expected.exists(), f"{expected} isn't there. Draw it with PROBEKIT_DRAW=1, and look at it."
    assert compare_images(str(expected), str(drawn), TOLERANCE) is None


def test_other_numbers_look_different(tmp_path: Path) -> None:
    changed = {
        "profile": pk.plot.profile({"trained": overlaps(3, 0.2), "untrained": overlaps(5)}, "overlap"),
        "heatmap": pk.plot.heatmap(aurocs(1), "relu0", "auroc_rest"),
        "matrix": pk.plot.matrix(_cka(3)),
    }
    for name, drawing in changed.items():
        drawn = drawing.save(tmp_path / f"{name}.png", dpi=DPI)
        expected = PICTURES / f"{name}.png"
        copy = tmp_path / f"{name}-expected.png"
        copy.write_bytes(expected.read_bytes())
        assert _size(drawn) != _size(copy) or compare_images(str(copy), str(drawn), TOLERANCE) is not None, name


def _size(path: Path) -> tuple[int, int]:
    with PIL.Image.open(path) as image:
        return image.size
