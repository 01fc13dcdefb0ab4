"""The headlines of results as a table: a row for each site or, where that is too wide, for each site and metric."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from html import escape

import pandas as pd
import xarray as xr

from probekit._probe.selectors import Selector, match_names
from probekit._results.headlines import headlines_of
from probekit._results.missing import Missing, at_sites, classes_of, explained
from probekit._results.opening import is_store
from probekit._results.reading import Q_NAME, Reading, reading_of
from probekit._table import ShownAsTable, Table, is_missing, shown
from probekit.errors import RESULTS, DataError, check_kind, near
from probekit.metrics import Headline

__all__ = ["Summary", "check_results", "sites_of", "summary"]

_POSITIONS = {"each": "each position", "mean": "the mean over positions", "max": "the largest value of a map"}
_CAPTURE = " at capture"


@dataclass(frozen=True, repr=False)
class Summary(ShownAsTable):
    """The headlines of results: what `probekit.summary` gives.

    Attributes:
        readings: one for each site and metric, with what `to_dataframe` says.
        headlines: the `probekit.metrics.Headline` of each metric, by its name.
        title: what was measured.
        fmt: the format of numbers.
        classes: how many classes were compared; None where nothing depends on them.
    """

    readings: tuple[Reading, ...]
    headlines: dict[str, Headline]
    title: str
    fmt: str
    classes: int | None

    def to_dataframe(self) -> pd.DataFrame:
        """A row for each site and metric, always with the same columns, which are missing where nothing was measured.

        - `site`, `metric`; the `variable` of the headline, its `value`, and how that follows from it (`over`);
        - `beside`: the chance level, or the mean of the null, and its variable (`beside_name`);
        - `p`, the p-value of what `p_of` says;
        - `discoveries`: how many of the `tested` values of the variable `q_of`, one a node or one for each class and
          node, have a q-value below 0.05; of those of one class, at most 5 % are expected to be chance. There are none
          unless `q_needs` nodes have the least p-value that so many shuffles give; it is missing where the site has
          fewer nodes;
        - `low` and `high`: the interval, its `confidence`, and why there is none (`no_interval`);
        - `n` samples in so many `classes`, 0 where they weren't grouped, and how many were `omitted` for a NaN; the
          `size` of the variable, and how many are `missing`;
        - `positions`, `estimate`: how feature maps were seen, and what was corrected.
        """
        return pd.DataFrame(map(asdict, self.readings), columns=[field.name for field in fields(Reading)])

    @cached_property
    def table(self) -> Table:
        """A row for each site, and a column for each metric and what belongs beside it."""
        sites: dict[str, dict[str, object]] = {}
        for each in self.readings:
            sites.setdefault(each.site, {}).update(self._cells(each))
        ordered = sorted(self.readings, key=lambda each: list(self.headlines).index(each.metric))
        names = list(dict.fromkeys(name for each in ordered for name in self._cells(each)))
        rows = [
            (site, self._n(site), *(values.get(name) for name in names), self._missing_at(site))
            for site, values in sites.items()
        ]
        return Table(self.title, ("site", "n", *names, "missing"), rows)

    def _cells(self, each: Reading) -> dict[str, object]:
        """What is known of a metric at a site, by the names of columns."""
        cells = {each.metric: self._shown(each.value)}
        if each.low is not None:
            cells[f"{each.metric} {each.interval}"] = self._interval(each)
        if each.beside is not None:
            cells[str(each.beside_name)] = self._shown(each.beside)
        if each.p is not None:
            cells[f"{each.metric} p"] = self._shown(each.p)
        return cells | ({f"{each.metric} {Q_NAME}": each.found} if each.q_of is not None else {})

    def _interval(self, each: Reading) -> str | None:
        return None if is_missing(each.low) else f"{shown(each.low, self.fmt)} to {shown(each.high, self.fmt)}"

    def _n(self, site: str) -> object:
        numbers = sorted({each.n for each in self.readings if each.site == site and each.n is not None})
        return numbers[0] if len(numbers) == 1 else numbers

    def _missing_at(self, site: str) -> int:
        return sum(each.missing for each in self.readings if each.site == site)

    @cached_property
    def long_table(self) -> Table:
        """A row for each metric and site; with intervals and p-values where there are some."""
        ordered = [each for metric in self.headlines for each in self.readings if each.metric == metric]
        columns: dict[str, list[object]] = {
            "metric": [each.metric for each in ordered],
            "site": [each.site for each in ordered],
            "value": [self._shown(each.value) for each in ordered],
        }
        for name in dict.fromkeys(each.interval for each in ordered if each.interval is not None):
            columns[name] = [self._interval(each) if each.interval == name else None for each in ordered]
        columns["beside"] = [self._shown(each.beside) for each in ordered]
        if any(each.p is not None for each in ordered):
            columns["p"] = [self._shown(each.p) for each in ordered]
        if any(each.q_of is not None for each in ordered):
            columns[Q_NAME] = [each.found for each in ordered]
        columns |= {"n": [each.n for each in ordered], "missing": [each.missing for each in ordered]}
        return Table(self.title, tuple(columns), list(zip(*columns.values(), strict=True)))

    def _shown(self, value: float | None) -> object:
        return None if value is None else shown(value, self.fmt)

    def fitting(self, width: int, between: int = 1) -> Table:
        """The table if it fits in so many characters, with so many `between` two columns; otherwise the long one."""
        return self.table if self.table.width(between) <= width else self.long_table

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """How to read each metric, what became of positions, and why values, intervals or discoveries are missing."""
        readings = (self._how_to_read(metric) for metric in self.headlines)
        return (*readings, *self._of_positions(), *self._why_missing(), *self._no_intervals(), *self._few_shuffles())

    def _of_positions(self) -> Iterator[str]:
        """What became of the positions of feature maps: in the measurement, and before it in the capture."""
        before = [each for each in self.readings if _CAPTURE in each.positions]
        seen = [
            f"{said} counts for {_names(those)}"
            for how, said in _POSITIONS.items()
            if (those := [e.metric for e in self.readings if e.positions.startswith(how) and e not in before])
        ]
        if seen:
            yield f"Feature maps: {'; '.join(seen)}."
        for how in dict.fromkeys(each.positions.partition(" of ")[0] for each in before):
            alike = [each for each in before if each.positions.startswith(f"{how} of ")]
            numbers = dict.fromkeys(each.positions.partition(" of ")[2].partition(_CAPTURE)[0] for each in alike)
            of_sites = {
                n: at_sites(each.site for each in alike if f" of {n}{_CAPTURE}" in each.positions) for n in numbers
            }
            first, *others = of_sites.items()
            said = at_sites([f"{first[0]} positions at {first[1]}", *(f"of {n} at {sites}" for n, sites in others)])
            counting = _names(each.metric for each in alike if each.positions.endswith("not each"))
            fault = f", each of which {counting} would count: capture without reduce=" if counting else ""
            yield f"The capture kept the {how} of {said}{fault}."

    def _how_to_read(self, metric: str) -> str:
        headline = self.headlines[metric]
        how = next(each.over for each in self.readings if each.metric == metric)
        name = metric if headline.variable == metric else f"{metric}: {headline.variable}"
        said = [f"{name} ({how})" if how else name]
        said += [f"Large: {headline.large}" if headline.large else "The metric doesn't say how to read it"]
        said += [f"{headline.neutral:g} says nothing"] if headline.neutral is not None else []
        those = [each for each in self.readings if each.metric == metric]
        estimates = dict.fromkeys(each.estimate.capitalize() for each in those if each.estimate)
        said += [" or ".join(estimates)] if estimates else []
        beside = next((each.beside_name for each in those if each.beside_name is not None), None)
        said += [f"Compare it with {beside}"] if beside else []
        of = next((each.p_of for each in those if each.p_of and each.p_of != each.over), None)
        said += [f"Its p tells whether the classes differ: it is of the {of}"] if of else []
        q_of = next((each.q_of for each in those if each.q_of and each.q_of != headline.variable), None)
        said += [f"{Q_NAME} counts values of {q_of}"] if q_of else []
        return ". ".join([*said, ""]).rstrip()

    def _why_missing(self) -> Iterator[str]:
        found = (Missing(e.metric, e.site, e.missing, e.size, e.n, e.classes) for e in self.readings)
        return explained(found, self.headlines)

    def _no_intervals(self) -> Iterator[str]:
        """Why there are no intervals, once for the metrics and sites that have none for the same reason."""
        having = {each.metric for each in self.readings if each.confidence is not None}
        if without := [metric for metric in self.headlines if having and metric not in having]:
            yield f"{_names(without)}: no interval, since draws of the samples tell too little of it."
        lacking = [each for each in self.readings if each.no_interval and not is_missing(each.value)]
        for why in dict.fromkeys(each.no_interval for each in lacking):
            those = [each for each in lacking if each.no_interval == why]
            sites = at_sites(each.site for each in those)
            yield f"{_names(each.metric for each in those)}: no interval at {sites}, since {why}."

    def _few_shuffles(self) -> Iterator[str]:
        """Where single nodes couldn't be found."""
        lacking = [each for each in self.readings if each.discoveries == 0 and each.q_needs != 1]
        for able in (True, False):
            those = [each for each in lacking if (each.q_needs is not None) == able]
            if those:
                needs = sorted(each.q_needs for each in those if each.q_needs is not None)
                who = f"only {needs[0]:,} nodes or more at once" if able else "no node"
                more = f" ({needs[-1]:,} at the largest site)" if able and needs[0] < needs[-1] else ""
                yield (
                    f"{_names(each.metric for each in those)}: no {Q_NAME} at {at_sites(each.site for each in those)}. "
                    f"With so few shuffles {who}{more} could have it: take more (repeats=)."
                )

    def __repr__(self) -> str:
        return "\n".join([str(self.fitting(shutil.get_terminal_size().columns)), *self.notes])

    def _repr_html_(self) -> str:
        return "\n".join([self.table._repr_html_(), *(f"<p>{escape(note)}</p>" for note in self.notes)])


