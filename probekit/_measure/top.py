"""The nodes that tell a class best, over all sites, and the samples to which they answer most."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from probekit._measure.top_samples import TopSamples, check_number, samples_of
from probekit._probe.selectors import Selector
from probekit._results.headlines import headlines_of
from probekit._results.summary import check_results, sites_of
from probekit._store.class_names import places_of
from probekit._table import ShownAsTable, Table
from probekit.errors import DataError, check_kind, near
from probekit.metrics import Headline
from probekit.metrics.block import Array

__all__ = ["Top", "TopNode", "top"]

_BESIDE = ("low", "high", "q")  # what an interval and a null say of a node
_KINDS = ({"label", "node"}, {"node"})  # dims of variables with a value for each node, the better first


@dataclass(frozen=True)
class TopNode:
    """A node among the best: of the class `label` called `class_name`, or of all samples where both are None.

    `low`, `high` and `q` are the ends of the value's interval and its q-value, None where they weren't measured. The
    interval is that of a node whatever its value: it doesn't allow for the choice of the best of many, as q does.
    """

    class_name: str | None
    label: Any
    site: str
    node: int
    value: float
    low: float | None = None
    high: float | None = None
    q: float | None = None


@dataclass(frozen=True, repr=False)
class Top(ShownAsTable):
    """The best nodes of each class: what `probekit.top` gives.

    Attributes:
        nodes: a `TopNode` for each row of the table, the best of a class first.
        variable: the measured variable that they are the best by.
        smallest: whether small values are the best.
        positions: how each site's positions were measured, by its name.
        left_out: the names of the classes of which no node has a value, since all are NaN.
        missing: why values may be NaN, as the metric's headline says it.
        repeated: sites left out because each of their nodes has the values of another site's, which stands behind them:
            ``{"(root)": "fc"}``.
    """

    nodes: tuple[TopNode, ...]
    variable: str
    smallest: bool
    positions: Mapping[str, str]
    left_out: tuple[str, ...] = ()
    missing: str = ""
    repeated: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def table(self) -> Table:
        which = "smallest" if self.smallest else "largest"
        title = ". ".join([f"The nodes with the {which} {self.variable}", *self._notes()])
        columns = {"class": "class_name", "code": "label"}
        if all(node.class_name is None for node in self.nodes):
            columns = {}
        known = (name for name in _BESIDE if any(getattr(node, name) is not None for node in self.nodes))
        columns |= {name: name for name in ("site", "node", "value", *known)}
        return Table(
            title, tuple(columns), [tuple(getattr(each, name) for name in columns.values()) for each in self.nodes]
        )

    def _notes(self) -> Iterator[str]:
        """What isn't there, and why."""
        if self.repeated:
            named = (f"{site}, with the values of {other}" for site, other in self.repeated.items())
            yield f"Left out: {'; '.join(named)}"
        if self.left_out:
            why = f"; {self.missing}" if self.missing else ""
            yield f"No node has a value for {', '.join(self.left_out)}: all are NaN{why}"

    def to_dataframe(self) -> pd.DataFrame:
        return pd.DataFrame(map(asdict, self.nodes), columns=[field.name for field in fields(TopNode)])

    def samples(self, store: str | Path | xr.DataTree, n: int = 8, *, data: Any = None) -> TopSamples:
        """The samples to which each of these nodes answers most, with what the store knows of them.

        All samples of the store compete, of whatever class. Positions of feature maps are pooled as they were when
        the nodes were measured, or by their largest value if each counted. At sites of tokens the rows are tokens.

        Args:
            store: the store that was measured, as a path or open.
            n: the number of samples for each node.
            data: the data set that was captured, indexed like the store's samples. Each sample then has its `input`.

        Raises:
            DataError: the data aren't those of the store, or `n` isn't a number of samples.
            SiteError: the store lacks a site.

        Example:
            >>> best = pk.top(m, by="auroc", per_class=1)  # doctest: +SKIP
            >>> best.samples("acts.zarr", n=4)  # doctest: +SKIP
        """
        return samples_of([(node.site, node.node) for node in self.nodes], store, n, data, self.positions)


