"""Figures: what is drawn is what was measured."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot
import numpy as np
import numpy.typing as npt
import pytest
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import StepPatch

import probekit as pk
from probekit.errors import ProbekitError

Array = npt.NDArray[Any]

NAMES = ["zero", "one", "two"]


def measured(
    samples: Mapping[str, Array], labels: Array, names: list[str] | None = None, bins: int = 32
) -> xr.DataTree:
    """Results of the shape that `measure` gives, computed with numpy alone."""
    classes = np.unique(labels)
    coords = {"label": classes, "class_name": ("label", names or [f"digit {code}" for code in classes])}
    return xr.DataTree.from_dict(
        {site: xr.Dataset(_moments(x, labels) | _histogram(x, labels, bins), coords) for site, x in samples.items()}
    )


def _by_class(x: Array, labels: Array) -> list[Array]:
    return [x[labels == code] for code in np.unique(labels)]


def _moments(x: Array, labels: Array) -> dict[str, object]:
    groups = _by_class(x, labels)
    sparsity = np.stack([(group <= 0).mean(0) for group in groups])
    return {
        "median": (("label", "node"), np.stack([np.median(group, axis=0) for group in groups])),
        "mean": (("label", "node"), np.stack([group.mean(0, dtype=np.float64) for group in groups])),
        "sparsity": (("label", "node"), sparsity),
        "sparsity_node": (("node",), (x <= 0).mean(0)),
        "sparsity_site": ((), (x <= 0).mean()),
    }


def _histogram(x: Array, labels: Array, bins: int) -> dict[str, object]:
    """Values that 1 % of a node's samples share, and `bins` bins of equal mass for the others."""
    groups, nodes = _by_class(x, labels), x.shape[1]
    shared = [values[repeats >= max(2, len(x) / 100)] for values, repeats in map(_repeats, x.T)]
    atom = np.full((nodes, max(map(len, shared))), np.nan)
    edges = np.full((nodes, bins + 1), np.nan)
    counts = np.zeros((len(groups), nodes, bins), np.int64)
    on_atoms = np.zeros((len(groups), *atom.shape), np.int64)
    for node, values in enumerate(shared):
        atom[node, : len(values)] = values
        free = [group[~np.isin(group[:, node], values), node] for group in groups]
        if sum(map(len, free)):
            cuts = np.unique(np.quantile(np.concatenate(free), np.linspace(0, 1, bins + 1)))
            edges[node, : len(cuts)] = cuts
            counts[:, node, : len(cuts) - 1] = [np.histogram(rest, cuts)[0] for rest in free]
        on_atoms[:, node, : len(values)] = [[(group[:, node] == value).sum() for value in values] for group in groups]
    return {
        "histogram": (("label", "node", "bin"), counts),
        "histogram_edges": (("node", "edge"), edges),
        "histogram_atoms": (("label", "node", "atom"), on_atoms),
        "histogram_atom": (("node", "atom"), atom),
    }


def _repeats(column: Array) -> tuple[Array, Array]:
    return np.unique(column, return_counts=True)


def _samples(activation: str) -> tuple[dict[str, Array], Array]:
    """Two layers of 30 and 20 nodes, three classes of unequal size; the ReLU's node 0 of `act1` is dead."""
    random = np.random.default_rng(7)
    labels = np.repeat([0, 1, 2], [200, 300, 250])
    z = {site: random.normal(random.normal(size=(3, n))[labels], 1.0) for site, n in (("act1", 30), ("act2", 20))}
    z["act1"][:, 0] = -1
    if activation == "relu":
        return {site: np.maximum(x, 0).astype(np.float32) for site, x in z.items()}, labels
    return {site: (1 / (1 + np.exp(-4 * x))).astype(np.float32) for site, x in z.items()}, labels


def _tree(activation: str = "relu") -> xr.DataTree:
    return measured(*_samples(activation), NAMES)


RELU, SIGMOID = _tree("relu"), _tree("sigmoid")


def _dots(ax: Axes) -> dict[str, set[tuple[int, float]]]:
    """What the scatter holds, by colour."""
    (dots,) = [artist for artist in ax.collections if isinstance(artist, PathCollection)]
    found: dict[str, set[tuple[int, float]]] = {colour: set() for colour in pk.plot.palette(3)}
    for (node, value), face in zip(dots.get_offsets(), dots.get_facecolors(), strict=True):
        (colour,) = [colour for colour in found if np.allclose(to_rgb(colour), face[:3])]
        found[colour].add((round(node), float(value)))
    return found


