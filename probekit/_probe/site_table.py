"""The table of a model's sites, from one run on an example."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from probekit._nested import tensors
from probekit._probe.folding import folded_sites
from probekit._probe.hooks import Probe
from probekit._probe.model_run import copied, device_of, every_module_runs, run, running
from probekit._probe.module_hook import HookStack, attach
from probekit._probe.node_axes import NodeAxes, NodeAxis
from probekit._probe.selectors import (
    Rule,
    RuleIndex,
    Selector,
    asks_for,
    module_names,
    no_match,
    rules,
    selected_modules,
)
from probekit._probe.sharded import parts, whole
from probekit._probe.site_name import SiteName
from probekit._probe.site_tree import site_tree
from probekit._probe.tensor_kinds import has_gradient, unusual
from probekit._sizes import Size, format_size
from probekit._table import ShownAsTable, Table
from probekit.errors import ModelError, SiteError

__all__ = ["Site", "SiteTable", "find_sites", "sites", "with_folds"]


_COLUMNS = ("site", "kind", "type", "calls", "shape", "nodes", "dtype", "parameters", "bytes/sample")


@dataclass(frozen=True)
class Site:
    """One site of a model, and the activation that a forward pass on the example gave there.

    `kind` is output, input, gradient or operation. `shape` is the whole activation's, axis 0 the batch where the site
    can be captured; `nodes` says which of its axes counts the nodes, and how that is known. `calls` is how often its
    module ran in the pass; `parameters` counts those of the module itself and below it. `folded` is the number of
    positions of a sample where axis 0 is sample × position, and else None.
    """

    name: str
    parts: SiteName
    kind: str
    module: str
    type: str
    calls: int
    shape: tuple[int, ...]
    nodes: NodeAxis
    dtype: torch.dtype
    parameters: int
    unusual: Tensor | None = field(repr=False, compare=False)  # the activation, where zeros can't stand for its kind
    part: bool = False  # of the activation, of which other processes have the rest
    folded: int | None = None

    @property
    def bytes_per_sample(self) -> int:
        """Bytes of one sample's activation, in the dtype that the model gives."""
        count = self.folded or 1
        for length in self.shape[1:]:
            count *= length
        return count * self.dtype.itemsize

    @property
    def shown_shape(self) -> str:
        """Such as ``8×16``, or ``(2·4)×16`` where axis 0 is sample × position."""
        first, *rest = self.shape or ("scalar",)
        if self.folded is not None:
            first = f"({self.shape[0] // self.folded}·{self.folded})"
        return "×".join(map(str, (first, *rest)))

    def unfolded(self) -> Site:
        """The same with the position as axis 1, where axis 0 is sample × position."""
        if self.folded is None:
            return self
        rest = self.shape[1:] or (1,)
        known_by = "unfolded" if self.nodes.known_by == "shape" else self.nodes.known_by
        nodes = NodeAxis(max(1, self.nodes.axis) + 1, known_by)
        return replace(self, shape=(self.shape[0] // self.folded, self.folded, *rest), nodes=nodes)


class SiteTable(ShownAsTable, Sequence[Site]):
    """Sites in the order in which the model ran them; prints as a table, also in a notebook."""

    def __init__(self, model: str, rows: Sequence[Site]) -> None:
        self.model = model
        self._rows = tuple(rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        return self._rows[index]

    @property
    def names(self) -> list[str]:
        return [site.name for site in self]

    @property
    def table(self) -> Table:
        """One row a site."""
        return Table(f"{self.model}: {len(self)} sites", _COLUMNS, [_row(site) for site in self])

    def _repr_html_(self) -> str:
        """A tree that folds as the modules are nested, and the table."""
        tree = site_tree((site.name, _facts(site)) for site in self)
        return f"{tree}\n{self.table.folded()}"


def _facts(site: Site) -> tuple[str, ...]:
    """What is most worth knowing of a site."""
    dtype = str(site.dtype).removeprefix("torch.")
    return site.type, site.shown_shape, dtype, f"{format_size(site.bytes_per_sample)} a sample"


def _row(site: Site) -> tuple[object, ...]:
    return (
        site.name,
        site.kind,
        site.type,
        site.calls,
        site.shown_shape,
        site.nodes.shown(len(site.shape)),
        str(site.dtype).removeprefix("torch."),
        site.parameters,
        Size(site.bytes_per_sample),
    )


def sites(model: nn.Module, example: Any, *, select: Selector = "**", exclude: Selector | None = None) -> SiteTable:
    """Every site of `model` that `select` picks, with its kind, type, calls, shape, dtype and bytes a sample.

    Runs the model once on `example` in eval mode without gradients, and leaves it as it was: training flags, buffers,
    attributes, the state of the random generators, and hooks. Where an axis 0 is as long as sample × position, further
    passes find out whether it is that, which the shape shows: ``(2·4)×16``.

    Args:
        model: any torch module; not moved.
        example: one batch of inputs: a tensor, a tuple of positional or a dict of keyword arguments. The model gets a
            copy.
        select: a selector, by default what every module returns. ``["**", "**:input", "**~*"]`` adds what each is
            given, and the operations in the bodies of their forwards.
        exclude: a selector of sites to leave out.

    Raises:
        SiteError: the selector picks nothing.
        ModelError: the model can't run on the example.

    Example:
        >>> import torch, probekit as pk
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU())
        >>> pk.sites(model, torch.ones(2, 4)).names
        ['0', '1', '(root)']
    """
    module_names(model)  # raises for what has no modules that run
    with running(model), every_module_runs():
        found = find_sites(model, copied(example), select, exclude)
    rows = {len(tensor) for tensor in tensors(example) if tensor.dim()}
    return with_folds(model, example, rows.pop(), found) if len(rows) == 1 else found


def find_sites(model: nn.Module, inputs: Any, select: Selector, exclude: Selector | None) -> SiteTable:
    """`sites` of a model that is set to run, which may write to the inputs."""
    modules = module_names(model)
    if any(is_lazy(tensor) for tensor in (*model.parameters(), *model.buffers())):
        raise ModelError(
            f"{type(model).__name__} has lazy modules, whose shapes the first batch sets, so a dry run would set "
            "them. Run the model once first."
        )
    asked, left_out = rules(select), [] if exclude is None else rules(exclude)
    if left_out:
        selected_modules(model, left_out)  # raises for a name that picks nothing
    axes = NodeAxes()
    with HookStack(modules.values()) as hooks, Probe(model, list(map(_forward, asked))) as probe:
        for module in modules.values():
            attach(module.register_forward_hook, module, axes.after, hooks, prepend=True)
        with axes:
            run(model, inputs, device_of(model))
            found = probe.take_by_site()
    axes_of = {site: axes.of(tensor) for site, tensor in found.items()}
    found = {site: whole(tensor) for site, tensor in found.items()}
    in_parts = parts(model, modules, found)
    picked, excluded = RuleIndex(asked), RuleIndex(left_out)
    calls: dict[str, set[int | None]] = defaultdict(set)
    for site in found:
        calls[site.module].add(site.call)
    rows = []
    for site, tensor in found.items():
        module = modules[site.module]
        for form in (site,) if site.side or site.op else (site, site._replace(side="grad")):
            wanted = picked.picks(form, modules) and not excluded.leaves_out(form, modules)
            if wanted and (form.side != "grad" or has_gradient(tensor)):
                row = _site(form, module, tensor, axes_of[site], len(calls[site.module]))
                rows.append(replace(row, part=site in in_parts))
    # Outputs that can have no gradient aren't selected by a rule for gradients.
    for_gradients = RuleIndex([] if left_out else (rule for rule in asked if asks_for(rule, "grad")))
    for rule in for_gradients.unmatched([row.parts for row in rows], modules):
        raise no_match(rule, {row.name: None for row in rows}, f"the gradients of {type(model).__name__}")
    return SiteTable(type(model).__name__, rows)


def with_folds(
    model: nn.Module,
    inputs: Any,
    rows: int,
    table: SiteTable,
    begin: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> SiteTable:
    """The sites for so many rows of `inputs`, with `folded` where axis 0 is sample × position; see `folded_sites`."""
    folded = folded_sites(model, inputs, rows, {site.parts: site.shape for site in table}, begin)
    return SiteTable(table.model, [replace(site, folded=folded.get(site.parts)) for site in table])


def _forward(rule: Rule) -> Rule:
    """The rule for outputs that stands in for one for gradients, which have the same shape and need no loss then."""
    if not asks_for(rule, "grad"):
        return rule
    if not isinstance(rule, str):
        raise SiteError(f"{rule!r} asks for gradients. Select these with a glob, such as 'layers.*:grad'.")
    return rule.replace(":grad", "")


def _site(site: SiteName, module: nn.Module, tensor: Tensor, nodes: NodeAxis, calls: int) -> Site:
    return Site(
        name=str(site),
        parts=site,
        kind="operation" if site.op else {"": "output", "input": "input", "grad": "gradient"}[site.side],
        module=site.module,
        type=site.op.rpartition("_")[0] if site.op else type(module).__name__,
        calls=calls,
        shape=tuple(tensor.shape),
        nodes=nodes,
        dtype=tensor.dtype,
        parameters=0 if site.op else sum(parameter.numel() for parameter in module.parameters()),
        unusual=None if unusual(tensor) is None else tensor,
    )
