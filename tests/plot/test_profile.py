"""Profiles: what stands on the line, in the band, and beside it."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from matplotlib.axes import Axes

import probekit as pk
from probekit.errors import DataError, PluginError
from tests.plot.trees import aurocs, overlaps, tree, variable

SITES = ["relu0", "relu1", "relu2"]


def _band(ax: Axes) -> np.ndarray:
    """The lower and the upper edge of the first band, (2, site)."""
    vertices = ax.collections[0].get_paths()[0].vertices
    edges = {at: vertices[vertices[:, 0] == at, 1] for at in (0, 1, 2)}
    return np.transpose([(each.min(), each.max()) for each in edges.values()])


def test_seeds_are_a_mean_and_a_band_from_the_lowest_to_the_highest() -> None:
    seeds = [overlaps(seed) for seed in range(4)]
    ax = pk.plot.profile({"trained": seeds, "untrained": overlaps(9)}, "overlap").axes[0]
    means = np.array([[each[site]["overlap"].values.mean() for site in SITES] for each in seeds])
    np.testing.assert_allclose(ax.lines[0].get_ydata(), means.mean(0))
    np.testing.assert_allclose(_band(ax), [means.min(0), means.max(0)])
    nulls = np.array([[each[site]["overlap_null"].values.mean() for site in SITES] for each in seeds])
    np.testing.assert_allclose(ax.lines[1].get_ydata(), nulls.mean(0))
    legend = ax.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == [
        *("trained", "untrained", "lowest to highest seed", "shuffled labels", "middle half of values"),
        "neutral: 1",
    ]


def test_the_neutral_value_is_a_dotted_line_through_the_panel() -> None:
    ax = pk.plot.profile(overlaps(), "overlap").axes[0]
    (dotted,) = [line for line in ax.lines if line.get_linestyle() == ":"]
    assert list(dotted.get_ydata()) == [1.0, 1.0]
    assert ax.get_ylim()[1] > 1.0


def test_chance_is_drawn_where_the_headline_names_it() -> None:
    probed = tree(
        {
            site: {
                "linear_probe": variable((), accuracy, "linear_probe", over_nodes=None, beside="linear_probe_chance"),
                "linear_probe_chance": variable((), 0.1, "linear_probe"),
            }
            for site, accuracy in {"a": 0.5, "b": 0.9}.items()
        }
    )
    line, chance = pk.plot.profile(probed, "linear_probe").axes[0].lines
    assert list(line.get_ydata()) == [0.5, 0.9]
    assert (chance.get_linestyle(), list(chance.get_ydata())) == ("--", [0.1, 0.1])


def test_a_headline_of_the_largest_node_is_drawn_without_a_band_of_the_middle_ones() -> None:
    results = aurocs()
    ax = pk.plot.profile(results, "auroc_rest").axes[0]
    expected = [results[site]["auroc_rest"].values.max(1).mean() for site in ("relu0", "relu1")]
    np.testing.assert_allclose(ax.lines[0].get_ydata(), expected)
    assert not ax.collections
    assert ax.get_ylabel() == "auroc rest\n(largest of the nodes)"


def test_one_site_shows_its_band_and_its_null() -> None:
    ax = pk.plot.profile(overlaps(sites=1), "overlap").axes[0]
    dot, null, _ = ax.lines
    assert (dot.get_marker(), null.get_marker()) == ("o", "_")
    values = overlaps(sites=1)["relu0"]["overlap"].values
    (bar,) = ax.collections
    np.testing.assert_allclose(bar.get_segments()[0][:, 1], np.quantile(values, [0.25, 0.75]))


def test_sites_that_are_missing_leave_a_gap() -> None:
    results = overlaps()
    results["relu1"]["overlap"][:] = np.nan
    ax = pk.plot.profile(results, "overlap").axes[0]
    assert np.isnan(ax.lines[0].get_ydata()).tolist() == [False, True, False]
    seeds = pk.plot.profile([results, results], "overlap").axes[0]
    assert np.isnan(seeds.lines[0].get_ydata()).tolist() == [False, True, False]


def test_three_hundred_sites_name_some_and_mark_none() -> None:
    many = tree({f"model.layers.{n}.act": {"sparsity": variable(("node",), np.full(3, 0.5), "s")} for n in range(300)})
    ax = pk.plot.profile(many, "sparsity").axes[0]
    assert ax.lines[0].get_markersize() == 0
    assert 10 <= len(ax.get_xticklabels()) <= 16


@pytest.mark.parametrize(
    ("draw", "kind", "message"),
    [
        (lambda: pk.plot.profile([], "overlap"), DataError, "at least one"),
        (lambda: pk.plot.profile({"a": []}, "overlap"), DataError, "at least one"),
        (lambda: pk.plot.profile([overlaps(), "m.zarr"], "overlap"), DataError, "trees is a str, 'm.zarr'"),
        (
            lambda: pk.plot.profile(xr.DataTree.from_dict({"a": xr.Dataset({"s": ("step", [1.0, 2.0])})}), "s"),
            PluginError,
            r"'s' at site 'a' was measured at 2 steps.*tree\.isel\(step=-1\).*pk\.plot\.by_step",
        ),
    ],
)
def test_what_cannot_be_drawn_says_why(draw, kind, message) -> None:
    with pytest.raises(kind, match=message):
        draw()
