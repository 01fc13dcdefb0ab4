"""Activation distributions of single nodes, class by class, from the bins and atoms of the metric `histogram`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from numbers import Integral

import numpy as np
import numpy.typing as npt
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from probekit.errors import RESULTS, DataError, SiteError, check_kind
from probekit.plot.drawing import Drawing
from probekit.plot.lookup import class_names, read
from probekit.plot.style import INK, label_classes, new_figure, palette, short_site, tidy

__all__ = ["distribution_grid", "distributions", "drawn_cells"]

Floats = npt.NDArray[np.float64]

_TALLEST = 1.5  # rows: the height of a panel's highest density
_TITLE_LENGTH = 38  # characters that fit above a panel
_NARROW = 1e-2  # of the values
_MOST_ROWS = 30  # classes: outlines of more lie over each other
_CERTAIN = 0.85  # of a row: the height of the stem of an atom that holds all of a class


@dataclass(frozen=True)
class _Distribution:
    """One node: `density` (label, cell) over `edges` (cell + 1), and `shares` (label, atom) at the values `atoms`."""

    site: str
    node: int
    classes: list[str]
    edges: Floats
    density: Floats
    atoms: Floats
    shares: Floats
    overall: Floats  # (atom): the share of all samples

    @property
    def limits(self) -> tuple[float, float]:
        """The range of the node's values, with a margin."""
        values = np.concatenate([self.edges, self.atoms])
        low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
        margin = 0.04 * (high - low) or 1.0
        return low - margin, high + margin

    @property
    def is_narrow(self) -> bool:
        """Whether numbers in the range have so many digits that few have room on an axis."""
        low, high = self.limits
        return high - low < _NARROW * max(abs(low), abs(high))

    @property
    def atom_note(self) -> str:
        """The share of the samples that lies on atoms, in a few words."""
        if len(self.atoms) > 2:
            return f"{100 * self.overall.sum():.3g} % on {len(self.atoms)} values"
        return ", ".join(
            f"{100 * share:.3g} % at {atom:.3g}" for atom, share in zip(self.atoms, self.overall, strict=True)
        )


def distributions(tree: xr.DataTree, site: str, nodes: Iterable[int], *, resolution: int = 40) -> Drawing:
    """The activation distribution of every class at chosen `nodes` of one site, with a panel for each node.

    Every class has a row. Its outline is a density, count / (n_c · width), from the bins of the metric `histogram`;
    neighbouring bins are joined until none is narrower than a `resolution`-th of the node's range. The rows of a panel
    share one scale, which its highest density sets, or a uniform density if that is higher.

    A value that many samples share exactly (an atom, such as a ReLU's 0) has no density: a stem at that value shows
    the share of the class's samples there. A stem that nearly reaches the next row stands for all samples of the class.
    The share of all samples is written above the panel. Beyond 30 classes, the rows are an image, darker where the
    density is higher, and a dot at an atom is the larger the larger the share.

    `nodes` count from 0, as in ``isel(node=...)``. Pretorius et al. (2019), figures 3 and 4. Raises SiteError for an
    unknown site or node, PluginError if `histogram` wasn't measured.

    >>> import numpy as np, xarray as xr
    >>> relu1 = xr.Dataset(
    ...     {
    ...         "histogram": (("label", "node", "bin"), [[[1, 3]], [[2, 0]]]),
    ...         "histogram_edges": (("node", "edge"), [[0.1, 0.5, 1.0]]),
    ...         "histogram_atoms": (("label", "node", "atom"), [[[0]], [[6]]]),
    ...         "histogram_atom": (("node", "atom"), [[0.0]]),
    ...     },
    ...     {"label": [0, 1]},
    ... )
    >>> [ax.get_title("right") for ax in distributions(xr.DataTree.from_dict({"relu1": relu1}), "relu1", [0]).axes]
    ['50 % at 0']
    """
    return distribution_grid(tree, {site: nodes}, resolution=resolution)


