"""The variables that a figure needs, read from measured results, with errors that say what to measure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import xarray as xr

from probekit import plugins
from probekit._results.headlines import headline_value, headlines_of
from probekit._table import shown
from probekit.errors import RESULTS, DataError, PluginError, SiteError, check_kind, near
from probekit.metrics import Headline

__all__ = [
    "class_names",
    "common_classes",
    "headline_of",
    "measured",
    "neutral_of",
    "over_nodes",
    "read",
    "root_variable",
    "site_of",
    "site_values",
    "tells_below",
]

# Variables of a metric that tell the same quantity, for other nodes, classes or pairs: they share its neutral value.
_SAME_QUANTITY = ("", "_node", "_site", "_pairs", "_max", "_mean", "_rest", "_null")
# A metric gives several variables, named after it: the metric overlap gives overlap_pairs.
_ENDINGS = ("_node", "_site", "_pairs", "_max", "_rest", "_null", "_constant", "_edges", "_atoms", "_atom")


def site_of(tree: xr.DataTree, site: str) -> xr.Dataset:
    """The measured variables of one site; the SiteError for an unknown site names the sites that exist."""
    check_kind("tree", tree, xr.DataTree, RESULTS)
    check_kind("site", site, str, "the name of a site")
    if site not in tree.children:
        raise SiteError(
            f"The results have no site {site!r}.{near(site, tree.children)} Their sites: {', '.join(tree.children)}."
        )
    return tree.children[site].to_dataset()


def read(tree: xr.DataTree, site: str, variable: str, dims: Sequence[str] | None = None) -> xr.DataArray:
    """One variable of one site, with its dims in the order of `dims`, if given.

    Results without labels have no dim `label`; if `dims` has one, all samples form a single class.
    """
    check_kind("variable", variable, str, "the name of a measured variable")
    data = site_of(tree, site)
    if variable not in data:
        raise _unmeasured(variable, f"at site {site!r}", map(str, data.data_vars))
    found = data[variable]
    if dims is None:
        return found
    if {"label", *found.dims} == set(dims) and "label" not in found.dims:
        found = found.expand_dims("label").assign_coords(class_name=("label", ["all"]))
    _check_dims(found, f"{variable!r} at site {site!r}", dims)
    return found.transpose(*dims)


def measured(tree: xr.DataTree, sites: Sequence[str] | None, variable: str) -> list[str]:
    """The sites to draw: `sites` if given, otherwise all that have `variable`, in the tree's order."""
    check_kind("tree", tree, xr.DataTree, RESULTS)
    check_kind("variable", variable, str, "the name of a measured variable")
    if sites is not None:
        check_kind("sites", sites, (list, tuple), "a list of names of sites")
        if not sites:
            raise SiteError(f"The list of sites to draw is empty. The results' sites: {', '.join(tree.children)}.")
        return list(sites)
    found = [site for site, child in tree.children.items() if variable in child.data_vars]
    if not found:
        known = dict.fromkeys(str(name) for child in tree.children.values() for name in child.data_vars)
        raise _unmeasured(variable, "at any site", known)
    return found


def root_variable(tree: xr.DataTree, variable: str, dims: Sequence[str]) -> xr.DataArray:
    """A variable that compares sites, at the root of the results."""
    check_kind("tree", tree, xr.DataTree, RESULTS)
    check_kind("variable", variable, str, "the name of a measured variable")
    if variable not in tree.data_vars:
        raise _unmeasured(variable, "at the root of the results", map(str, tree.data_vars))
    found = tree.data_vars[variable]
    _check_dims(found, f"{variable!r}", dims)
    return found.transpose(*dims)


def _check_dims(found: xr.DataArray, name: str, dims: Sequence[str]) -> None:
    if set(found.dims) == set(dims):
        return
    if {*found.dims} - {*dims} == {"step"}:
        raise PluginError(
            f"{name} was measured at {found.sizes['step']} steps; this figure draws one. Choose it, such as the last "
            "by tree.isel(step=-1), or draw them all with pk.plot.by_step."
        )
    raise PluginError(
        f"{name} has the dims ({', '.join(map(str, found.dims))}); "
        f"this figure draws variables with the dims ({', '.join(dims)})."
    )


def headline_of(tree: xr.DataTree, variable: str) -> Headline | None:
    """The headline that is about a variable."""
    return next((each for each in headlines_of(tree).values() if each.variable == variable), None)


def neutral_of(tree: xr.DataTree, variable: str) -> float | None:
    """The value of a variable that says nothing, such as the ½ of `auroc`; None where its metric names none."""
    found = _about(tree, variable)
    return found.neutral if found else None


def tells_below(tree: xr.DataTree, variable: str) -> bool:
    """Whether only values below the neutral one tell anything, as those of an overlap: one above it is chance."""
    found = _about(tree, variable)
    return found is not None and found.smallest and found.neutral is not None


def _about(tree: xr.DataTree, variable: str) -> Headline | None:
    """The headline about a variable, or about another one of the same quantity."""
    headlines = headlines_of(tree)
    owner = next((name for name in headlines if variable in {f"{name}{end}" for end in _SAME_QUANTITY}), None)
    return headline_of(tree, variable) or (headlines[owner] if owner else None)


def over_nodes(tree: xr.DataTree, variable: str) -> str:
    """How values of a variable at the nodes of a site become one: as its headline says, else by their mean."""
    headline = headline_of(tree, variable)
    return (headline and headline.over_nodes) or "mean"


def site_values(
    tree: xr.DataTree, sites: Sequence[str], variable: str, keep: Sequence[str] = ()
) -> dict[str, xr.DataArray]:
    """A variable of each of the sites with the dims `keep` alone: one value for the nodes, the mean over other dims."""
    headline = headline_of(tree, variable) or Headline(variable, "mean", "")
    found = {}
    for site in sites:
        values = read(tree, site, variable)
        own = [str(dim) for dim in values.dims if dim not in keep and dim != "step"]
        found[site] = headline_value(read(tree, site, variable, (*keep, *own)), headline, keep)
    return found


def class_names(data: xr.DataArray | xr.Dataset) -> list[str]:
    """The names of the classes along dim `label`, or their codes if the results have no names."""
    return [str(name) for name in data.coords["class_name" if "class_name" in data.coords else "label"].values]


def common_classes(named: Mapping[str, list[str]]) -> list[str]:
    """The classes of all of several results, some of which may lack the last ones, for one legend.

    Raises DataError where a colour would stand for one class here and another there.
    """
    most = max(named, key=lambda each: len(named[each]))
    for name, classes in named.items():
        if classes != named[most][: len(classes)]:
            raise DataError(
                f"The classes of {name} are {shown(classes)}, and those of {most} {shown(named[most])}, so one legend "
                "can't stand for both. Draw them apart."
            )
    return named[most]


def _unmeasured(variable: str, where: str, known: Iterable[str]) -> PluginError:
    metric = next((variable.removesuffix(end) for end in _ENDINGS if variable.endswith(end)), variable)
    there = [*known]
    close = near(variable, there)
    mend = (
        ""
        if close and metric not in plugins.find(plugins.METRICS)
        else f" Measure it with pk.measure(store, [{metric!r}])."
    )
    return PluginError(
        f"There is no {variable!r} {where}; measured there: {', '.join(there) or 'nothing'}.{close}{mend}"
    )