@pytest.mark.parametrize("tree", [RELU, SIGMOID], ids=["relu", "sigmoid"])
def test_medians_draw_a_dot_for_every_median_but_those_at_zero(tree: xr.DataTree) -> None:
    values = np.concatenate([tree[site]["median"].values for site in ("act1", "act2")], axis=1)
    expected = [{(node + 1, float(v)) for node, v in enumerate(row) if v != 0} for row in values]
    assert list(_dots(pk.plot.medians(tree).axes[0]).values()) == expected


def test_no_class_lies_on_top_at_every_node() -> None:
    (dots,) = [artist for artist in pk.plot.medians(SIGMOID).axes[0].collections if isinstance(artist, PathCollection)]
    on_top = dict(zip(np.round(dots.get_offsets()[:, 0]), map(tuple, dots.get_facecolors()), strict=True))
    counts = list(Counter(on_top.values()).values())
    assert len(counts) == 3
    assert max(counts) - min(counts) <= 1


def test_medians_show_the_share_of_classes_at_zero() -> None:
    values = np.concatenate([RELU[site]["median"].values for site in ("act1", "act2")], axis=1)
    (strip,) = [child for child in pk.plot.medians(RELU).axes[0].child_axes if child.patches]
    (steps,) = strip.patches
    assert isinstance(steps, StepPatch)
    np.testing.assert_allclose(steps.get_data().values, (values == 0).mean(0))
    np.testing.assert_allclose(steps.get_data().edges, np.arange(51) + 0.5)
    assert steps.get_data().values[0] == 1  # the dead node
    assert not any(child.patches for child in pk.plot.medians(SIGMOID).axes[0].child_axes)


def test_medians_leave_out_missing_classes_and_keep_zero_inside_the_limits() -> None:
    tree = RELU.copy(deep=True)
    tree["act1"]["median"][1] = np.nan
    ax = pk.plot.medians(tree, sites=["act1"]).axes[0]
    assert _dots(ax)[pk.plot.palette(3)[1]] == set()
    low, high = ax.get_ylim()
    assert low < 0 < float(tree["act1"]["median"].max()) < high


def test_medians_mark_and_name_the_sites_in_the_order_asked_for() -> None:
    ax = pk.plot.medians(RELU, sites=["act2", "act1"]).axes[0]
    assert [list(line.get_xdata()) for line in ax.lines] == [[20.5, 20.5]]
    assert _top_names(ax) == ["act2", "act1"]
    assert ax.get_xlim() == (0.5, 50.5)
    np.testing.assert_allclose(_top_axis(ax).get_xticks(), [10.5, 35.5])


def _top_axis(ax: Axes) -> Any:
    return next(child for child in ax.child_axes if not child.patches)


def _top_names(ax: Axes) -> list[str]:
    return [label.get_text() for label in _top_axis(ax).get_xticklabels()]


def test_medians_draw_on_the_axes_given_and_any_variable_by_label_and_node() -> None:
    mine = Figure().add_subplot()
    assert pk.plot.medians(SIGMOID, variable="mean", ax=mine, legend=False).axes == (mine,)
    assert mine.get_ylabel() == "mean"
    assert mine.get_legend() is None
    assert {value for _, value in _dots(mine)[pk.plot.palette(3)[0]]} == {
        float(v) for site in ("act1", "act2") for v in SIGMOID[site]["mean"].values[0]
    }


def test_the_legend_names_the_classes_in_their_colours() -> None:
    legend = pk.plot.medians(RELU).axes[0].get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == NAMES
    assert [handle.get_color() for handle in legend.legend_handles] == pk.plot.palette(3)


def test_a_grid_of_medians_has_a_panel_for_each_result_and_one_legend() -> None:
    drawing = pk.plot.medians_grid({"untrained": SIGMOID, "trained": RELU, "again": RELU}, columns=2)
    assert [ax.get_title() for ax in drawing.axes] == ["untrained", "trained", "again"]
    assert [_dots(ax) for ax in drawing.axes] == [
        _dots(pk.plot.medians(tree).axes[0]) for tree in (SIGMOID, RELU, RELU)
    ]
    assert len(drawing.figure.legends) == 1
    assert not any(ax.get_legend() for ax in drawing.axes)


def _rows(ax: Axes) -> tuple[Array, Array]:
    """The outlines of a panel: the edges of the cells, and the heights above each class's base."""
    steps = [patch.get_data() for patch in ax.patches if isinstance(patch, StepPatch)]
    return steps[0].edges, np.array([step.values - step.baseline for step in steps])


