"""Square images: how alike sites are, how alike classes are at a site, and which class is taken for which."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from numbers import Integral
from types import NoneType
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm

from probekit._results.headlines import interval_name
from probekit.errors import DataError, SiteError, check_kind, near
from probekit.plot.drawing import Drawing
from probekit.plot.lookup import class_names, neutral_of, read, root_variable, tells_below
from probekit.plot.scales import MOST_WRITTEN, colour_bar, scale_of, show, write_values
from probekit.plot.style import label_classes, label_columns, label_sites, new_axes, short_site, words

__all__ = ["confusion", "matrix", "pairs"]

Floats = npt.NDArray[np.floating[Any]]

_FEW = 6  # sites, in whose cells there is room for what an interval and a null say
_CELL, _WRITTEN = 0.42, 1.0  # inches of a cell, and of one in which that is written
_P = 0.05  # p-values below it are counted

_STORE = "a captured store, as probekit.open gives it (a DataTree)"


def matrix(
    tree: xr.DataTree, variable: str = "cka", *, sites: Sequence[str] | None = None, ax: Axes | None = None
) -> Drawing:
    """How alike every two sites are, as an image: a variable of the results' root with the dims (site, site_b).

    Up to twelve sites, the values stand in the cells; up to six, with the interval, the mean of the null and the
    p-value below, where they were measured. The title says how far intervals reach, and how many pairs have p < 0.05.

    >>> import numpy as np, xarray as xr
    >>> names = ["relu1", "relu2"]
    >>> root = xr.Dataset({"cka": (("site", "site_b"), np.eye(2))}, {"site": names, "site_b": names})
    >>> matrix(xr.DataTree.from_dict({"/": root})).axes[0].images[0].get_array().tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    data = root_variable(tree, variable, ("site", "site_b"))
    names = [str(name) for name in data["site"].values]
    check_kind("sites", sites, (list, tuple, NoneType), "a list of names of sites")
    for name in sites or ():
        if name not in names:
            raise SiteError(
                f"{variable!r} compares no site {name!r}.{near(name, names)} Its sites: {', '.join(names)}."
            )
    chosen = [names.index(name) for name in sites or names]
    square = np.ix_(chosen, chosen)
    values = data.values[square].astype(float)
    beside = _beside(tree, variable, square)
    written = len(chosen) <= _FEW and bool(beside)
    ax = _square(ax, len(chosen), _WRITTEN if written else _CELL)
    image = show(ax, values, scale_of(values, neutral_of(tree, variable)))
    positions = {names[index]: float(at) for at, index in enumerate(chosen)}
    label_sites(ax.xaxis, positions)
    label_sites(ax.yaxis, positions)
    _write(ax, image, values, _below(values, beside) if written else None)
    ax.set_title("\n".join(_said(tree, variable, beside)), fontsize="small")
    colour_bar(image, [ax], words(variable))
    return Drawing.of(ax)


def _beside(tree: xr.DataTree, variable: str, square: tuple[Any, ...]) -> dict[str, Floats]:
    """What an interval and a null say of each pair of sites, by the endings of their variables."""
    found = {ending: tree.data_vars.get(f"{variable}_{ending}") for ending in ("low", "high", "null", "p")}
    return {
        ending: each.transpose("site", "site_b").values[square].astype(float)
        for ending, each in found.items()
        if each is not None
    }


def _below(values: Floats, beside: Mapping[str, Floats]) -> dict[tuple[int, ...], str]:
    """A line each for the interval, the mean of the null and the p-value of each pair of two sites."""
    text, found = _fixed(values), dict[tuple[int, ...], str]()
    for at in np.ndindex(values.shape):
        known = {ending: float(each[at]) for ending, each in beside.items() if at[0] != at[1] and np.isfinite(each[at])}
        lines = [f"{text(known['low'])} to {text(known['high'])}"] if "low" in known else []
        lines += [f"null {text(known['null'])}"] if "null" in known else []
        lines += [f"p {known['p']:.2g}"] if "p" in known else []
        found[at] = "".join(f"\n{line}" for line in lines)
    return found


def _said(tree: xr.DataTree, variable: str, beside: Mapping[str, Floats]) -> Iterator[str]:
    """How far intervals reach, and how many pairs shuffled labels hardly give."""
    if "low" in beside:
        name = interval_name(float(tree.data_vars[f"{variable}_low"].attrs["confidence"]))
        reach = _of_pairs((beside["high"] - beside["low"]) / 2)
        known = reach[np.isfinite(reach)]
        yield (
            f"{name}: ± {np.median(known):.2g} at the median, ± {known.max():.2g} at most"
            if known.size
            else f"no {name}"
        )
    if "p" in beside:
        p = _of_pairs(beside["p"])
        yield f"p < {_P:g} for {np.sum(p < _P)} of {np.isfinite(p).sum()} pairs"


def _of_pairs(values: Floats) -> Floats:
    """The values of two different sites; each pair counts once, unless it is another the other way round."""
    upper, lower = values[np.triu_indices(len(values), 1)], values.T[np.triu_indices(len(values), 1)]
    return upper if np.array_equal(upper, lower, equal_nan=True) else np.append(upper, lower)


