"""The part of a report that shows what an interval and a null say of each pair of sites."""

from __future__ import annotations

from itertools import combinations, permutations

import numpy as np
import xarray as xr

from probekit._results.headlines import compared, interval_name

__all__ = ["site_pairs"]

_MOST = 500  # rows: of more sites, the figures say how far intervals reach, and each site has its own
_ENDINGS = ("low", "high", "null", "null_std", "p")


def site_pairs(measured: xr.DataTree) -> list[dict[str, object]]:
    """A row for each metric and pair of sites; none where no interval and no null was measured, or for too many."""
    rows: list[dict[str, object]] = []
    root = measured.to_dataset()
    for name in compared(measured):
        beside = {_column(root[each], ending): each for ending in _ENDINGS if (each := f"{name}_{ending}") in root}
        table = {key: root[each].transpose("site", "site_b").values for key, each in {"value": name, **beside}.items()}
        alike = np.array_equal(table["value"], table["value"].T, equal_nan=True)
        sites = list(enumerate(map(str, root["site"].values)))
        for (a, site), (b, other) in (combinations if alike else permutations)(sites, 2) if beside else ():
            values = {key: float(each[a, b]) for key, each in table.items()}
            rows.append({"metric": name, "site": site, "other site": other, **values})
    return rows if len(rows) <= _MOST else []


def _column(variable: xr.DataArray, ending: str) -> str:
    if ending in ("low", "high"):
        return f"{interval_name(float(variable.attrs['confidence']))} {ending}"
    return ending.replace("_", " ")