@pytest.mark.parametrize("resolution", [8, 40, 10**6])
@pytest.mark.parametrize("activation", ["relu", "sigmoid"])
def test_outlines_are_the_densities_of_the_samples(activation: str, resolution: int) -> None:
    samples, labels = _samples(activation)
    tree = RELU if activation == "relu" else SIGMOID
    for ax, node in zip(pk.plot.distributions(tree, "act2", [3, 17], resolution=resolution).axes, [3, 17], strict=True):
        edges, heights = _rows(ax)
        groups = [samples["act2"][labels == code, node].astype(float) for code in range(3)]
        density = [np.histogram(x[x != 0], edges)[0] / len(x) / np.diff(edges) for x in groups]
        np.testing.assert_allclose(heights / heights.max(), density / np.max(density), rtol=1e-9, atol=1e-12)
        assert np.diff(edges).min() >= np.ptp(edges) / resolution * (1 - 1e-6)
        assert ax.get_title("left") == f"act2 [{node}]"


def test_equal_width_bins_are_drawn_as_they_are() -> None:
    samples, labels = _samples("sigmoid")
    tree, x = SIGMOID.copy(deep=True), samples["act2"][:, 5].astype(float)
    edges = np.linspace(0, 1, 33)
    tree["act2"]["histogram_edges"][5] = edges
    tree["act2"]["histogram"][:, 5] = [np.histogram(x[labels == code], edges)[0] for code in range(3)]
    drawn, heights = _rows(pk.plot.distributions(tree, "act2", [5]).axes[0])
    np.testing.assert_allclose(drawn, edges)
    counts = tree["act2"]["histogram"].values[:, 5] / np.array([[200], [300], [250]])
    np.testing.assert_allclose(heights / heights.max(), counts / counts.max())


def test_stems_are_the_share_of_each_class_at_zero() -> None:
    samples, labels = _samples("relu")
    dead, alive = pk.plot.distributions(RELU, "act1", [0, 4]).axes
    full = _stems(dead)
    np.testing.assert_allclose(_stems(alive) / full, [(samples["act1"][labels == c, 4] == 0).mean() for c in range(3)])
    assert np.ptp(full) < 1e-12
    assert dead.get_title("right") == "100 % at 0"
    assert alive.get_title("right") == f"{100 * (samples['act1'][:, 4] == 0).mean():.3g} % at 0"
    assert not [patch for patch in dead.patches if isinstance(patch, StepPatch)]


def _stems(ax: Axes) -> Array:
    """Heights of the stems at 0, in the order of the classes."""
    segments = [path.vertices for stems in ax.collections for path in stems.get_paths()]
    assert all((segment[:, 0] == 0).all() for segment in segments)
    return np.array([np.ptp(segment[:, 1]) for segment in segments])


def test_a_bin_without_width_is_drawn_as_an_atom() -> None:
    tree = RELU.copy(deep=True)
    edges = tree["act2"]["histogram_edges"]
    edges[3] = np.nan
    edges[3, :2] = 0.5
    tree["act2"]["histogram"][:, 3, 1:] = 0
    ax = pk.plot.distributions(tree, "act2", [3]).axes[0]
    assert {float(x) for line in ax.lines for x in line.get_xdata()} == {0.0, 0.5}


def test_a_class_without_samples_has_an_empty_row() -> None:
    tree = SIGMOID.copy(deep=True)
    tree["act2"]["histogram"][1] = 0
    tree["act2"]["histogram_atoms"][1] = 0
    _, heights = _rows(pk.plot.distributions(tree, "act2", [3]).axes[0])
    assert np.isnan(heights).all(axis=1).tolist() == [False, True, False]


def test_a_grid_of_distributions_has_a_row_for_each_site() -> None:
    figure = pk.plot.distribution_grid(RELU, {"act1": [3, 4, 9], "act2": [0, 1]})
    assert [ax.get_title("left") for ax in figure.axes] == ["act1 [3]", "act1 [4]", "act1 [9]", "act2 [0]", "act2 [1]"]
    assert len({round(ax.get_position().y0, 3) for ax in figure.axes}) == 2
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == NAMES


