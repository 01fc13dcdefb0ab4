"""Which axis of a site's activation is the batch: what the user says, or what follows the number of samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from torch import nn

from probekit._forward.dry_run import DryRun
from probekit._forward.parts_of_tokens import check_rows_known
from probekit._probe.folding import position_counts
from probekit._probe.reductions import Reducer
from probekit._probe.selectors import Modules
from probekit._probe.site_table import Site
from probekit.errors import SiteError

__all__ = ["BatchAxes"]


@dataclass(frozen=True)
class BatchAxes:
    """Finds the batch axes of the sites of one dry run; `given` has what the user says of each site, by name."""

    dry: DryRun
    modules: Modules
    given: Mapping[str, int | None]

    @cached_property
    def _others(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the sites for another number of samples, where the model takes one."""
        return {} if self.dry.other is None else {site.name: site.shape for site in self.dry.other}

    def of(self, site: Site, reducer: Reducer | None) -> int:
        """The axis of a site that is the batch: the one that the user gives, or that follows the number of samples."""
        given, shape, rows = self.given[site.name], site.shape, self.dry.example.rows
        if given is not None and not -len(shape) <= given < len(shape):
            raise SiteError(f"batch_dim is {given} for {site.name}, whose shape is {shape}.", arguments=("batch_dim",))
        axis = self._usual(site) if given is None else given % len(shape)
        if reducer is not None and reducer.makes_batch:
            return axis
        if shape[axis] != rows:
            if given is None and axis == 0:
                check_rows_known(site, rows, position_counts(self.dry.example.inputs, rows), self.modules)
            raise SiteError(
                f"Axis {axis} of {site.name} ({site.type}) is not the batch: its shape is {shape} for {rows} samples. "
                f"Say which axis is: batch_dim={{{site.name!r}: 1}}; or pass a callable that makes it axis 0 in "
                "reduce=; or select other sites (sites=).",
                arguments=("batch_dim", "reduce", "sites"),
            )
        sure = given is not None or site.folded is not None or self.dry.example.owners is not None
        self._check_follows(site, axis, sure=sure)
        return axis

    def _usual(self, site: Site) -> int:
        """Axis 0, or axis 1 of what recurrent and attention layers give that have the time first."""
        module, path = self.modules[site.module], site.parts.leaf
        if len(site.shape) != 3 or site.parts.side == "input" or site.parts.op:
            return 0
        if isinstance(module, nn.RNNBase) and path.startswith("[1]"):  # (layer, batch, node), always
            return int(site.shape[1] == self.dry.example.rows)
        time_first = isinstance(module, nn.RNNBase | nn.MultiheadAttention) and not module.batch_first
        if not time_first or path != "[0]":
            return 0
        if site.shape[1] != self.dry.example.rows == site.shape[0]:
            raise SiteError(
                f"{site.name} ({site.type}) has the time first, as batch_first=False says, and its time, axis 0 of the "
                f"shape {site.shape}, follows the number of samples. Transpose the model's inputs or give the layer "
                f"batch_first=True; or, if this is meant, batch_dim={{{site.name!r}: 0}}.",
                arguments=("batch_dim",),
            )
        return 1

    def _check_follows(self, site: Site, axis: int, *, sure: bool) -> None:
        """Raise SiteError for an axis that didn't change with the number of samples."""
        other = self._others.get(site.name, ())
        if len(other) == len(site.shape) and other[axis] == site.shape[axis]:
            raise SiteError(
                f"Axis {axis} of {site.name} ({site.type}) is not the batch, although it is as long: its shape is "
                f"{site.shape}, and {other} for another number of samples. If axis 0 of the model's inputs is not the "
                f"batch, transpose them. Else say which axis is the batch: batch_dim={{{site.name!r}: 1}}; or select "
                "other sites (sites=).",
                arguments=("batch_dim", "sites"),
            )
        if self.dry.other is None and not sure:
            rows = self.dry.example.rows
            raise SiteError(
                f"Whether axis {axis} of {site.name}, of shape {site.shape}, is the batch can't be told: "
                f"{self.dry.sites.model} takes batches of {rows}, neither fewer nor twice as many. If each batch is "
                "one sample, put an axis of length 1 before it; if the axis is the batch, say so: "
                f"batch_dim={{'**': {axis}}}.",
                arguments=("batch_dim",),
            )