def top(
    measured: xr.DataTree,
    by: str = "auroc",
    *,
    per_class: int = 3,
    classes: Any = None,
    sites: Selector | None = None,
    smallest: bool | None = None,
) -> Top:
    """The nodes that tell each class best, over all sites, by a metric with a value for each class and node.

    By a metric with one value for each node alone, such as ``dprime``, they are the best of all nodes, without a class;
    by ``selectivity``, the best among the nodes that prefer the class. NaN are left out. Of equal values the earlier
    site and the lower node come first. A site with the same values as an earlier one, as the whole model has those of
    its last layer, is left out, which the result says. Results at several steps are taken at the last one.

    Args:
        measured: what `probekit.measure` or `probekit.measure_live` gave, or such a store as xarray opens it.
        by: the name of a measured metric, or of one of its variables.
        per_class: the number of nodes for each class.
        classes: names or codes of classes; by default all.
        sites: a glob, a regex or a list of them; by default all sites.
        smallest: whether the smallest values are the best. By default the metric's headline says so, as that of
            `overlap` does; they also are where none lies above the value that says nothing. Otherwise the largest are.

    Raises:
        DataError: nothing was measured by that name for each node, or there is no such class.
        SiteError: no site matches `sites`.

    Example:
        >>> import torch, probekit as pk
        >>> x, y = torch.eye(3).repeat(20, 1), torch.arange(60) % 3
        >>> model = torch.nn.Sequential(torch.nn.Identity())
        >>> m = pk.measure_live(model, (x, y), "auroc", sites="0", class_names=["ant", "bee", "cat"])
        >>> pk.top(m, by="auroc", per_class=1)
        The nodes with the largest auroc_rest
        class  code site  node  value
          ant     0    0     0      1
          bee     1    0     1      1
          cat     2    0     2      1
    """
    check_results(measured)
    check_kind("by", by, str, "the name of a measured metric or variable")
    check_kind("smallest", smallest, (bool, NoneType), "True, False or None")
    check_number("per_class", per_class)
    tree = measured.isel(step=-1) if "step" in measured.sizes else measured
    variable, headline = _variable(tree, by)
    every = {site: tree.children[key].to_dataset() for site, key in sites_of(tree, sites).items()}
    values = {site: _by_class(data, variable) for site, data in every.items() if variable in data}
    if not values:
        raise DataError(f"No chosen site has {variable!r}.", arguments=("sites",))
    if smallest is None:
        smallest = (headline is not None and headline.smallest) or _none_above(list(values.values()), headline)
    repeated = _repeated(values)
    kept = {site: each for site, each in values.items() if site not in repeated}
    groups = list(_groups(kept, classes))
    found = [_of_class(name, label, rows, per_class, smallest) for name, label, rows in groups]
    left_out = tuple(name for (name, *_), nodes in zip(groups, found, strict=True) if name is not None and not nodes)
    best = tuple(_with_beside(node, every[node.site], variable) for nodes in found for node in nodes)
    missing = "" if headline is None else headline.missing
    return Top(best, variable, smallest, _positions(tree, variable), left_out, missing, repeated)


def _positions(tree: xr.DataTree, variable: str) -> dict[str, str]:
    """How the positions of each site were seen where the variable was measured, as its results say."""
    found = {}
    for site, key in sites_of(tree, None).items():
        data = tree.children[key].to_dataset()
        of_variable = data[variable].attrs if variable in data else {}
        found[site] = str(of_variable.get("positions", data.attrs.get("positions", "")))
    return found