def _names(metrics: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(metrics))


def summary(
    measured: xr.DataTree,
    *,
    metrics: str | Sequence[str] | None = None,
    sites: Selector | None = None,
    fmt: str = ".4g",
) -> Summary:
    """The headline of each metric at each site: one number a site, how to read it, and why values are missing.

    A metric's `probekit.metrics.Headline` says which variable counts and how its nodes become one number; if the
    variable also has classes, their mean follows. NaN don't count, but are counted. A metric that compares sites has
    the mean over the other sites. Results at several steps are summed up at the last one.

    It prints as a table with a row for each site, or with one for each metric and site where the terminal is too
    narrow; `table` and `notes` are what it prints, and ``to_dataframe()`` has a row for each site and metric, always
    with the same columns.

    Args:
        measured: what `probekit.measure` or `probekit.measure_live` gave, or such a store as xarray opens it.
        metrics: names of measured metrics; by default all that have a headline.
        sites: a glob, a regex or a list of them; by default all sites.
        fmt: the format of numbers, as in ``format(number, fmt)``.

    Raises:
        DataError: a metric that wasn't measured or has no headline, or a format that doesn't exist.
        SiteError: no site matches `sites`.

    Example:
        >>> import torch, probekit as pk
        >>> model = torch.nn.Sequential(torch.nn.ReLU())
        >>> m = pk.measure_live(model, torch.eye(2) - 0.5, ["mean", "sparsity"], sites="0")
        >>> pk.summary(m)
        1 site
        site  n mean sparsity  missing
           0  2 0.25      0.5        0
        mean (mean over nodes). Large: nodes are strongly active.
        sparsity: sparsity_site. Large: nodes are off for most samples.
        >>> pk.summary(m).to_dataframe()["value"].tolist()
        [0.25, 0.5]
    """
    check_results(measured)
    check_kind("fmt", fmt, str, "a format of numbers, such as '.3f'")
    _check_format(fmt)
    tree = measured.isel(step=-1) if "step" in measured.sizes else measured
    headlines, chosen = _chosen(headlines_of(tree), metrics), sites_of(tree, sites)
    readings = tuple(
        reading_of(data, site, metric, headline)
        for site, data in ((site, _of_site(tree, site, key)) for site, key in chosen.items())
        for metric, headline in headlines.items()
        if headline.variable in data
    )
    at = f" at step {tree['step'].item()}, the last of {measured.sizes['step']}" if tree is not measured else ""
    title = f"{len(chosen)} {'site' if len(chosen) == 1 else 'sites'}{at}"
    read = {each.metric for each in readings}
    kept = {name: one for name, one in headlines.items() if name in read}
    return Summary(readings, kept, title, fmt, classes_of(tree))


