"""What `probekit.compare` gives: tables, a tree of nodes, figures and a page."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from html import escape
from pathlib import Path

import pandas as pd
import xarray as xr

from probekit._compare.differences import Difference
from probekit._results.headlines import interval_name
from probekit._table import ShownAsTable, Table
from probekit.errors import DataError, check_choice, check_kind
from probekit.metrics import Headline
from probekit.plot import Drawing
from probekit.plot import comparisons as figures

__all__ = ["Comparison", "Settings"]

_SIMILARITIES = ("cka", "cka_biased", "rsa")


@dataclass(frozen=True)
class Settings:
    """How the uncertainty was computed: so many cuts into halves by a `seed`, and the `confidence` of intervals.

    `quantile` times the standard error is half an interval. `command` makes the comparison again.
    """

    repeats: int
    seed: int
    confidence: float
    quantile: float
    command: str


@dataclass(frozen=True, repr=False, eq=False)
class Comparison(ShownAsTable):
    """Several stores side by side: what `probekit.compare` gives.

    Attributes:
        names: of the stores; all others are compared with the first one.
        samples: the number of samples that all of them have.
        differences: for each other store, site and metric a `Difference`; ``to_dataframe()`` adds the intervals.
        similarity: a Dataset with `cka`, `cka_biased` and `rsa` (store, site, site_b): the sites of the first store
            beside those (`site_b`) of each other `store`.
        nodes: a tree with a group for each site that all stores have, and variables (store, node): `correlation`,
            `best_correlation`, `best_node`; and of each metric with a value for each node, (store, label, node) if it
            has one for each class, the difference ``<metric>``, ``<metric>_error`` and ``<metric>_first``.
        origins: a DataFrame of what is known of each store, a column a store.
        cautions: what isn't comparable, and where a metric has no number, a sentence each.
        headlines: the `probekit.metrics.Headline` of each metric.
        spans: how far apart two values of each metric can be, such as 1 for an accuracy: intervals end there.
        settings: how the uncertainty was computed.
    """

    names: tuple[str, ...]
    samples: int
    differences: tuple[Difference, ...]
    similarity: xr.Dataset
    nodes: xr.DataTree
    origins: pd.DataFrame
    cautions: tuple[str, ...]
    headlines: dict[str, Headline]
    spans: dict[str, float]
    settings: Settings

    def to_dataframe(self) -> pd.DataFrame:
        """A row for each other store, site and metric: the values, their difference, its error and its interval."""
        columns = list(Difference.__dataclass_fields__)
        frame = pd.DataFrame(map(asdict, self.differences), columns=columns)
        return frame.assign(**self._ends(frame, frame["metric"].map(self.spans)))

    def _ends(self, frame: pd.DataFrame, span: pd.Series[float] | float) -> dict[str, pd.Series[float]]:
        """The ends of the intervals of differences with an error, none of which is larger than its `span`."""
        half = self.settings.quantile * frame["error"]
        return {
            "low": (frame["difference"] - half).clip(lower=-span),
            "high": (frame["difference"] + half).clip(upper=span),
        }

    @cached_property
    def table(self) -> Table:
        """The differences, a row for each metric, site and other store; a star where the interval leaves out 0."""
        frame = self.to_dataframe()
        rows = [
            (*row[:6], *row[6:8], "*" if row[6] > 0 or row[7] < 0 else "")
            for metric in self.headlines
            for row in frame[frame["metric"] == metric][
                ["metric", "site", "store", "value_first", "value", "difference", "low", "high"]
            ].itertuples(index=False)
        ]
        columns = ("metric", "site", "store", self.names[0], "value", "difference", "low", "high", "")
        return Table(self._title, columns, rows)

    @cached_property
    def site_table(self) -> Table:
        """How alike the same site of two stores is, and its nodes at the median."""
        rows = [
            (
                site,
                store,
                *(self._of_site(name, store, site, site) for name in _SIMILARITIES),
                *self._medians(store, site),
            )
            for store in self.names[1:]
            for site in map(str, self.similarity["site"].values)
            if site in self.similarity["site_b"]
        ]
        columns = ("site", "store", "cka", "cka biased", "rsa", "same node", "best node")
        return Table(f"How alike the same sites are in {self.names[0]} and the others", columns, rows)

    @cached_property
    def closest_table(self) -> Table:
        """The site of each other store that is most like each site of the first one, by debiased CKA."""
        cka = self.similarity["cka"]
        rows = []
        for store in self.names[1:]:
            for site in map(str, cka["site"].values):
                found = cka.sel(store=store, site=site).dropna("site_b")
                if found.size:
                    closest = found.idxmax("site_b").item()
                    rows.append(
                        (site, store, closest, *(self._of_site(name, store, site, closest) for name in _SIMILARITIES))
                    )
        title = f"The sites closest to those of {self.names[0]}, by cka"
        return Table(title, ("site", "store", "closest site", "cka", "cka biased", "rsa"), rows)

    @property
    def tables(self) -> Sequence[Table]:
        """What is printed: the differences and the same sites; where no store has one of the first's, the closest."""
        alike = self.site_table if self.site_table.rows else self.closest_table
        return [each for each in (self.table, alike) if each.rows]

    @property
    def _title(self) -> str:
        others = ", ".join(self.names[1:])
        return f"{others} less {self.names[0]}, on {self.samples:,} common samples"

    def _of_site(self, name: str, store: str, site: str, other: str) -> float | None:
        if name not in self.similarity:
            return None
        return float(self.similarity[name].sel(store=store, site=site, site_b=other))

    def _medians(self, store: str, site: str) -> list[float | None]:
        """The medians over the nodes of their correlations with the same and with the best node."""
        found = self.site_nodes.get(site, xr.Dataset())
        columns = (found[name].sel(store=store) for name in ("correlation", "best_correlation") if name in found)
        medians: list[float | None] = [float(each.median()) for each in columns]
        return medians if len(medians) == 2 else [None, *medians, None][:2]

    @cached_property
    def site_nodes(self) -> dict[str, xr.Dataset]:
        """The groups of `nodes`, by the names of sites."""
        return {str(group.attrs["site"]): group.to_dataset() for group in self.nodes.children.values()}

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """How the numbers were computed, and what isn't comparable."""
        settings = self.settings
        half = (
            f"low and high: {interval_name(settings.confidence)} of the difference over samples, from "
            f"{settings.repeats} random cuts of the common samples into halves (seed {settings.seed}), the same in "
            "every store."
        )
        alike = (
            "cka is the debiased estimator: 0 for unrelated sites whatever their width, 1 for the same up to rotation; "
            "cka biased is the usual one, high for few samples and many nodes. same node and best node: the median "
            "over nodes of the correlation with the node of the same number, and with the one most alike, in the other "
            "store."
        )
        return (*([half] if self.differences else []), alike, *self._without_interval(), *self.cautions)

    def _without_interval(self) -> Iterator[str]:
        for metric in self.headlines:
            rows = (row for row in self.differences if row.metric == metric and row.error != row.error)
            sites = dict.fromkeys(row.site for row in rows if row.difference == row.difference)
            if sites:
                largest = self.headlines[metric].over_nodes == "max"
                why = "it is the largest of the nodes" if largest else "half of the samples are too few for it"
                yield f"The interval of {metric} is missing at {', '.join(sites)}: {why}."

    def plot(self, what: str = "cka", *, nodes: bool = False) -> Drawing:
        """A figure with all stores in one panel, or on one scale.

        Args:
            what: a metric, for its values over the sites and their differences with intervals; ``"cka"``,
                ``"cka_biased"`` or ``"rsa"``, for sites by sites; or ``"correlation"``, for how the nodes of the same
                site correlate.
            nodes: of a metric with a value for each node, every node's value in the first store and in another one.

        Raises:
            DataError: it wasn't compared, or has no value for each node.
        """
        check_kind("what", what, str, "a metric, or cka, cka_biased, rsa or correlation")
        check_kind("nodes", nodes, bool, "True or False")
        if nodes:
            check_choice("what", what, self.node_metrics)
            return figures.node_values(self.site_nodes, what, self.names[0])
        check_choice("what", what, self.kinds)
        if what == "correlation":
            return figures.correlations(self.site_nodes, self.names[0])
        if what in self.similarity:
            return figures.similarities(self.similarity[what], self.names[0])
        frame = self.to_dataframe()
        return figures.differences(frame[frame["metric"] == what], self.names[0], what, self.settings.confidence)

    @property
    def kinds(self) -> list[str]:
        """What `plot` draws."""
        between = [name for name in _SIMILARITIES if name in self.similarity]
        return [*self.headlines, *between, *(["correlation"] if self.site_nodes else [])]

    @property
    def node_metrics(self) -> list[str]:
        """The metrics of which `plot` draws nodes."""
        return [name for name in self.headlines if any(name in data for data in self.site_nodes.values())]

    def moved_nodes(self, metric: str, n: int = 10) -> pd.DataFrame:
        """The nodes that differ most between two stores by a metric, largest difference first.

        The columns are `store`, `site`, `class_name` if it has a value for each class, `node`, `value_first`, `value`,
        `difference`, `low` and `high`.

        Raises:
            DataError: the metric has no value for each node.
        """
        check_choice("metric", metric, self.node_metrics)
        if n < 1:
            raise DataError(f"n is {n}; it has to be at least 1.", arguments=("n",))
        frames = []
        for site, data in self.site_nodes.items():
            if metric in data:
                chosen = data[[f"{metric}_first", metric, f"{metric}_error"]].to_dataframe().reset_index()
                frames.append(chosen.assign(site=site))
        every = pd.concat(frames, ignore_index=True)
        every.columns = pd.Index([_COLUMNS.get(str(name).removeprefix(metric), name) for name in every.columns])
        largest = every["difference"].abs().sort_values(ascending=False, kind="stable").index[:n]
        found = every.loc[largest].dropna(subset=["difference"]).reset_index(drop=True)
        ends = self._ends(found, self.spans[metric])
        found = found.assign(value=found["value_first"] + found["difference"], **ends)
        columns = ["store", "site", "class_name", "node", "value_first", "value", "difference", "low", "high"]
        return found[[name for name in columns if name in found]]

    def write(self, path: str | os.PathLike[str], *, title: str | None = None) -> Path:
        """Write a self-contained page of the whole comparison, and return its path.

        Raises ProbekitError where the page can't be written.
        """
        from probekit._compare.page import page_of

        check_kind("title", title, (str, type(None)), "the title of the page, or None")
        return page_of(self, title).write(path)

    def __repr__(self) -> str:
        return "\n".join([*map(str, self.tables), *self.notes])

    def _repr_html_(self) -> str:
        return "\n".join(
            [*(each._repr_html_() for each in self.tables), *(f"<p>{escape(note)}</p>" for note in self.notes)]
        )


_COLUMNS = {"": "difference", "_first": "value_first", "_error": "error"}
