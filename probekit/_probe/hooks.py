"""Forward hooks on any torch model: on for a block, off after it, whatever ends the block."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import cached_property
from types import TracebackType
from typing import Any, Self, TypeAlias

import torch
from torch import Tensor, nn

from probekit._nested import leaves
from probekit._probe.calls import CallCounter, in_backward
from probekit._probe.operations import OperationFollower
from probekit._probe.selectors import Rule, Selector, asks_for, module_names, no_match, rules, selected_modules, selects
from probekit._probe.site_name import SiteName
from probekit.errors import SiteError

__all__ = ["Probe", "Record"]

Record: TypeAlias = Callable[[SiteName, Tensor], None]
Hook: TypeAlias = Callable[..., None]


class Probe:
    """Activations of the sites that `sites` selects, recorded while the block runs.

    Args:
        model: any torch module; it is not moved, and its mode and its hooks stay as they are.
        sites: a selector: a glob (``*`` stops at a dot, ``**`` doesn't), a compiled regex, a module type, a callable
            ``(name, module) -> bool``, or a list of these. ``layers.0`` is what a module returns, ``layers.0:input``
            what it is given, ``layers.0:grad`` the gradient with respect to what it returns, known after the caller's
            ``backward()``; ``layers.0~relu_0`` is the first functional relu (not a module) in its forward.
        exclude: a selector of sites to leave out.
        record: called with (site name, detached tensor) at the moment a tensor is made, instead of keeping a copy
            for `take`. Here the name always carries its call. The tensor is the model's own: copy it before the
            callable returns, since an in-place operation may overwrite it.

    Raises:
        SiteError: a selector matches no module of the model.

    Example:
        >>> import torch, probekit as pk
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU())
        >>> with pk.Probe(model, [torch.nn.ReLU, "0:input"]) as probe:
        ...     y = model(torch.ones(2, 4))
        ...     activations = probe.take()
        >>> torch.equal(activations["1"], y), activations["0:input"].shape
        (True, torch.Size([2, 4]))
    """

    def __init__(
        self,
        model: nn.Module,
        sites: Selector = "**",
        *,
        exclude: Selector | None = None,
        record: Record | None = None,
    ) -> None:
        self._model = model
        self._model_name = type(model).__name__
        self._modules = module_names(model)
        if any(isinstance(module, torch.jit.ScriptModule) for module in self._modules.values()):
            raise SiteError(
                f"{self._model_name} holds scripted or traced modules, which run without hooks. Probe the model "
                "before it is scripted or traced."
            )
        self._rules: list[Rule] = rules(sites)
        self._excluded: list[Rule] = [] if exclude is None else rules(exclude)
        for selector in (self._rules, self._excluded):
            if selector:
                selected_modules(model, selector)  # raises for a name that picks nothing
        self._record = record or self._keep
        self._takes = record is None
        self._hooks = ExitStack()
        self._attached = False
        self._calls = CallCounter(self._begin_pass)
        self._operations = OperationFollower(self._calls, self._on_operation)
        self._wanted: dict[SiteName, bool] = {}
        self._pass: dict[SiteName, Tensor] = {}  # kept of the pass under way
        self._edges: list[torch.autograd.graph.GradientEdge] = []  # of the gradient sites of this pass
        self._kept: list[dict[SiteName, Tensor]] = []  # one a pass that ended well

    def __enter__(self) -> Self:
        with ExitStack() as hooks:  # a failure while attaching removes what is on already
            hooks.callback(self._model.register_forward_pre_hook(self._calls.begin, prepend=True).remove)
            if self._of("op"):
                self._operations.attach(self._modules, hooks)
            for name, module in self._selected("input"):
                hooks.callback(module.register_forward_pre_hook(self._on_input(name), with_kwargs=True).remove)
            for name, module in self._selected("grad"):
                hooks.callback(module.register_forward_hook(self._on_gradient(name)).remove)
            for name, module in self._selected(""):
                hooks.callback(module.register_forward_hook(self._on_output(name)).remove)
            hooks.callback(self._model.register_forward_hook(self._complete).remove)
            hooks.callback(self._model.register_forward_hook(self._calls.end, always_call=True).remove)
            self._hooks = hooks.pop_all()
        self._attached = True
        self._calls.reset()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._attached = False
        self._hooks.close()

    def take(self) -> dict[str, Tensor]:
        """The activations of each site since the last `take`: batches of several forward passes joined along axis 0.

        Raises:
            SiteError: nothing ran, a selector picked nothing that ran, or a module ran in some passes only.
        """
        return {str(site): tensor for site, tensor in self.take_by_site().items()}

    def take_by_site(self) -> dict[SiteName, Tensor]:
        """`take`, by the sites' names as their parts, which no text can be mistaken for."""
        passes, self._kept = self._kept, []
        if not passes:
            raise SiteError(
                f"No module of {self._model_name} has run since the last take(). Run the model inside the block; a "
                "compiled or exported copy of it doesn't run its modules, so probe the original."
            )
        named = self._named(passes)
        self._calls.forget()
        left_out = [site for site, wanted in self._wanted.items() if not wanted]
        for rule in self._rules:
            if not any(self._picks(rule, site) for site in (*named, *left_out)):
                ran = {str(site): None for site in named}
                raise no_match(rule, ran, f"the forward pass of {self._model_name}")
        return {site: self._join(site, tensors) for site, tensors in named.items()}

    def _join(self, site: SiteName, tensors: list[Tensor]) -> Tensor:
        try:
            if len(tensors) == 1:
                return tensors[0]
            return torch.cat(tensors) if tensors[0].dim() else torch.stack(tensors)
        except RuntimeError as error:
            raise SiteError(f"The outputs of {site} of {self._model_name} can't be joined: {error}") from error

    def backward(self, loss: Tensor) -> None:
        """Send the gradient of `loss` back to the ``:grad`` sites of the last pass; no parameter's ``.grad`` changes.

        Raises:
            SiteError: `loss` is not a scalar, or there is no site to send to.
        """
        if loss.dim() or not self._edges:
            raise SiteError(
                f"Gradients need a scalar loss and ':grad' sites that ran; this loss has shape {tuple(loss.shape)}, "
                f"and {len(self._edges)} ':grad' sites of {self._model_name} ran."
            )
        edges, self._edges = self._edges, []
        torch.autograd.grad(loss, edges, allow_unused=True)  # the hooks on the sites' tensors record

    # Which sites

    def _of(self, part: str) -> list[Rule]:
        """The rules that can pick outputs (``""``), or sites with a `part` such as ``input``."""
        if part:
            return self._asked[part]
        return [rule for rule in self._rules if all(rule not in of for of in self._asked.values())]

    @cached_property
    def _asked(self) -> dict[str, list[Rule]]:
        parts = ("input", "grad", "op")
        return {part: [rule for rule in self._rules if asks_for(rule, part, self._modules)] for part in parts}

    def _selected(self, side: str) -> Iterable[tuple[str, nn.Module]]:
        wanted = self._of(side)
        return selected_modules(self._model, wanted).items() if wanted else ()

    def _picks(self, rule: Rule, site: SiteName) -> bool:
        return selects(rule, site, self._modules.get(site.module))

    def _wants(self, site: SiteName) -> bool:
        wanted = self._wanted.get(site)
        if wanted is None:
            # Whether the name will carry a call isn't known before the pass has ended.
            forms = (site, site._replace(call=None))
            picked, left_out = (
                any(self._picks(rule, form) for rule in chosen for form in forms)
                for chosen in (self._rules, self._excluded)
            )
            wanted = self._wanted[site] = picked and not left_out
        return wanted

    def _named(self, passes: list[dict[SiteName, Tensor]]) -> dict[SiteName, list[Tensor]]:
        """The tensors of each selected site, one a pass, under names that carry a call only where there are several."""
        recorded = dict.fromkeys(site for kept in passes for site in kept)
        several = self._calls.several
        named = {}
        for site in recorded:
            name = site if site.module in several else site._replace(call=None)
            if any(site not in kept for kept in passes):
                ran = sum(site in kept for kept in passes)
                raise SiteError(
                    f"{name} of {self._model_name} ran in {ran} of {len(passes)} forward passes, so its rows can't be "
                    "joined. Call probe.take() after every pass."
                )
            if any(self._picks(rule, name) for rule in self._rules):
                named[name] = [kept[site] for kept in passes]
        return named

    # Forward passes

    def _begin_pass(self, of_part: bool) -> None:
        self._pass, self._edges = {}, []
        if of_part:  # nothing tells when it ends
            self._keep_pass()

    def _complete(self, module: nn.Module, args: Any, output: Any) -> None:
        if self._calls.outermost:
            self._keep_pass()

    def _keep_pass(self) -> None:
        if self._takes:
            self._kept.append(self._pass)

    # What is recorded

    def _on_output(self, name: str) -> Hook:
        plain: dict[int, SiteName] = {}  # of outputs that are one tensor, by call: most sites, most of the time

        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if in_backward():
                return
            call = self._calls.count(name, "")
            site = plain.get(call) or plain.setdefault(call, SiteName(name, call))
            self._take_leaves(site, leaves(output))

        return hook

    def _on_input(self, name: str) -> Hook:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[Any, Any]) -> None:
            given: Any = args[0] if len(args) == 1 and not kwargs else dict(enumerate(args)) | kwargs
            if not in_backward():
                self._take_leaves(SiteName(name, self._calls.count(name, "input"), side="input"), leaves(given))

        return hook

    def _on_gradient(self, name: str) -> Hook:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if in_backward():
                return
            site = SiteName(name, self._calls.count(name, "grad"), side="grad")
            if not torch.is_grad_enabled():
                raise SiteError(
                    f"{site._replace(call=None)} of {self._model_name} needs gradients, which are off here."
                )
            for leaf, tensor in leaves(output):
                if tensor.is_floating_point() and self._wants(site._replace(leaf=leaf)):
                    # A hook on the tensor sees the gradient of the value as it is now, also if the value is
                    # overwritten in place afterwards.
                    tensor.requires_grad_().register_hook(self._on_backward(site._replace(leaf=leaf), self._pass))
                    self._edges.append(torch.autograd.graph.get_gradient_edge(tensor))

        return hook

    def _on_backward(self, site: SiteName, forward: dict[SiteName, Tensor]) -> Callable[[Tensor], None]:
        def hook(gradient: Tensor) -> None:
            if self._attached:
                now, self._pass = self._pass, forward
                self._record(site, gradient.detach())
                self._pass = now

        return hook

    def _take_leaves(self, site: SiteName, found: Iterable[tuple[str, Tensor]]) -> None:
        # What the probe itself does to tensors is not an operation of the model's.
        before, self._operations.paused = self._operations.paused, True
        try:
            for leaf, tensor in found:
                leaf_site = site._replace(leaf=leaf) if leaf else site
                if self._wants(leaf_site):
                    if tensor.is_nested:
                        named = f"{leaf_site._replace(call=None)} of {self._model_name}"
                        raise SiteError(
                            f"{named} gave a nested tensor, from torch's fast path for transformer layers. Turn that "
                            "off: torch.backends.mha.set_fastpath_enabled(False)."
                        )
                    self._record(leaf_site, tensor.detach() if tensor.requires_grad else tensor)
        finally:
            self._operations.paused = before

    def _keep(self, site: SiteName, tensor: Tensor) -> None:
        # A copy now: an in-place operation later, even through .data, leaves no trace that could be checked.
        self._pass[site] = tensor.clone()

    def _on_operation(self, site: SiteName, result: Any) -> None:
        self._take_leaves(site, leaves(result))
