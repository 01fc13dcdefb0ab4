"""What is recorded of each site, planned from a dry run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from probekit._data.batches import Batch
from probekit._forward.dry_run import DryRun, dry_run
from probekit._forward.options import DTYPES, RunOptions, SiteOptions
from probekit._probe.pooling import Mask, Reduced
from probekit._probe.reductions import Reducer, plan_reduction
from probekit._probe.selectors import Rule, module_names, no_match, selects
from probekit._probe.site_name import SiteName
from probekit._probe.site_table import Site, SiteTable
from probekit._store.layout import SiteSpec
from probekit.errors import SiteError

__all__ = ["PlannedSite", "SitePlan", "plan_sites"]


@dataclass(frozen=True)
class PlannedSite:
    """What is kept of one site: its `spec` on disk, the batch's axis, the reduction, the dtype it is cast to.

    `rows_per_sample` is 1, or the example's number of tokens a sample.
    """

    spec: SiteSpec
    site: SiteName
    batch_dim: int
    reducer: Reducer | None
    dtype: torch.dtype
    rows_per_sample: float

    @property
    def bytes_per_sample(self) -> int:
        return math.ceil(self.spec.bytes_per_row * self.rows_per_sample)

    @property
    def name(self) -> str:
        return self.spec.name

    def keep(self, tensor: Tensor, mask: Mask | None, rows: int) -> Reduced:
        """What is kept of an activation of so many samples; the batch is axis 0 of the result."""
        moved = tensor.movedim(self.batch_dim, 0) if self.batch_dim else tensor
        return Reduced(moved) if self.reducer is None else self.reducer(moved, mask, rows=rows)


@dataclass(frozen=True)
class SitePlan:
    """The sites that are recorded of a model, in the order in which it ran them."""

    model: str
    sites: tuple[PlannedSite, ...]

    @property
    def names(self) -> list[str]:
        return [site.name for site in self.sites]

    @property
    def gradients(self) -> bool:
        """Whether a site is a gradient, which takes a backward pass."""
        return any(site.site.side == "grad" for site in self.sites)


def plan_sites(model: nn.Module, first: Batch, sites: SiteOptions, how: RunOptions) -> SitePlan:
    """The plan for data that begin with the batch `first`; runs the model on a few of its samples.

    Raises:
        SiteError: the selector picks nothing, axis 0 of a site isn't the batch, a reduction doesn't fit, or a key of
            `reduce` or `batch_dim` picks no site.
        ModelError: the model can't run on the batch, or gives no logits to predict by.
        DataError: a column is called as the predictions are.
    """
    dry = dry_run(model, first, sites, how)
    modules = module_names(model)
    reductions = _by_site(sites.reduce, None, dry.sites, modules)
    dims = _by_site(sites.batch_dim, 0, dry.sites, modules)
    planned = tuple(
        _planned(site, reductions[site.name], dims[site.name], dry.example, first.rows, sites.dtype)
        for site in dry.sites
    )
    _check_batch_axes(planned, dry)
    return SitePlan(dry.sites.model, planned)


def _by_site(given: Any, default: Any, table: SiteTable, modules: Mapping[str, nn.Module]) -> dict[str, Any]:
    """The option of each site: one for all, or by selector, where the first that picks a site counts."""
    if not isinstance(given, Mapping):
        return dict.fromkeys(table.names, default if given is None else given)
    chosen = dict.fromkeys(table.names, default)
    for selector, value in reversed(list(given.items())):
        picked = [site for site in table if _picks(selector, site, modules)]
        if not picked:
            where = f"the captured sites of {table.model}"
            lister = "probekit.plan(model, data), or `probekit plan` on the command line"
            raise no_match(selector, dict.fromkeys(table.names), where, lister)
        chosen |= dict.fromkeys((site.name for site in picked), value)
    return chosen


def _picks(selector: Rule, site: Site, modules: Mapping[str, nn.Module]) -> bool:
    return selects(selector, site.parts, modules[site.module])


def _planned(
    site: Site, reduction: Any, batch_dim: int, example: Batch, batch_size: int, dtype: str | None
) -> PlannedSite:
    reducer = None if reduction is None else plan_reduction(reduction, site=site.name)
    reduced = _reduced(site, reducer, batch_dim, example)
    result = reduced.tensor
    cast = DTYPES[dtype] if dtype is not None and result.is_floating_point() else result.dtype
    attrs = {
        "module": site.module,
        "kind": site.kind,
        "type": site.type,
        "dtype": str(site.dtype).removeprefix("torch."),
        "kept_dtype": str(cast).removeprefix("torch."),
        "original_shape": [batch_size if axis == batch_dim else length for axis, length in enumerate(site.shape)],
        "batch_dim": batch_dim,
        "reduce": "none" if reducer is None else reducer.describe(),
    }
    tokens = reduced.sample is not None
    spec = SiteSpec(site.name, reduced.dims, tuple(result.shape[1:]), _on_disk(cast), attrs, tokens)
    return PlannedSite(spec, site.parts, batch_dim, reducer, cast, len(result) / example.rows)


def _reduced(site: Site, reducer: Reducer | None, batch_dim: int, example: Batch) -> Reduced:
    """What would be kept of the example's activation, in shape and dtype."""
    if not site.shape:
        raise SiteError(f"{site.name} ({site.type}) is a scalar for the whole batch, so it has no samples to keep.")
    if not -len(site.shape) <= batch_dim < len(site.shape):
        raise SiteError(
            f"batch_dim is {batch_dim} for {site.name}, whose shape is {site.shape}.", arguments=("batch_dim",)
        )
    given = torch.zeros(site.shape, dtype=site.dtype).movedim(batch_dim, 0)
    if reducer is not None:
        return reducer(given, None if example.mask is None else Mask.of(example.mask), rows=example.rows)
    if len(given) != example.rows:
        raise SiteError(
            f"Axis 0 of {site.name} ({site.type}) is not the batch: its shape is {site.shape} for {example.rows} "
            f"samples. Say which axis is: batch_dim={{{site.name!r}: 1}}; or pass a callable that makes it axis 0 in "
            "reduce=; or select other sites (sites=).",
            arguments=("batch_dim", "reduce", "sites"),
        )
    return Reduced(given)


def _check_batch_axes(planned: tuple[PlannedSite, ...], dry: DryRun) -> None:
    """Raise SiteError for a site whose axis of the batch didn't become shorter with the batch."""
    after = {} if dry.shorter is None else {site.name: site.shape for site in dry.shorter}
    for one, site in zip(planned, dry.sites, strict=True):
        shape, less = site.shape, after.get(site.name, ())
        if one.reducer is None and len(less) == len(shape) and less[one.batch_dim] == shape[one.batch_dim]:
            raise SiteError(
                f"Axis {one.batch_dim} of {site.name} ({site.type}) is not the batch, although it is as long: its "
                f"shape is {shape}, and {less} for one sample less. Say which axis is: batch_dim={{{site.name!r}: 1}}; "
                "or select other sites (sites=).",
                arguments=("batch_dim", "sites"),
            )


def _on_disk(dtype: torch.dtype) -> np.dtype[Any]:
    # bfloat16, which zarr can't store, fits exactly into float32.
    dtype = torch.float32 if dtype == torch.bfloat16 else dtype
    return np.dtype(torch.empty((), dtype=dtype).numpy().dtype)
