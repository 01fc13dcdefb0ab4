"""Forward hooks on any torch model: on for a block, off after it, whatever ends the block."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from types import TracebackType
from typing import Any, Self, TypeAlias

import torch
from torch import Tensor, nn

from probekit._nested import leaves
from probekit._probe.calls import CallCounter, in_backward
from probekit._probe.compilation import eager
from probekit._probe.gradients import Awaited, carrying_gradients, replaced
from probekit._probe.kept_pass import Pass
from probekit._probe.module_hook import HookStack, attach
from probekit._probe.operations import OperationFollower
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
from probekit._probe.site_name import SiteName
from probekit._probe.tensor_kinds import has_gradient, nested, outside_transforms, transformed
from probekit.errors import SiteError

__all__ = ["Probe", "Record", "probing"]

Record: TypeAlias = Callable[[SiteName, Tensor], None]
Hook: TypeAlias = Callable[..., Any]


class Probe:
    """Activations of the sites that `sites` selects, recorded while the block runs.

    Args:
        model: any torch module; it is not moved, and its mode and its hooks stay as they are.
        sites: a selector: a glob (``*`` stops at a dot, ``**`` doesn't), a compiled regex, a module type, a callable
            ``(name, module) -> bool``, or a list of these. ``layers.0`` is what a module returns, ``layers.0:input``
            what it is given, ``layers.0:grad`` the gradient with respect to what it returns, known after the caller's
            ``backward()`` and 0 where the loss doesn't depend on it; ``layers.0~relu_0`` is the first functional relu
            (not a module) in its forward.
        exclude: a selector of sites to leave out.
        record: called with (site name, detached tensor) at the moment a tensor is made, instead of keeping a copy
            for `take`. Here the name always carries its call. The tensor is the model's own: copy it before the
            callable returns, since an in-place operation may overwrite it.

    Of a model that several processes run together, it gives what this process has: a DTensor, or a plain tensor that
    may be a part of the activation.

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
        self._picked, self._left_out = RuleIndex(self._rules), RuleIndex(self._excluded)
        for selector in (self._rules, self._excluded):
            if selector:
                selected_modules(model, selector)  # raises for a name that picks nothing
        self._record = record
        self._hooks = HookStack(self._modules.values())
        self._attached = False
        self._calls = CallCounter(self._model_name, self._modules.values(), self._begin_pass)
        self._operations = OperationFollower(self._calls, self._on_operation)
        self._wanted: dict[SiteName, bool] = {}
        self._pass = Pass()  # under way
        self._kept: list[Pass] = []  # one a pass that ended well

    def __enter__(self) -> Self:
        if self._attached:
            raise SiteError(
                f"This probe of {self._model_name} is on already: its block hasn't ended. Make a second probe for a "
                "block within it."
            )
        model = self._model
        hooks = self._hooks
        try:
            hooks.enter_context(eager())
            attach(model.register_forward_pre_hook, model, self._calls.begin, hooks, prepend=True)
            if self._of("op"):
                self._operations.attach(self._modules, hooks)
            for name, module in self._selected("input"):
                attach(module.register_forward_pre_hook, module, self._on_input(name), hooks, with_kwargs=True)
            for name, module in self._selected("grad"):
                attach(module.register_forward_hook, module, self._on_gradient(name), hooks)
            for name, module in self._selected(""):
                attach(module.register_forward_hook, module, self._on_output(name), hooks)
            attach(model.register_forward_hook, model, self._complete, hooks)
            attach(model.register_forward_hook, model, self._calls.end, hooks, always_call=True)
            hooks.callback(self._calls.reset)
        except BaseException:
            hooks.close()  # what is on already
            raise
        self._attached = True
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
        named = self._named([one.with_zeros() for one in passes])
        self._calls.forget()
        left_out = [site for site, wanted in self._wanted.items() if not wanted]
        for rule in self._picked.unmatched((*named, *left_out), self._modules):
            raise self._unmatched(rule, named, passes)
        return {site: self._join(site, tensors) for site, tensors in named.items()}

    def _unmatched(self, rule: Rule, named: Iterable[SiteName], passes: list[Pass]) -> SiteError:
        if rule in self._of("grad") and any(one.awaited for one in passes):
            return SiteError(
                f"The gradients at {rule!r} of {self._model_name} aren't known yet. Call probe.backward(loss) or "
                "loss.backward() before probe.take()."
            )
        return no_match(rule, {str(site): None for site in named}, f"the forward pass of {self._model_name}")

    def _join(self, site: SiteName, tensors: list[Tensor]) -> Tensor:
        if len(tensors) == 1:
            return tensors[0]
        try:
            return torch.cat(tensors) if tensors[0].dim() else torch.stack(tensors)
        except RuntimeError as error:
            raise SiteError(f"The outputs of {site} of {self._model_name} can't be joined: {error}") from error

    def backward(self, loss: Tensor) -> None:
        """Send the gradient of `loss` back to the ``:grad`` sites of the last pass; no parameter's ``.grad`` changes.

        At a site on which the loss doesn't depend it is 0.

        Raises:
            SiteError: `loss` is not a scalar, there is no site to send to, or it depends on none of them.
        """
        edges = {site: one.edge for site, one in self._pass.awaited.items() if one.edge is not None}
        if loss.dim() or not edges:
            raise SiteError(
                f"Gradients need a scalar loss and ':grad' sites that ran; this loss has shape {tuple(loss.shape)}, "
                f"and {len(edges)} ':grad' sites of {self._model_name} ran."
            )
        self._pass.check_views()
        for site in edges:  # what a backward pass within the forward pass left is no gradient of this loss
            self._pass.tensors.pop(site, None)
        # The hooks on the sites' tensors record.
        found = torch.autograd.grad(loss, [*edges.values()], allow_unused=True) if loss.requires_grad else (None,)
        if all(gradient is None for gradient in found):
            raise SiteError(
                f"The loss depends on none of the {len(edges)} ':grad' sites of {self._model_name} that ran, such as "
                f"{next(iter(edges))._replace(call=None)}. Select sites that it is computed from, or give a loss "
                "that depends on them."
            )
        for site, gradient in zip(edges, found, strict=True):
            if gradient is None:
                self._give(site, self._pass.awaited[site].zeros(), self._pass)
        self._pass.awaited.clear()

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

    def _wants(self, site: SiteName) -> bool:
        wanted = self._wanted.get(site)
        if wanted is None:
            # Whether the name will carry a call isn't known before the pass has ended.
            forms = (site, site._replace(call=None))
            picked = any(self._picked.picks(form, self._modules) for form in forms)
            left_out = any(self._left_out.leaves_out(form, self._modules) for form in forms)
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
            if self._picked.picks(name, self._modules):
                named[name] = [kept[site] for kept in passes]
        return named

    # Forward passes

    def _begin_pass(self, of_part: bool) -> None:
        for one in self._pass.awaited.values():
            one.edge = None  # which keeps the graph of the pass before
        self._pass = Pass()
        if of_part:  # nothing tells when it ends
            self._keep_pass()

    def _complete(self, *seen: object) -> None:
        if self._calls.outermost and not in_backward():
            self._keep_pass()

    def _keep_pass(self) -> None:
        if self._record is None:
            self._kept.append(self._pass)

    # What is recorded

    def _on_output(self, name: str) -> Hook:
        plain: dict[int, SiteName | None] = {}  # of outputs that are one tensor, by call; None for an unwanted one

        def act(args: Any, output: Any) -> None:
            if in_backward():
                return
            call = self._calls.count(name, "")
            if not isinstance(output, Tensor):
                self._take_leaves(SiteName(name, call), output)
                return
            if call not in plain:
                site = SiteName(name, call)
                plain[call] = site if self._wants(site) else None
            wanted = plain[call]
            if wanted is not None:
                self._take_tensor(wanted, output)

        return act

    def _on_input(self, name: str) -> Hook:
        def act(args: tuple[Any, ...], kwargs: dict[Any, Any]) -> None:
            given: Any = args[0] if len(args) == 1 and not kwargs else dict(enumerate(args)) | kwargs
            if not in_backward():
                self._take_leaves(SiteName(name, self._calls.count(name, "input"), side="input"), given)

        return act

    def _on_gradient(self, name: str) -> Hook:
        def act(args: Any, output: Any) -> Any:
            if in_backward():
                return None
            site = SiteName(name, self._calls.count(name, "grad"), side="grad")
            before, self._operations.paused = self._operations.paused, True
            try:
                return self._await_gradients(site, output)
            finally:
                self._operations.paused = before

        return act

    def _await_gradients(self, site: SiteName, output: Any) -> Any:
        """What goes on in place of the output; None where that is the output itself."""
        made: dict[int, Tensor] = {}
        for leaf, tensor in leaves(output):
            leaf_site = site._replace(leaf=leaf)
            if has_gradient(tensor) and self._wants(leaf_site):
                self._check_differentiable(leaf_site, tensor)
                if tensor.is_leaf and id(tensor) not in made:
                    made[id(tensor)] = carrying_gradients(tensor)
                self._await(leaf_site, made.get(id(tensor), tensor))
        return replaced(output, made) if made else None

    def _check_differentiable(self, site: SiteName, tensor: Tensor) -> None:
        if not torch.is_grad_enabled() or torch.is_inference_mode_enabled():
            raise SiteError(
                f"{self._shown(site)} needs gradients, which are off here: under torch.no_grad() or "
                "torch.inference_mode(), or in a reentrant checkpoint (give it use_reentrant=False)."
            )
        if transformed(tensor):
            raise SiteError(
                f"{self._shown(site)} runs inside torch.func.grad, vmap or the like, which take gradients of their "
                "own. Select gradients outside of it (sites=, exclude=)."
            )

    def _await(self, site: SiteName, tensor: Tensor) -> None:
        # A hook on the tensor sees the gradient of the value as it is now, also if that is overwritten in place later.
        tensor.register_hook(self._on_backward(site, self._pass))
        self._pass.awaited[site] = Awaited.of(tensor)

    def _on_backward(self, site: SiteName, forward: Pass) -> Callable[[Tensor], None]:
        def act(gradient: Tensor) -> None:
            if self._attached:
                self._give(site, gradient.detach(), forward)

        return act

    def _take_leaves(self, site: SiteName, value: Any) -> None:
        for leaf, tensor in leaves(value):
            leaf_site = site._replace(leaf=leaf) if leaf else site
            if self._wants(leaf_site):
                if leaf and leaf_site in self._pass.tensors:
                    raise SiteError(
                        f"{self._shown(leaf_site)} is the name of two tensors in one nested value. Give them keys "
                        "that differ without brackets, or leave this site out (exclude=)."
                    )
                self._take_tensor(leaf_site, tensor)

    def _take_tensor(self, site: SiteName, tensor: Tensor) -> None:
        operations = self._operations
        before, operations.paused = operations.paused, True  # what the probe does is no operation of the model's
        try:
            if tensor.is_nested:
                raise nested(self._shown(site))
            if transformed(tensor):
                with outside_transforms(tensor, self._shown(site)) as values:
                    self._give(site, values.detach(), self._pass)
            else:
                self._give(site, tensor.detach() if tensor.requires_grad else tensor, self._pass)
        finally:
            operations.paused = before

    def _give(self, site: SiteName, tensor: Tensor, into: Pass) -> None:
        if self._record is not None:
            self._record(site, tensor)
        else:
            # A copy now: an in-place operation later, even through .data, leaves no trace that could be checked.
            into.tensors[site] = tensor.clone()

    def _shown(self, site: SiteName) -> str:
        return f"{site._replace(call=None)} of {self._model_name}"

    def _on_operation(self, site: SiteName, result: Any) -> None:
        self._take_leaves(site, result)


@contextmanager
def probing(model: nn.Module, sites: Sequence[str], record: Record) -> Iterator[Probe]:
    """`Probe`'s block, which ends also where Ctrl-C comes just as its ``__exit__`` is called."""
    probe = Probe(model, sites, record=record)
    try:
        with probe:
            yield probe
    finally:
        probe.__exit__(None, None, None)
