"""What is recorded of each site, planned from a dry run."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from probekit._data.batches import Batch, Batches
from probekit._forward.batch_axis import BatchAxes
from probekit._forward.dry_run import DryRun, dry_run
from probekit._forward.masks import MaskSource, choose_mask, given_mask
from probekit._forward.options import DTYPES, RunOptions, SiteOptions
from probekit._forward.owners import OwnerSource, rows_of_samples
from probekit._forward.padding import runs_by_length, warn_of_padding
from probekit._forward.storable import check_storable, dtype_on_disk
from probekit._forward.token_rows import known_tokens
from probekit._probe.folding import unfold
from probekit._probe.node_axes import NodeAxis, node_axis_by_shape
from probekit._probe.pooling import Mask, Reduced, is_mask
from probekit._probe.reductions import Reducer, plan_reduction
from probekit._probe.selectors import Modules, SiteIndex, is_about, module_names, no_match
from probekit._probe.site_name import SiteName
from probekit._probe.site_table import Site, SiteTable
from probekit._store.layout import SiteSpec
from probekit.errors import DataError, SiteError

__all__ = ["PlannedSite", "SitePlan", "plan_sites", "require_model_order"]


@dataclass(frozen=True)
class PlannedSite:
    """What is kept of one site: its `spec` on disk, the axes of the batch and the nodes, the mask of its tokens, whose
    samples its rows are, the reduction, the dtype it is cast to.

    `rows_per_sample` is 1, or the example's number of tokens a sample. Where it is `folded`, the model gives it with
    sample × position as axis 0; all axes are those of (sample, position, node).
    """

    spec: SiteSpec
    site: SiteName
    batch_dim: int
    nodes: NodeAxis
    mask: MaskSource | None
    owners: OwnerSource | None
    reducer: Reducer | None
    dtype: torch.dtype
    rows_per_sample: float
    folded: bool = False

    @property
    def bytes_per_sample(self) -> int:
        return math.ceil(self.spec.bytes_per_row * self.rows_per_sample)

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def shown_nodes(self) -> str | None:
        """The node axis of the activation as the model gives it, as `probekit.sites` shows it."""
        return _as_given(self.nodes, self.batch_dim).shown(self.ndim)

    @property
    def ndim(self) -> int:
        """The number of axes of the activation."""
        return len(self.spec.attrs["original_shape"])

    def unfolded(self, tensor: Tensor, rows: int, positions: Collection[int]) -> Tensor:
        """An activation, (sample, position, node) where it is folded; a sample has one of these numbers of positions.

        Raises:
            SiteError: it isn't as long.
        """
        return unfold(tensor, rows, positions) if self.folded else tensor

    def keep(self, tensor: Tensor, mask: Mask | None, batch: Batch) -> Reduced:
        """What is kept of an activation of a batch, which is axis 0 of the result."""
        owners = None if self.owners is None else self.owners.of(batch)
        return _kept(tensor, self.reducer, self.batch_dim, self.nodes.axis, mask, batch.rows, owners)


@dataclass(frozen=True)
class SitePlan:
    """The sites that are recorded of a model, in the order in which it ran them.

    `writes_inputs` says whether the model's forward changes its inputs; `changed` names the buffers and attributes that
    every pass changes, `state` those of them that the next pass depends on. `predictions` says whether what the model
    predicts is kept. `seconds` is what a pass takes for a sample, at most: with a few samples, none is shared.
    `by_length` says whether texts of like length may run together, in several passes a batch.
    """

    model: str
    sites: tuple[PlannedSite, ...]
    writes_inputs: bool
    changed: tuple[str, ...]
    state: tuple[str, ...]
    predictions: bool
    seconds: float
    by_length: bool

    @property
    def names(self) -> list[str]:
        return [site.name for site in self.sites]

    @property
    def gradients(self) -> bool:
        """Whether a site is a gradient, which takes a backward pass."""
        return any(site.site.side == "grad" for site in self.sites)


def plan_sites(
    model: nn.Module, first: Batch, sites: SiteOptions, how: RunOptions, classes: int | None = None
) -> SitePlan:
    """The plan for data that begin with the batch `first`; runs the model on a few of its samples.

    `classes` is the number of classes, where it is known without the samples.

    Raises:
        SiteError: the selector picks nothing, an axis isn't the batch's, a mask or a reduction doesn't fit, or a key of
            an option picks no site.
        ModelError: the model can't run on the batch, or gives no logits to predict by.
        DataError: a column is called as the predictions are, or the inputs have no such mask.
    """
    dry = dry_run(model, first, sites, how, classes)
    planner = _Planner(model, dry, sites, first.rows)
    planned = tuple(map(planner.plan, dry.sites))
    warn_of_padding(model, dry.example.inputs, planner.pooled(planned))
    found = (dry.sites.model, planned, dry.writes_inputs, dry.changed, dry.state, dry.predictions, dry.seconds)
    plan = SitePlan(*found, by_length=False)
    by_length = not plan.gradients and runs_by_length(model, dry, (site.spec.shape for site in planned), how)
    return replace(plan, by_length=by_length)


def require_model_order(batches: Batches, plan: SitePlan, how: RunOptions) -> None:
    """Raise DataError where labels, which are numbered as they appear, would be compared with the places of logits."""
    if batches.names_grow and (plan.predictions or (plan.gradients and how.loss is None)):
        names = ", ".join(f"{name!r} = {code}" for code, name in enumerate((batches.class_names or ())[:3]))
        what = "predictions=True compares" if plan.predictions else "The default loss compares"
        raise DataError(
            f"{what} labels with the places of the model's logits, and these labels are numbered as they appear "
            f"({names} …). Give class_names=, the names in the order of the logits.",
            arguments=("class_names", "predictions" if plan.predictions else "loss"),
        )


class _Planner:
    """Plans the sites of one dry run."""

    def __init__(self, model: nn.Module, dry: DryRun, options: SiteOptions, batch_size: int) -> None:
        self._model, self._dry, self._batch_size, self._dtype = model, dry, batch_size, options.dtype
        self._modules = module_names(model)
        self._reductions, self._batch_dims, self._node_dims, self._masks = (
            _by_site(given, dry.sites, self._modules)
            for given in (options.reduce, options.batch_dim, options.node_dim, options.mask)
        )
        owners = dry.example.owners
        self._owners = (
            _by_site({key: key for key in owners}, dry.sites, self._modules) if isinstance(owners, Mapping) else None
        )
        self._masks_by_site = isinstance(options.mask, Mapping)
        self._batch_axes = BatchAxes(dry, self._modules, self._batch_dims)

    def plan(self, site: Site) -> PlannedSite:
        if site.part:
            raise _in_parts(site)
        if not site.shape:
            raise SiteError(f"{site.name} ({site.type}) is a scalar for the whole batch, so it has no samples to keep.")
        reduction = self._reductions[site.name]
        reducer = None if reduction is None else plan_reduction(reduction, site=site.name)
        given, site = site, self._unfolded(site, reducer)
        owners = self._owner_source(site)
        batch_dim = self._batch_dims[site.name] or 0 if owners is not None else self._batch_axes.of(site, reducer)
        nodes = self._nodes(site, batch_dim)
        mask = None if owners is not None else self._mask(site, reducer, _positions(site, batch_dim, nodes, reducer))
        reduced = self._reduced(site, reducer, batch_dim, nodes, mask, owners)
        result = reduced.tensor
        check_storable(site, result)
        cast = DTYPES[self._dtype] if self._dtype is not None and result.is_floating_point() else result.dtype
        attrs = {
            "module": site.module,
            "kind": site.kind,
            "type": site.type,
            "dtype": str(site.dtype).removeprefix("torch."),
            "kept_dtype": str(cast).removeprefix("torch."),
            "original_shape": [self._batch_size if n == batch_dim else length for n, length in enumerate(site.shape)],
            "batch_dim": batch_dim,
            "node_dim": _as_given(nodes, batch_dim).axis,
            "node_dim_from": nodes.known_by,
            "mask": "none" if mask is None else mask.name,
            "reduce": "none" if reducer is None else reducer.describe(),
        }
        folded = site is not given
        if folded:
            attrs["unfolded"] = "sample × position"
        tokens, real = reduced.sample is not None, reduced.real is not None
        on_disk = dtype_on_disk(site, cast)
        known = known_tokens(reduced, self._dry.example.tokens)
        spec = SiteSpec(
            site.name, reduced.dims, tuple(result.shape[1:]), on_disk, attrs, tokens, masked=real, token_columns=known
        )
        rows = len(result) / self._dry.example.rows
        return PlannedSite(spec, site.parts, batch_dim, nodes, mask, owners, reducer, cast, rows, folded)

    def _unfolded(self, site: Site, reducer: Reducer | None) -> Site:
        """The site with the position as axis 1 where axis 0 is sample × position, unless the user says what it is."""
        as_given = self._batch_dims[site.name] is not None or (reducer is not None and reducer.makes_batch)
        return site if as_given else site.unfolded()

    def _owner_source(self, site: Site) -> OwnerSource | None:
        """Where the samples are said to which the site's rows belong; None where its rows are samples."""
        example = self._dry.example
        if self._owners is not None:
            key = self._owners[site.name]
            return None if key is None else OwnerSource(key)
        if example.owners is None or not site.shape or len(example.owners) != site.shape[0]:
            return None
        owners = OwnerSource(None)
        if site.shape[0] == example.rows and not torch.equal(owners.of(example), torch.arange(example.rows)):
            raise SiteError(
                f"{site.name}, of shape {site.shape}, has as many rows as there are samples, and rows= gives a sample "
                "for each of so many rows. Say which sites these are of: a pair of the number of samples and "
                f"{{{site.name!r}: …}}.",
                arguments=("rows",),
            )
        return owners if site.shape[0] != example.rows else None

    def _nodes(self, site: Site, batch_dim: int) -> NodeAxis:
        """The node axis of the activation when the batch is axis 0."""
        given, ndim, found = self._node_dims[site.name], len(site.shape), site.nodes
        if given is not None and site.folded is not None and given > 0:
            given += 1  # it is said of the activation as the model gives it
        if given is not None:
            if not -ndim <= given < ndim or given % ndim == batch_dim:
                raise SiteError(
                    f"node_dim is {given} for {site.name}, whose shape is {site.shape}, with the batch as axis "
                    f"{batch_dim}.",
                    arguments=("node_dim",),
                )
            found = NodeAxis(given % ndim, "node_dim")
        if found.known_by == "shape" or found.axis == batch_dim:
            return node_axis_by_shape(ndim)
        return found._replace(axis=found.axis + 1) if found.axis < batch_dim else found

    def _mask(self, site: Site, reducer: Reducer | None, positions: tuple[int, int] | None) -> MaskSource | None:
        """The mask that tells the site's real tokens from padding, where what is kept has or pools positions."""
        pools = reducer is not None and reducer.pools
        if not pools and reducer is not None and not reducer.keeps_positions:
            return None
        asked, inputs = self._masks[site.name], self._dry.example.inputs
        if asked is None:
            found = None if positions is None else choose_mask(self._model, inputs, positions, site.name)
            return found if found is None or pools or is_mask(found.of(inputs)) else None
        mask = given_mask(self._model, inputs, asked)
        if mask is None or pools or tuple(mask.of(inputs).shape) == positions:
            return mask
        if not self._masks_by_site:
            return None  # it is for other sites
        raise SiteError(
            f"mask= has {mask.name!r} for {site.name}, of shape {site.shape}; the mask's is "
            f"{tuple(mask.of(inputs).shape)}, and it has to be (batch, position).",
            arguments=("mask",),
        )

    def _reduced(
        self,
        site: Site,
        reducer: Reducer | None,
        batch_dim: int,
        nodes: NodeAxis,
        mask: MaskSource | None,
        owners: OwnerSource | None,
    ) -> Reduced:
        """What would be kept of the example's activation, in shape and dtype."""
        example = self._dry.example
        real = None if mask is None else Mask.of(mask.of(example.inputs))
        if site.unusual is not None and (reducer is None or not reducer.makes_batch):
            check_storable(site, site.unusual)
        given = torch.zeros(site.shape, dtype=site.dtype) if site.unusual is None else site.unusual
        of_rows = None if owners is None else owners.of(example)
        return _kept(given, reducer, batch_dim, nodes.axis, real, example.rows, of_rows)

    def pooled(self, planned: Sequence[PlannedSite]) -> dict[str, tuple[int, int]]:
        """The (batch, position) of the sites that are pooled over positions which no mask tells from padding."""
        found = {}
        for one, site in zip(planned, self._dry.sites, strict=True):
            positions = _positions(site, one.batch_dim, one.nodes, one.reducer)
            pools = one.reducer is not None and one.reducer.pools
            if pools and positions is not None and one.mask is None and self._masks[site.name] is None:
                found[site.name] = positions
        return found


