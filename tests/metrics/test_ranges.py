"""The ranges of estimates: every metric says them, and what is corrected for chance may lie beyond."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import xarray as xr

import probekit as pk
from probekit import metrics, plugins
from probekit._measure.metric_set import resolved
from probekit.metrics.ranges import SHARE, Ranges
from probekit.testing import ConformanceError
from probekit.testing.declared import stays_in_its_ranges

PLAIN = [
    metrics.Overlap(corrected=False),
    metrics.KS(corrected=False),
    metrics.MutualInformation(corrected=False),
    metrics.Wasserstein(corrected=False),
    metrics.DPrime(corrected=False),
    metrics.Fisher(corrected=False),
    metrics.Selectivity(corrected=False),
    metrics.ParticipationRatio(biased=True),
    metrics.CKA(biased=True),
    metrics.CDNV(unbiased=False),
    metrics.SVCCA(corrected=False),
    metrics.PWCCA(corrected=False),
    metrics.NeuralCollapse(head=np.eye(4, 7)),
    metrics.WeightAlignment(np.eye(3, 7)),
]
# Corrected for chance or without an end: their values may be any numbers. Of uniformity_floor all are one.
OPEN = {
    *("overlap", "overlap_max", "overlap_rest", "overlap_pairs", "ks", "ks_mean", "ks_max", "mutual_information"),
    *("wasserstein", "wasserstein_mean", "wasserstein_max", "dprime", "dprime_mean", "dprime_max"),
    *("fisher", "separability", "participation_ratio", "cdnv_inverse", "skewness", "uniformity_floor"),
}


@pytest.mark.parametrize("metric", PLAIN, ids=lambda metric: metric.name)
def test_plain_estimates_lie_in_their_ranges(metric: Any) -> None:
    assert metric.ranges
    stays_in_its_ranges(metric)


def test_a_range_that_values_leave_is_broken() -> None:
    class Wrong(metrics.Overlap):
        @property
        def ranges(self) -> Ranges:
            return {"overlap": SHARE}

    with pytest.raises(ConformanceError, match=r"'overlap' is 1\.1\d*, and its range goes from 0 to 1"):
        stays_in_its_ranges(Wrong())


def test_every_variable_that_has_an_interval_has_a_range_or_is_open() -> None:
    names = [name for name in plugins.find(plugins.METRICS) if name != "saturation"]
    given = [resolved(name)[0] for name in names] + [metrics.Saturation(bounds=(0, 1))]
    rng = np.random.default_rng(0)
    columns = xr.Dataset(coords={"label": ("sample", np.arange(40) % 4), "age": ("sample", rng.normal(size=40))})
    x = {name: xr.Dataset({"activation": (("sample", "node"), rng.normal(size=(40, 3)))}) for name in "ab"}
    with warnings.catch_warnings(action="ignore"):
        found = pk.measure(xr.DataTree.from_dict({"/": columns, **x}), given, target="age")
    ranges = {name for metric in given for name in getattr(metric, "ranges", {})}
    without = {each.name for each in given if getattr(each, "interval", "") is None}
    floats = {
        str(name)
        for group in (found, found["a"])
        for name, variable in group.data_vars.items()
        if variable.dtype.kind == "f" and variable.attrs["metric"] not in without
    }
    assert floats - ranges == OPEN
    assert ranges - floats == {"neural_collapse_nc3"}  # with a head