def _variable(tree: xr.DataTree, by: str) -> tuple[str, Headline | None]:
    """The variable that `by` stands for, with a value for each node, and the headline of its metric."""
    found = {str(name): each for group in tree.children.values() for name, each in group.data_vars.items()}
    metrics = {
        name: str(found[name].attrs.get("metric"))
        for kind in _KINDS
        for name, each in found.items()
        if {*each.dims} == kind and each.dtype.kind in "iuf"
    }
    headlines = headlines_of(tree)
    if by in metrics.values():
        headline = headlines.get(by)
        own = [name for name, metric in metrics.items() if metric == by]
        best = [name for name in own if found[name].ndim == found[own[0]].ndim]
        return headline.variable if headline and headline.variable in best else best[0], headline
    if by in metrics:
        return by, headlines.get(metrics[by])
    known = list(dict.fromkeys([*metrics.values(), *metrics]))
    whole = by in found or by in (each.attrs.get("metric") for each in found.values())
    said = f"The results have no {by!r} with a value for each node{', only for whole sites' if whole else ''}"
    others = f"they have {', '.join(known)}" if known else "measure a metric that has one, such as auroc"
    raise DataError(f"{said}; {others}.{near(by, known)}", arguments=("by",))


def _by_class(data: xr.Dataset, variable: str) -> xr.DataArray:
    """The values (label, node), or (node,) where they are of no class; NaN for a class that a node doesn't prefer."""
    preferred = data.get(f"{variable}_preferred")
    values = data[variable].astype(np.float64)
    values = values if preferred is None else values.where(preferred)
    return values.transpose("label", "node") if "label" in values.dims else values


def _none_above(values: Sequence[xr.DataArray], headline: Headline | None) -> bool:
    """Whether there are values, and none lies above the one that says nothing."""
    neutral = None if headline is None else headline.neutral
    if neutral is None or not any(bool(each.notnull().any()) for each in values):
        return False
    return not any(bool((each > neutral).any()) for each in values)


def _repeated(values: Mapping[str, xr.DataArray]) -> dict[str, str]:
    """The sites that have, at each of their nodes, what an earlier site has there, with that site."""
    found: dict[str, str] = {}
    for at, (site, each) in enumerate(values.items()):
        earlier = (name for name in list(values)[:at] if name not in found and each.equals(values[name]))
        if each.notnull().any() and (same := next(earlier, None)) is not None:
            found[site] = same
    return found


def _groups(values: Mapping[str, xr.DataArray], classes: Any) -> Iterator[tuple[str | None, Any, Mapping[str, Array]]]:
    """Name and label of each class and its values (node,) by site; of no class where the values are of none."""
    grouped = {site: each for site, each in values.items() if "label" in each.dims}
    if not grouped:
        if classes is not None:
            raise DataError(
                "The values are of nodes alone, not of classes, so no class can be chosen (classes=).",
                arguments=("classes",),
            )
        yield None, None, {site: each.values for site, each in values.items()}
        return
    known: dict[Any, str] = {}
    for each in grouped.values():
        known |= dict(zip(each["label"].values.tolist(), map(str, each["class_name"].values), strict=True))
    labels, names = list(known), list(known.values())
    for place in range(len(labels)) if classes is None else places_of(classes, labels, names, "classes"):
        rows = {
            s: each.sel(label=labels[place]).values for s, each in grouped.items() if labels[place] in each["label"]
        }
        yield names[place], labels[place], rows


def _of_class(name: str | None, label: Any, rows: Mapping[str, Array], number: int, smallest: bool) -> list[TopNode]:
    """The best nodes of one class, from the values of each site's nodes (node,)."""
    sign = 1 if smallest else -1
    found = [
        TopNode(name, label, site, int(node), float(row[node]))
        for site, row in rows.items()
        for node in np.argsort(sign * row, kind="stable")[:number]  # NaN come last
        if not np.isnan(row[node])
    ]
    return sorted(found, key=lambda node: sign * node.value)[:number]


def _with_beside(node: TopNode, data: xr.Dataset, variable: str) -> TopNode:
    """The node with its interval and its q-value, where they were measured."""
    low, high, q = (_of_node(node, data.get(f"{variable}_{name}")) for name in _BESIDE)
    return replace(node, low=low, high=high, q=q)


def _of_node(node: TopNode, values: xr.DataArray | None) -> float | None:
    if values is None:
        return None
    of_class = values.sel(label=node.label) if "label" in values.dims else values
    return float(of_class.values[node.node])