def check_results(measured: xr.DataTree) -> None:
    """Raise DataError where `measured` isn't a whole tree of results."""
    check_kind("measured", measured, xr.DataTree, RESULTS)
    if is_store(measured):
        raise DataError(
            "measured is a store, and this is about results. Measure it: probekit.measure(store, ['mean']).",
            arguments=("measured",),
        )
    if measured.parent is not None and not measured.children:
        raise DataError(
            f"measured is the site {measured.name!r} of results. Give the results as a whole, with "
            f"sites={measured.name!r} for this site alone.",
            arguments=("measured",),
        )


def _check_format(fmt: str) -> None:
    try:
        format(0.5, fmt)
    except ValueError as error:
        raise DataError(f"fmt is {fmt!r}, which formats no number: {error}. Give one such as '.3f'.") from error


def _chosen(known: dict[str, Headline], metrics: str | Sequence[str] | None) -> dict[str, Headline]:
    if metrics is None:
        return known
    check_kind("metrics", metrics, (str, list, tuple), "the name of a measured metric, or a list of names")
    asked = [metrics] if isinstance(metrics, str) else metrics
    for name in asked:
        if name not in known:
            raise DataError(
                f"The results have no headline of a metric {name!r}; they have those of {', '.join(known) or 'none'}."
                f"{near(str(name), known)}"
            )
    return {name: known[name] for name in asked}


def sites_of(tree: xr.DataTree, sites: Selector | None) -> dict[str, str]:
    """The keys of the sites that `sites` selects in a tree of results, by their names; SiteError if there are none."""
    keys = {str(child.attrs.get("site", key)): key for key, child in tree.children.items()}
    chosen = list(keys) if sites is None else match_names(list(keys), sites, where="the results")
    return {name: keys[name] for name in chosen}


def _of_site(tree: xr.DataTree, site: str, key: str) -> xr.Dataset:
    """What was measured at a site, and what compares it with the other sites, along the dim ``site_b``."""
    compared, measured = tree.to_dataset(), tree.children[key].to_dataset(inherit=False)
    if "site" not in compared.sizes:
        return measured
    others = [each for each in compared["site_b"].values if each != site]
    return measured.merge(compared.sel(site=site, site_b=others).reset_coords(drop=True))
