"""Images of classes by nodes and by sites: what their cells, colours and marks say."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import xarray as xr
from matplotlib.colors import to_hex

import probekit as pk
from probekit.errors import DataError
from tests.plot.trees import aurocs, tree, variable


def _means(*sites: np.ndarray, names: list[str] | None = None, **headline: object) -> xr.DataTree:
    """Results with `mean` at sites 0, 1, …"""
    classes = names or [f"c{code}" for code in range(len(sites[0]))]
    found = {str(n): {"mean": variable(("label", "node"), each, "mean", **headline)} for n, each in enumerate(sites)}
    return tree(found, classes)


def _cells(drawing: pk.plot.Drawing, panel: int = 0) -> np.ma.MaskedArray:
    return drawing.axes[panel].images[0].get_array()


def test_colours_diverge_from_the_neutral_value() -> None:
    image = pk.plot.heatmap(aurocs(), "relu0", "auroc_rest").axes[0].images[0]
    farthest = abs(aurocs()["relu0"]["auroc_rest"].values - 0.5).max()
    assert image.get_cmap().name == "RdBu_r"
    assert (image.norm.vmin, image.norm.vmax) == pytest.approx((0.5 - farthest, 0.5 + farthest))


@pytest.mark.parametrize(("values", "limits"), [([[0.6, 0.9]], (0.5, 0.9)), ([[0.1, 0.4]], (0.1, 0.5))])
def test_values_on_one_side_end_at_the_neutral_value(values: list, limits: tuple[float, float]) -> None:
    image = pk.plot.heatmap(_means(np.array(values * 2), neutral=0.5), "0").axes[0].images[0]
    assert image.get_cmap().name == "viridis"
    assert (image.norm.vmin, image.norm.vmax) == limits


def test_a_strip_marks_the_classes_that_nodes_prefer() -> None:
    values = np.eye(3)[:, [0, 0, 2, 2, 2, 1]]
    values = np.column_stack([values, np.zeros(3)])
    ax = pk.plot.heatmap(_means(values), "0").axes[0]
    (strip,) = ax.child_axes
    spans = [(patch.get_x() + 0.5, patch.get_width(), to_hex(patch.get_facecolor())) for patch in strip.patches]
    red, green, blue = pk.plot.palette(3)
    assert spans == [(0, 2, red), (2, 1, green), (3, 3, blue), (6, 1, "#ffffff")]
    assert [text.get_text() for text in ax.texts] == ["c0", "c1", "c2", "none"]


def test_missing_and_infinite_values_are_grey_and_said() -> None:
    drawing = pk.plot.heatmap(_means(np.array([[1.0, np.nan, 3.0], [np.inf, 2.0, 5.0]])), "0")
    assert _cells(drawing).mask.sum() == 2
    assert drawing.figure.axes[1].get_ylabel() == "mean\n(grey: no value)"


@pytest.mark.parametrize("value", [np.nan, 0.0, 7.0])
def test_a_constant_site_is_drawn(value: float, tmp_path) -> None:
    pk.plot.heatmap(_means(np.full((2, 5), value)), "0").save(tmp_path / "a.png", dpi=30)
    pk.plot.heatmap_grid(_means(np.full((2, 5), value), np.eye(2)), scale="site").save(tmp_path / "b.png", dpi=30)
    pk.plot.by_class(_means(np.full((2, 5), value), np.eye(2)), "mean", scale="site").save(tmp_path / "c.png", dpi=30)


def test_more_nodes_than_can_be_seen_share_columns() -> None:
    values = np.random.default_rng(0).normal(size=(1, 2500))
    values[0, ::50] = np.nan
    cells = _cells(pk.plot.heatmap(_means(values, names=["all"]), "0"))
    order = np.concatenate([np.sort(values[~np.isnan(values)])[::-1], values[np.isnan(values)]])
    # One class: all nodes are flat, and stand by their value.
    edges = [int(start) for start in np.linspace(0, 2500, 1000, endpoint=False)] + [2500]
    chunks = [order[a:b] for a, b in itertools.pairwise(edges)]
    expected = [np.nanmean(each) if np.isfinite(each).any() else np.nan for each in chunks]
    assert cells.shape == (1, 1000)
    np.testing.assert_allclose(cells[0].filled(np.nan), expected)


LARGE, SMALL = np.array([[0.0, 60.0], [30.0, 10.0]]), np.array([[0.0, 6.0], [3.0, 1.0]])


def test_sites_have_scales_of_their_own_where_one_would_flatten_one() -> None:
    grid = pk.plot.heatmap_grid(_means(LARGE, SMALL))
    assert [ax.images[0].norm.vmax for ax in grid.axes] == [60, 6]
    assert [ax.images[0].norm.vmax for ax in pk.plot.heatmap_grid(_means(LARGE, 3 * SMALL)).axes] == [60, 60]
    assert [ax.images[0].norm.vmax for ax in pk.plot.heatmap_grid(_means(LARGE, SMALL), scale="shared").axes] == [
        60
    ] * 2
    assert [ax.images[0].norm.vmax for ax in pk.plot.heatmap_grid(_means(LARGE, 3 * SMALL), scale="site").axes] == [
        60,
        18,
    ]


def test_a_neutral_value_keeps_one_scale() -> None:
    grid = pk.plot.heatmap_grid(_means(LARGE, SMALL, neutral=0.0))
    assert [ax.images[0].norm.vmax for ax in grid.axes] == [60, 60]


def test_by_class_is_what_the_headline_says_of_nodes() -> None:
    results = aurocs()
    expected = np.transpose([results[site]["auroc_rest"].values.max(1) for site in ("relu0", "relu1")])
    np.testing.assert_allclose(_cells(pk.plot.by_class(results, "auroc_rest")), expected)
    means = _means(LARGE, 3 * SMALL)
    np.testing.assert_allclose(
        _cells(pk.plot.by_class(means, "mean", scale="shared")), np.transpose([LARGE.mean(1), 3 * SMALL.mean(1)])
    )


def test_by_class_with_a_scale_a_site_says_its_range() -> None:
    ax = pk.plot.by_class(_means(LARGE, SMALL), "mean", scale="site").axes[0]
    np.testing.assert_allclose(ax.images[0].get_array(), [[1, 1], [0, 0]])
    (above,) = ax.child_axes
    assert [label.get_text() for label in above.get_xticklabels()] == ["20 to 30", "2 to 3"]


def test_a_site_that_lacks_classes_is_grey_there() -> None:
    both = xr.DataTree.from_dict(
        {"a": _means(LARGE)["0"].to_dataset(), "b": _means(SMALL)["0"].to_dataset().isel(label=[0])}
    )
    assert _cells(pk.plot.by_class(both, "mean", scale="shared")).mask.tolist() == [[False, False], [False, True]]


def test_a_wrong_scale_is_refused() -> None:
    with pytest.raises(DataError, match="scale is 'own'; it is 'auto', 'shared' or 'site'"):
        pk.plot.by_class(_means(LARGE), "mean", scale="own")