def distribution_grid(tree: xr.DataTree, rows: Mapping[str, Iterable[int]], *, resolution: int = 40) -> Drawing:
    """`distributions` at several sites: `rows` gives for each site the nodes of its row of panels.

    A shallow, a middle and a deep layer of a four-layer network, as in figures 3 and 4 of Pretorius et al. (2019):
    ``distribution_grid(tree, {"act1": [3, 40, 7], "act2": [5, 8, 120], "act4": [9, 1, 77]})``.
    """
    check_kind("tree", tree, xr.DataTree, RESULTS)
    check_kind("rows", rows, Mapping, "the nodes of each site, {site: [node, ...]}")
    check_kind("resolution", resolution, Integral, "a number of cells, from 1 on")
    if resolution < 1:
        raise DataError(f"resolution is {resolution}; it is at least 1.", arguments=("resolution",))
    for nodes in rows.values():
        check_kind("nodes", nodes, Iterable, "nodes of a site, such as [0, 3]")
    grid = [[_distribution(tree, site, node, resolution) for node in nodes] for site, nodes in rows.items()]
    columns = max(map(len, grid), default=0)
    if columns == 0:
        raise SiteError("There are no nodes to draw: give each site at least one, as {site: [node, ...]}.")
    height = 0.6 + float(np.clip(0.19 * len(next(panel for row in grid for panel in row).classes), 0.8, 3.2))
    figure = new_figure(0.6 + 2.8 * columns, 0.3 + height * len(grid))
    drawn = []
    for row, panels in enumerate(grid):
        for column, panel in enumerate(panels):
            ax = figure.add_subplot(len(grid), columns, row * columns + column + 1)
            _draw_panel(ax, panel)
            drawn.append(ax)
            # The offset of long numbers stands to the right.
            ax.set_xlabel("activation" if row == len(grid) - 1 else "", loc="left" if panel.is_narrow else "center")
            if column:
                ax.tick_params(labelleft=False)
            else:
                ax.set_ylabel("class")
    return Drawing.of(*drawn)


def _distribution(tree: xr.DataTree, site: str, node: int, resolution: int) -> _Distribution:
    """The distribution of one node, read from the tree and joined into cells."""
    histogram = read(tree, site, "histogram", ("label", "node", "bin"))
    check_kind("nodes", node, Integral, "numbers of nodes, such as [0, 3]")
    if not 0 <= node < histogram.sizes["node"]:
        raise SiteError(f"Site {site!r} has no node {node}; its nodes are 0 to {histogram.sizes['node'] - 1}.")
    values = read(tree, site, "histogram_atom", ("node", "atom")).values[node].astype(float)
    on_atoms = read(tree, site, "histogram_atoms", ("label", "node", "atom")).values[:, node].astype(float)
    edges = read(tree, site, "histogram_edges", ("node", "edge")).values[node].astype(float)
    if np.isinf(edges).any() or np.isinf(values).any():
        raise DataError(f"Node {node} of site {site!r} has infinite values; its distribution can't be drawn.")
    counts = histogram.values[:, node].astype(float)
    edges, counts, values, on_atoms = drawn_cells(edges, counts, values, on_atoms, resolution)
    total = counts.sum(1) + on_atoms.sum(1)
    per_class = np.where(total > 0, total, np.nan)[:, None]
    return _Distribution(
        site=site,
        node=node,
        classes=class_names(histogram),
        edges=edges,
        density=counts / per_class / np.diff(edges),
        atoms=values,
        shares=on_atoms / per_class,
        overall=on_atoms.sum(0) / total.sum(),
    )


def drawn_cells(
    edges: Floats, counts: Floats, atoms: Floats, on_atoms: Floats, resolution: int
) -> tuple[Floats, Floats, Floats, Floats]:
    """The same four of one node as they are drawn: without missing ones, and neighbouring bins joined.

    `edges` (edge) have `counts` (label, bin) between them, and the `atoms` (atom) have `on_atoms` (label, atom).
    """
    edges = edges[~np.isnan(edges)]
    counts = counts[:, : max(len(edges) - 1, 0)]
    atoms, on_atoms = atoms[~np.isnan(atoms)], on_atoms[:, ~np.isnan(atoms)]
    if len(edges) and edges[0] == edges[-1]:  # bins without width are one value
        atoms, on_atoms = np.append(atoms, edges[0]), np.column_stack([on_atoms, counts.sum(1)])
        edges, counts = edges[:0], counts[:, :0]
    edges, counts = _join_narrow(edges, counts, resolution)
    return edges, counts, atoms, on_atoms