def test_a_profile_is_the_mean_over_nodes_with_the_middle_half() -> None:
    (line,) = (ax := pk.plot.profile(RELU, "sparsity_node").axes[0]).lines
    values = [RELU[site]["sparsity_node"].values for site in ("act1", "act2")]
    np.testing.assert_allclose(line.get_ydata(), [v.mean() for v in values])
    band = ax.collections[0].get_paths()[0].vertices[:, 1]
    np.testing.assert_allclose(
        sorted(set(np.round(band, 9))),
        np.sort(np.quantile(values[0], [0.25, 0.75]).tolist() + np.quantile(values[1], [0.25, 0.75]).tolist()).round(9),
    )
    assert [label.get_text() for label in ax.get_xticklabels()] == ["act1", "act2"]


def test_a_profile_of_several_results_shows_each_and_its_null() -> None:
    with_null = RELU.copy(deep=True)
    for site in ("act1", "act2"):
        with_null[site]["mean_null"] = with_null[site]["mean"] * 0 + 0.25
    shorter = xr.DataTree.from_dict({"act2": SIGMOID["act2"].to_dataset()})
    ax = pk.plot.profile({"trained": with_null, "_short": shorter}, "mean").axes[0]
    first, null, second = ax.lines
    np.testing.assert_allclose(first.get_ydata(), [float(RELU[site]["mean"].mean()) for site in ("act1", "act2")])
    assert (null.get_linestyle(), null.get_color(), list(null.get_ydata())) == ("--", first.get_color(), [0.25, 0.25])
    assert list(second.get_xdata()) == [1]
    legend = ax.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == [
        *("trained", "_short", "middle half of values", "shuffled labels")
    ]


def test_a_profile_of_one_number_a_site_has_no_band() -> None:
    ax = pk.plot.profile(RELU, "sparsity_site").axes[0]
    assert not ax.collections
    assert ax.get_legend() is None


def test_a_heatmap_orders_nodes_by_preferred_class() -> None:
    (image,) = pk.plot.heatmap(RELU, "act1").axes[0].images
    drawn, values = np.asarray(image.get_array()), RELU["act1"]["mean"].values
    assert sorted(map(tuple, drawn.T)) == sorted(map(tuple, values.T))
    assert not drawn[:, -1].any()  # the dead node
    preferred = drawn[:, :-1].argmax(0)
    assert (np.diff(preferred) >= 0).all()
    for code in range(3):
        assert (np.diff(drawn[code, :-1][preferred == code]) <= 0).all()


def _other_classes() -> xr.DataTree:
    """Results of which two sites have their own classes, as many as each other."""
    named = {"act1": ["a", "b", "c"], "act2": ["d", "e", "f"]}
    sites = {site: RELU[site].to_dataset().assign_coords(class_name=("label", names)) for site, names in named.items()}
    return xr.DataTree.from_dict(sites)


@pytest.mark.parametrize(
    ("draw", "kind", "message"),
    [
        (lambda: pk.plot.medians(RELU, sites=["act3"]), "SiteError", "no site 'act3'. Near: 'act2'"),
        (lambda: pk.plot.medians(RELU, sites=[]), "SiteError", "act1, act2"),
        (lambda: pk.plot.medians(RELU, variable="std"), "PluginError", r"pk.measure\(store, \['std'\]\)"),
        (
            lambda: pk.plot.medians(RELU, variable="histogram"),
            "PluginError",
            r"dims \(label, node, bin\).*dims \(label, node\)",
        ),
        (lambda: pk.plot.profile(RELU, "overlap_max"), "PluginError", r"measured there: median, .*\['overlap'\]"),
        (lambda: pk.plot.profile({}, "overlap"), "DataError", "at least one"),
        (lambda: pk.plot.medians_grid({}), "DataError", "at least one"),
        (lambda: pk.plot.medians(_other_classes()), "DataError", "site 'act2' are d, e, f, .* 'act1' a, b, c"),
        (lambda: pk.plot.medians_grid({"x": RELU, "y": _other_classes()}), "DataError", "one legend can't stand"),
        (lambda: pk.plot.heatmap(RELU, "Act1", "medain"), "SiteError", "Near: 'act1'"),
        (lambda: pk.plot.heatmap(RELU, "act1", "medain"), "PluginError", "Near: 'median'"),
        (lambda: pk.plot.distributions(RELU, "act1", [30]), "SiteError", "no node 30; its nodes are 0 to 29"),
        (lambda: pk.plot.distributions(RELU, "act1", [-1]), "SiteError", "node -1"),
        (lambda: pk.plot.distributions(RELU, "act1", []), "SiteError", "no nodes to draw"),
        (lambda: pk.plot.distributions(RELU.filter(lambda node: False), "act1", [0]), "SiteError", "no site"),
    ],
)
def test_errors_say_what_is_there_and_what_to_do(draw: Any, kind: str, message: str) -> None:
    with pytest.raises(ProbekitError, match=message) as caught:
        draw()
    assert type(caught.value).__name__ == kind


