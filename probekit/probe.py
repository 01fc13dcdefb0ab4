"""Forward hooks on any torch model: on for a block, off after it, whatever ends the block."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import fields, is_dataclass, replace
from types import TracebackType
from typing import Any, Self, TypeAlias

import torch
from torch import Tensor, nn

from probekit.errors import SiteError
from probekit.names import Rule, Selector, SiteName, no_match, rules, selected_modules, selects

__all__ = ["Probe", "Record"]

Record: TypeAlias = Callable[[SiteName, Tensor], None]


class Probe:
    """Activations of the sites that `sites` selects, recorded while the block runs.

    Args:
        model: any torch module; it is not moved, and its mode and its hooks stay as they are.
        sites: a selector: a glob (``*`` stops at a dot, ``**`` doesn't), a compiled regex, a module type, a callable
            ``(name, module) -> bool``, or a list of these.
        record: called with (site name, detached tensor) at the moment a module returns, in place of keeping a copy
            for `take`. Here the name always carries its call. The tensor is the model's own: copy it before the
            callable returns, since an in-place operation may overwrite it.

    Raises:
        SiteError: a selector matches no module of the model.

    Example:
        >>> import torch, probekit as pk
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU())
        >>> with pk.Probe(model, torch.nn.ReLU) as probe:
        ...     y = model(torch.ones(2, 4))
        ...     activations = probe.take()
        >>> torch.equal(activations["1"], y)
        True
    """

    def __init__(self, model: nn.Module, sites: Selector = "**", *, record: Record | None = None) -> None:
        self._model = model
        self._rules: list[Rule] = rules(sites)
        self._modules = selected_modules(model, sites)
        self._model_name = type(model).__name__
        self._record = record or self._keep
        self._hooks = ExitStack()
        self._depth = 0  # of the model's forward passes that are under way
        self._calls: dict[str, int] = defaultdict(int)  # of each module, in this pass
        self._wanted: dict[SiteName, bool] = {}
        self._pass: dict[SiteName, Tensor] = {}  # kept of the pass under way
        self._kept: list[dict[SiteName, Tensor]] = []  # one a pass that ended well

    def __enter__(self) -> Self:
        with ExitStack() as hooks:  # a failure while attaching removes what is on already
            hooks.callback(self._model.register_forward_pre_hook(self._begin, prepend=True).remove)
            for name, module in self._modules.items():
                hooks.callback(module.register_forward_hook(self._hook(name)).remove)
            hooks.callback(self._model.register_forward_hook(self._complete).remove)
            hooks.callback(self._model.register_forward_hook(self._end, always_call=True).remove)  # also if it raises
            self._hooks = hooks.pop_all()
        self._depth = 0
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hooks.close()

    def take(self) -> dict[str, Tensor]:
        """What each site gave since the last `take`: batches of several forward passes joined along axis 0.

        Raises:
            SiteError: nothing ran, a selector picked nothing that ran, or a module ran in some passes only.
        """
        passes, self._kept = self._kept, []
        if not passes:
            raise SiteError(
                f"Nothing of {self._model_name} ran since the last take(). Run the model inside the block; a compiled "
                "or exported copy of it doesn't run its modules, so probe the original."
            )
        found = {str(site): _join(tensors) for site, tensors in self._named(passes).items()}
        for rule in self._rules:
            if not any(self._picks(rule, SiteName.parse(name)) for name in found):
                raise no_match(rule, found, f"what {self._model_name} ran", "probekit.sites(model, example)")
        return found

    def _named(self, passes: list[dict[SiteName, Tensor]]) -> dict[SiteName, list[Tensor]]:
        """The tensors of each selected site, one a pass, under names that carry a call only where there are several."""
        recorded = dict.fromkeys(site for kept in passes for site in kept)
        several = {site.module for site in recorded if site.call}
        named = {}
        for site in recorded:
            name = site if site.module in several else replace(site, call=None)
            if any(site not in kept for kept in passes):
                ran = sum(site in kept for kept in passes)
                raise SiteError(
                    f"{name} of {self._model_name} ran in {ran} of {len(passes)} forward passes, so its rows can't be "
                    "joined. Call probe.take() after every pass."
                )
            if any(self._picks(rule, name) for rule in self._rules):
                named[name] = [kept[site] for kept in passes]
        return named

    def _picks(self, rule: Rule, site: SiteName) -> bool:
        return selects(rule, site, self._modules.get(site.module))

    def _begin(self, module: nn.Module, args: Any) -> None:
        if self._depth == 0:
            self._new_pass()
        self._depth += 1

    def _complete(self, module: nn.Module, args: Any, output: Any) -> None:
        if self._depth == 1:
            self._kept.append(self._pass)

    def _end(self, module: nn.Module, args: Any, output: Any) -> None:
        self._depth -= 1

    def _new_pass(self) -> None:
        self._calls.clear()
        self._pass = {}

    def _hook(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if self._depth == 0:  # a part of the model was called by itself
                self._new_pass()
                self._kept.append(self._pass)
            call = self._calls[name]
            self._calls[name] = call + 1
            for leaf, tensor in leaves(output):
                site = SiteName(name, call, leaf)
                if self._wants(site):
                    self._record(site, tensor.detach())

        return hook

    def _wants(self, site: SiteName) -> bool:
        if site not in self._wanted:
            # Whether the name will carry a call isn't known before the pass has ended.
            forms = (site, replace(site, call=None))
            self._wanted[site] = any(self._picks(rule, form) for rule in self._rules for form in forms)
        return self._wanted[site]

    def _keep(self, site: SiteName, tensor: Tensor) -> None:
        # A copy now: an in-place operation later, even through .data, leaves no trace that could be checked.
        self._pass[site] = tensor.clone()


def _join(tensors: list[Tensor]) -> Tensor:
    return torch.cat(tensors) if len(tensors) > 1 and tensors[0].dim() else torch.stack(tensors).squeeze(0)


def leaves(output: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors in a module's output, nested to any depth, each with its path such as ``[0]`` or ``[hidden]``."""
    if isinstance(output, Tensor):
        yield path, output
        return
    items: Iterable[tuple[object, Any]]
    if isinstance(output, Mapping):
        items = output.items()
    elif isinstance(output, list | tuple):
        items = zip(getattr(output, "_fields", range(len(output))), output, strict=True)
    elif is_dataclass(output):
        items = ((field.name, getattr(output, field.name)) for field in fields(output))
    else:
        items = ()
    for key, item in items:
        yield from leaves(item, f"{path}[{key}]")