def _join_narrow(edges: Floats, counts: Floats, resolution: int) -> tuple[Floats, Floats]:
    """The same counts in cells of neighbouring bins, each at least a `resolution`-th of the range wide."""
    if len(edges) == 0:
        return edges, counts
    least = (edges[-1] - edges[0]) / resolution * (1 - 1e-9)
    kept = [0]
    for index in range(1, len(edges) - 1):
        if edges[index] - edges[kept[-1]] >= least and edges[-1] - edges[index] >= least:
            kept.append(index)
    return edges[[*kept, len(edges) - 1]], np.add.reduceat(counts, kept, axis=1)


def _draw_panel(ax: Axes, panel: _Distribution) -> None:
    """Draw one node: a row for each class, the first on top, with its outline and the stems of its atoms."""
    count = len(panel.classes)
    low, high = panel.limits
    scale = _TALLEST / np.nanmax(panel.density, initial=1 / (high - low))
    if count > _MOST_ROWS:
        _draw_image(ax, panel)
        top = count - 0.5
    else:
        for index, colour in enumerate(palette(count)):
            _draw_class(ax, panel, index, count - 1 - index, scale, colour)
        top = count - 1 + _TALLEST + 0.1
    tidy(ax)
    ax.set(xlim=(low, high), ylim=(-0.5 if count > _MOST_ROWS else -0.25, top))
    label_classes(ax, panel.classes, reverse=True)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.xaxis.set_major_locator(MaxNLocator(2 if panel.is_narrow else 5, steps=[1, 2, 2.5, 5, 10]))
    ax.xaxis.get_offset_text().set_fontsize("x-small")
    name = f"{short_site(panel.site)} [{panel.node}]"
    below = "\n" if len(name) + len(panel.atom_note) > _TITLE_LENGTH else ""  # makes room for the note under the name
    ax.set_title(name + below, fontsize="small", loc="left")
    ax.set_title(panel.atom_note, fontsize="x-small", loc="right", color=INK)


def _draw_image(ax: Axes, panel: _Distribution) -> None:
    """Draw the rows of many classes as an image, darker where the density is higher, with a dot for each atom."""
    rows = np.arange(len(panel.classes))[::-1]
    if panel.edges.size:
        density = np.ma.masked_invalid(panel.density[::-1])
        ax.pcolormesh(panel.edges, np.arange(len(rows) + 1) - 0.5, density, cmap="Blues", vmin=0, rasterized=True)
    size = (
        ax.get_window_extent().height * 72 / ax.figure.dpi / len(rows) / 2
    ) ** 2  # of a dot that stands for all samples of a class
    for atom, shares in zip(panel.atoms, panel.shares.T, strict=True):
        ax.scatter(np.full(len(rows), atom), rows, s=size * np.nan_to_num(shares), color=INK, linewidths=0, zorder=3)


def _draw_class(ax: Axes, panel: _Distribution, index: int, base: int, scale: float, colour: str) -> None:
    """Draw the row of one class on the height `base`, in front of the rows above it."""
    front = 2 + index
    if panel.edges.size:
        heights = base + scale * panel.density[index]
        outline = ax.stairs(heights, panel.edges, baseline=base, fill=True, zorder=front)
        outline.set(facecolor=(colour, 0.3), edgecolor=colour, linewidth=1.1)
    present = panel.shares[index] > 0
    atoms, tops = panel.atoms[present], base + _CERTAIN * panel.shares[index, present]
    ax.vlines(atoms, base, tops, color=colour, linewidth=2.2, zorder=front)
    ax.plot(atoms, tops, "o", color=colour, markersize=4.5, mec="white", mew=0.5, zorder=front)