def pairs(
    tree: xr.DataTree, site: str, variable: str = "overlap_pairs", *, node: int | None = None, ax: Axes | None = None
) -> Drawing:
    """How alike every two classes are at a site, as an image: a variable with the dims (label, label_b, node).

    It shows one `node`, counted from 0, or else the mean over the nodes. Where values tell something on both sides of
    the metric's neutral value, as an AUROC of a against b and of b against a do, their mean distance from it is shown
    instead, since they would cancel. The diagonal, where a class meets itself, is left out.

    >>> import numpy as np, xarray as xr
    >>> overlap = xr.DataArray(np.full((2, 2, 3), 0.25), {"label": [0, 1]}, ("label", "label_b", "node"))
    >>> layer = xr.Dataset({"overlap_pairs": overlap})
    >>> drawing = pairs(xr.DataTree.from_dict({"relu1": layer}), "relu1")
    >>> drawing.axes[0].images[0].get_array().tolist()
    [[None, 0.25], [0.25, None]]
    """
    data = read(tree, site, variable, ("label", "label_b", "node"))
    neutral, one_sided = neutral_of(tree, variable), tells_below(tree, variable)
    values, label, neutral = _of_nodes(data, neutral, one_sided, node, site)
    np.fill_diagonal(values, np.nan)
    names = class_names(data)
    ax = _square(ax, len(names))
    image = show(ax, values, scale_of(values, neutral))
    _label_both(ax, names, "class", "class")
    ax.set_title(short_site(site) + ("" if node is None else f" [{node}]"), fontsize="medium")
    _write(ax, image, values)
    colour_bar(image, [ax], label)
    return Drawing.of(ax)


def confusion(tree: xr.DataTree, *, ax: Axes | None = None) -> Drawing:
    """Which class the model takes for which: of the samples of each class (row), the share predicted as each (column).

    `tree` is a store that was captured with predictions. Colours follow the square root of the share, so that rare
    mistakes are seen beside the diagonal; up to twelve classes, the percentages stand in the cells. A class without
    samples is grey.

    Raises DataError if the store has no labels or no predictions.

    >>> import xarray as xr
    >>> columns = xr.Dataset({"label": ("sample", [0, 0, 1, 1]), "prediction": ("sample", [0, 1, 1, 1])})
    >>> confusion(xr.DataTree(columns)).axes[0].images[0].get_array().tolist()
    [[0.5, 0.5], [0.0, 1.0]]
    """
    check_kind("tree", tree, xr.DataTree, _STORE)
    root = tree.to_dataset()
    if "label" not in root or "prediction" not in root:
        lacking = "labels" if "label" not in root else "predictions"
        raise DataError(f"The store has no {lacking}. Capture labelled samples with predictions=True (--predictions).")
    actual, predicted = root["label"].values, root["prediction"].values
    names = list(map(str, root["class_name"].values)) if "class_name" in root else _codes(actual, predicted)
    counts = np.zeros((len(names), len(names)))
    np.add.at(counts, (actual, predicted), 1)
    totals = counts.sum(1, keepdims=True)
    shares = np.where(totals > 0, counts / totals.clip(1), np.nan)
    ax = _square(ax, len(names))
    image = show(ax, shares, (PowerNorm(0.5, 0, 1), colormaps["Blues"].with_extremes(bad="#b5b5b5")))
    _label_both(ax, names, "predicted class", "class")
    accuracy = counts.trace() / counts.sum()
    ax.set_title(f"{counts.sum():.0f} samples, {accuracy:.1%} right", fontsize="medium")
    _write(ax, image, shares, percent=True)
    colour_bar(image, [ax], "share of the class")
    return Drawing.of(ax)


def _codes(*columns: npt.NDArray[Any]) -> list[str]:
    return [str(code) for code in range(1 + max(int(each.max(initial=0)) for each in columns))]


def _square(ax: Axes | None, count: int, cell: float = _CELL) -> Axes:
    side = float(np.clip(1.6 + cell * count, 3.2, 7.0))
    return new_axes(ax, side + 1.0, side)


def _of_nodes(
    data: xr.DataArray, neutral: float | None, one_sided: bool, node: int | None, site: str
) -> tuple[Floats, str, float | None]:
    """The values of one node or of all, what they are, and which of them says nothing."""
    name = words(str(data.name))
    check_kind("node", node, (Integral, NoneType), "the number of a node, or None for all")
    if node is not None:
        if not 0 <= node < data.sizes["node"]:
            raise SiteError(f"Site {site!r} has no node {node}; its nodes are 0 to {data.sizes['node'] - 1}.")
        return data.values[..., node].astype(float), name, neutral
    if neutral is not None and not one_sided and (data < neutral).any() and (data > neutral).any():
        return abs(data - neutral).mean("node").values, f"mean |{name} − {neutral:g}| over nodes", 0.0
    return data.astype(float).mean("node").values, f"{name}, mean over nodes", neutral


def _label_both(ax: Axes, names: Sequence[str], across: str, down: str) -> None:
    label_classes(ax, names)
    label_columns(ax, names)
    ax.set(xlabel=across, ylabel=down)


def _write(
    ax: Axes, image: Any, values: Floats, below: Mapping[tuple[int, ...], str] | None = None, *, percent: bool = False
) -> None:
    """Write the finite values into their cells, where there is room, with what stands `below` some."""
    if len(values) > MOST_WRITTEN:
        return
    text, more = _percent if percent else _fixed(values), below or {}
    finite = {at: text(float(value)) for at, value in np.ndenumerate(values) if np.isfinite(value)}
    write_values(ax, image, {at: value + more.get(at, "") for at, value in finite.items()})


def _percent(share: float) -> str:
    """A share in percent; nothing for none, which leaves the rest of a table in view."""
    return "" if share == 0 else "<1" if share < 0.005 else f"{100 * share:.0f}"


def _fixed(values: Floats) -> Callable[[float], str]:
    """What writes values with the same digits, three for the largest."""
    largest = np.max(np.abs(values), initial=0, where=np.isfinite(values))
    return f"{{:{'.2f' if largest < 10 else '.1f' if largest < 100 else '.3g'}}}".format
