"""Many nodes: the figure is as small as a picture, and says what its dots would."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from matplotlib.colors import to_hex

import probekit as pk
from tests.plot.trees import tree, variable


def _medians(values: np.ndarray, sites: int = 1) -> xr.DataTree:
    parts = np.array_split(values, sites, axis=1)
    found = {f"relu{n}": {"median": variable(("label", "node"), part, "median")} for n, part in enumerate(parts)}
    return tree(found, [f"c{code}" for code in range(len(values))])


def _relu(classes: int, nodes: int) -> np.ndarray:
    return np.maximum(np.random.default_rng(0).normal(0.5, 1, (classes, nodes)), 0)


@pytest.mark.parametrize("suffix", ["svg", "pdf", "png"])
def test_fifty_thousand_nodes_are_a_small_file(tmp_path: Path, suffix: str) -> None:
    results = _medians(_relu(10, 50_000), sites=5)
    for name, drawing in {
        "medians": pk.plot.medians(results),
        "map": pk.plot.heatmap(results, "relu0", "median"),
    }.items():
        assert drawing.save(tmp_path / f"{name}.{suffix}").stat().st_size < 700_000


def test_each_pixel_has_the_colour_of_the_class_with_most_dots_there() -> None:
    values = np.zeros((3, 40_000))
    values[0], values[1, ::2], values[2, ::3] = 1.0, 1.0, 2.0
    ax = pk.plot.medians(_medians(values)).axes[0]
    assert not ax.collections
    (image,) = ax.images
    pixels = np.asarray(image.get_array())
    colours, opacity = pixels[..., :3], pixels[..., 3]
    rows = np.flatnonzero(opacity.any(1))
    assert rows.tolist() == [150, 299]  # of 300 from 0 to 2
    red, _, blue = pk.plot.palette(3)
    assert {to_hex(colour) for colour in colours[rows[0]]} == {red}
    assert {to_hex(colour) for colour in colours[rows[1]]} == {blue}
    assert opacity.max() == pytest.approx(1)
    assert (opacity[rows[1]] < opacity[rows[0]]).all()


def test_the_pixels_lie_where_the_dots_would() -> None:
    values = _relu(10, 5_000)
    ax = pk.plot.medians(_medians(values)).axes[0]
    (image,) = ax.images
    left, right, bottom, top = image.get_extent()
    opaque = np.asarray(image.get_array())[..., 3] > 0
    assert (left, right) == (0.5, 5000.5)
    expected = np.zeros_like(opaque)
    for node, column in enumerate(values.T):
        for value in column[column > 0]:
            row = (value - bottom) / (top - bottom) * opaque.shape[0]
            expected[int(row), (2 * node + 1) * opaque.shape[1] // 10_000] = True
    assert (opaque != expected).sum() <= 5  # values on the edge of a pixel


def test_the_strip_of_many_nodes_is_the_mean_over_neighbours() -> None:
    values = np.ones((10, 50_000))
    values[:5, :25_000] = 0
    ax = pk.plot.medians(_medians(values)).axes[0]
    (strip,) = [child for child in ax.child_axes if child.patches]
    data = strip.patches[0].get_data()
    assert len(data.values) == 1200
    np.testing.assert_allclose(data.values, [0.5] * 600 + [0.0] * 600)
    assert (data.edges[0], data.edges[-1]) == (0.5, 50_000.5)


def test_fewer_nodes_than_pixels_leave_no_gaps() -> None:
    ax = pk.plot.medians(_medians(_relu(100, 600) + 0.1)).axes[0]
    assert np.asarray(ax.images[0].get_array())[..., 3].any(0).all()


def test_a_thousand_classes_and_three_hundred_sites_are_drawn(tmp_path: Path) -> None:
    many = _medians(_relu(1000, 600), sites=300)
    for name, drawing in {
        "medians": pk.plot.medians(many),
        "heatmap": pk.plot.heatmap(many, "relu7", "median"),
        "by_class": pk.plot.by_class(many, "median"),
        "profile": pk.plot.profile(many, "median"),
    }.items():
        assert drawing.save(tmp_path / f"{name}.svg").stat().st_size < 2_000_000, name


@pytest.mark.parametrize("draw", [pk.plot.profile, pk.plot.by_class, pk.plot.by_step])
def test_each_further_site_is_read_as_often_as_the_others(
    draw: Callable[..., pk.plot.Drawing], monkeypatch: pytest.MonkeyPatch
) -> None:
    reads, of_group = [0], xr.DataTree.data_vars.fget

    def counted(group: xr.DataTree) -> object:
        reads[0] += 1
        return of_group(group)

    def reads_of(sites: int) -> int:
        made = _medians(_relu(3, sites), sites)
        if draw is pk.plot.by_step:
            made = made.map_over_datasets(lambda group: group.expand_dims(step=[0, 1]))
        reads[0] = 0
        draw(made, "median")
        return reads[0]

    monkeypatch.setattr(xr.DataTree, "data_vars", property(counted))
    few, more, many = (reads_of(sites) for sites in (4, 8, 12))
    assert 0 < more - few == many - more