def _in_parts(site: Site) -> SiteError:
    return SiteError(
        f"{site.name} ({site.type}) is another tensor in each of the processes that run the model together, here of "
        f"shape {site.shape}, so each has a part of the activation. Have the model keep it as a DTensor, which is "
        "gathered: parallelize_module with use_local_output=False; or select other sites (sites=, exclude=).",
        arguments=("sites", "exclude"),
    )


def _as_given(nodes: NodeAxis, batch_dim: int) -> NodeAxis:
    """The node axis where the batch is still the axis that the model makes it."""
    return nodes._replace(axis=nodes.axis - (0 < nodes.axis <= batch_dim))


def _positions(site: Site, batch_dim: int, nodes: NodeAxis, reducer: Reducer | None) -> tuple[int, int] | None:
    """The (batch, position) of an activation whose samples have one axis beside that of the nodes; None for others.

    Those of an attention map are its queries, on the last axis but one.
    """
    moved = [site.shape[batch_dim], *(length for axis, length in enumerate(site.shape) if axis != batch_dim)]
    if reducer is not None and reducer.of_attention and len(moved) in (3, 4):
        return moved[0], moved[-2]
    return (moved[0], moved[3 - nodes.axis]) if len(moved) == 3 else None


def _kept(
    tensor: Tensor,
    reducer: Reducer | None,
    batch_dim: int,
    nodes: int,
    mask: Mask | None,
    rows: int,
    owners: Tensor | None,
) -> Reduced:
    """What is kept of an activation, whose `nodes` axis counts when the batch is axis 0."""
    moved = tensor.movedim(batch_dim, 0) if batch_dim else tensor
    if owners is not None:
        return rows_of_samples(moved, reducer, nodes, owners)
    if reducer is not None:
        return reducer(moved, mask, rows=rows, nodes=nodes)
    return Reduced(moved, nodes=nodes, real=mask if moved.dim() == 3 else None)


def _by_site(given: Any, table: SiteTable, modules: Modules) -> dict[str, Any]:
    """The option of each site, None where there is none: one for all, or by selector, whose first match counts."""
    if not isinstance(given, Mapping):
        return dict.fromkeys(table.names, given)
    chosen: dict[str, Any] = dict.fromkeys(table.names)
    index, names = SiteIndex([site.parts for site in table], modules), {site.parts: site.name for site in table}
    for selector, value in reversed(list(given.items())):
        picked = [site for site in index.candidates(selector) if is_about(selector, site, modules)]
        if not picked:
            where = f"the captured sites of {table.model}"
            lister = "probekit.plan(model, data), or `probekit plan` on the command line"
            raise no_match(selector, dict.fromkeys(table.names), where, f"List them with {lister}.")
        chosen |= dict.fromkeys((names[site] for site in picked), value)
    return chosen