def test_distributions_without_histogram_say_how_to_measure_it() -> None:
    tree = xr.DataTree.from_dict({"act1": RELU["act1"].to_dataset().drop_vars("histogram")})
    with pytest.raises(pk.errors.PluginError, match=r"no 'histogram' at site 'act1'.*\['histogram'\]"):
        pk.plot.distributions(tree, "act1", [0])


def test_nothing_reaches_pyplot_and_every_figure_renders_whatever_the_names() -> None:
    before = matplotlib.pyplot.get_fignums()
    tree = xr.DataTree.from_dict({"fc$1$": RELU["act1"].to_dataset(), "x" * 70: RELU["act2"].to_dataset()})
    tree = tree.map_over_datasets(
        lambda data: data.assign_coords(class_name=("label", ["$\\frac{x", "_", "n" * 99])) if data else data
    )
    drawings = [
        pk.plot.medians(tree),
        pk.plot.medians_grid({"$a": tree, "_b": tree}),
        pk.plot.distributions(tree, "fc$1$", [0, 1]),
        pk.plot.profile({"$a": tree, "_b": tree}, "mean"),
        pk.plot.heatmap(tree, "fc$1$"),
    ]
    for drawing in drawings:
        file = io.BytesIO()
        drawing.figure.savefig(file, dpi=30)
        assert file.getvalue().startswith(b"\x89PNG")
    assert matplotlib.pyplot.get_fignums() == before


def test_a_site_that_lacks_the_last_class_has_no_dots_of_it() -> None:
    sites = {"act1": RELU["act1"].to_dataset(), "act2": RELU["act2"].to_dataset().isel(label=[0, 1])}
    both = xr.DataTree.from_dict({name: site[["median"]] for name, site in sites.items()})
    dots, width = _dots(pk.plot.medians(both).axes[0]), RELU["act1"].sizes["node"]
    beyond = [{dot for dot in of_class if dot[0] > width} for of_class in dots.values()]
    assert [len(each) > 0 for each in beyond] == [True, True, False]
    assert any(node <= width for node, _ in list(dots.values())[2])


def test_results_without_labels_are_drawn_as_one_class() -> None:
    tree = xr.DataTree.from_dict({"act1": RELU["act1"].to_dataset().isel(label=0).drop_vars(["label", "class_name"])})
    ax = pk.plot.medians(tree).axes[0]
    assert ax.get_legend() is None
    values = RELU["act1"]["median"].values[0]
    assert set().union(*_dots(ax).values()) == {(node + 1, float(v)) for node, v in enumerate(values) if v != 0}
    panel, same = (pk.plot.distributions(results, "act1", [4]).axes[0] for results in (tree, RELU))
    assert [label.get_text() for label in panel.get_yticklabels()] == ["all"]
    heights, first = _rows(panel)[1][0], _rows(same)[1][0]
    np.testing.assert_allclose(heights / heights.max(), first / first.max())


def test_infinite_values_are_refused_by_name() -> None:
    tree = RELU.copy(deep=True)
    tree["act1"]["histogram_edges"][4, 32] = np.inf
    with pytest.raises(pk.errors.DataError, match="Node 4 of site 'act1'"):
        pk.plot.distributions(tree, "act1", [4])


def test_many_classes_get_a_colour_bar() -> None:
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(25), 8)
    tree = measured({"fc": random.normal(size=(200, 6))}, labels)
    _, bar = pk.plot.medians(tree).figure.axes
    assert [label.get_text() for label in bar.get_yticklabels()] == [f"digit {code}" for code in range(0, 25, 2)]
    assert len(set(pk.plot.palette(25))) == 25


# Machado, Oliveira and Fernandes (2009): what the three dichromacies make of linear RGB.
VISION = {
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
XYZ = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.072175], [0.0193339, 0.119192, 0.9503041]])


@pytest.mark.parametrize("vision", VISION)
def test_ten_colours_differ_for_every_eye_and_from_paper(vision: str) -> None:
    rgb = np.array([to_rgb(colour) for colour in [*pk.plot.palette(10), "white"]])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = np.clip(linear @ np.transpose(VISION[vision]), 0, 1) @ XYZ.T / XYZ.sum(1)
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    lab = np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)
    distance = np.linalg.norm(lab[:, None] - lab, axis=-1)
    assert distance[~np.eye(11, dtype=bool)].min() > 28
