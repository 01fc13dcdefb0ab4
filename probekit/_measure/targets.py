"""The numbers of a continuous column, for the metrics that need them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Real

import numpy as np
import xarray as xr

from probekit._measure.grouping import Observations
from probekit._measure.metric_set import needs_target
from probekit._measure.site_source import Source
from probekit.errors import DataError
from probekit.metrics import Metric
from probekit.metrics.block import Array

__all__ = ["check_finite", "targets_of"]


def targets_of(
    metrics: Sequence[Metric],
    sources: Mapping[str, Source],
    root: xr.Dataset,
    target: str | None,
) -> dict[str, Array]:
    """The target of each row of each site, (row,) float64; nothing where no metric needs one.

    Raises DataError where a metric needs a target and there is none, or the other way round, and for a column that
    isn't of numbers.
    """
    needing = [metric.name for metric in metrics if needs_target(metric)]
    if target is None:
        if needing:
            names = next(iter(sources.values())).columns(root).names
            raise DataError(
                f"{needing[0]} needs a target, a column of numbers: give its name (target=). The columns are "
                f"{', '.join(names) or 'none'}.",
                arguments=("target",),
            )
        return {}
    if not needing:
        raise DataError(
            f"target is {target!r}, and no metric of {', '.join(metric.name for metric in metrics)} needs one; "
            "correlation and ridge_probe do.",
            arguments=("target",),
        )
    return {key: _target(source, root, target) for key, source in sources.items()}


def check_finite(
    targets: Mapping[str, Array], sources: Mapping[str, Source], rows: Mapping[str, Observations], target: str | None
) -> None:
    """Raise DataError where an observation that is measured has no finite target."""
    for key, source in sources.items():
        missing = ~np.isfinite(targets[key][rows[key].numbers])
        if missing.any():
            raise DataError(
                f"{int(missing.sum())} of the {rows[key].number} observations at site {source.name!r} have no finite "
                f"{target!r}. Leave them out with where=, by a column that tells them from the others or, in "
                "Python, a mask.",
                arguments=("target", "where"),
            )


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _target(source: Source, root: xr.Dataset, target: str) -> Array:
    try:
        values = source.columns(root).find(target).values
    except DataError as error:
        raise DataError(str(error), arguments=("target",)) from error
    if values.dtype.kind not in "iuf":
        others = (f"{value!r} at {n}" for n, value in enumerate(values.tolist()) if not _is_number(value))
        odd = next(others, None) if values.dtype.kind in "OTU" else f"{values.dtype}"
        if odd is not None:
            raise DataError(f"target is {target!r}, whose values aren't numbers: {odd}.", arguments=("target",))
    numbers: Array = values.astype(np.float64)
    return numbers
