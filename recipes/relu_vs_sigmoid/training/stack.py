"""Networks of one shape as one network, with every tensor stacked along a leading member axis, and Adam over them."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.adam import adam

from .networks import ACTIVATIONS, Config

__all__ = ["StackedAdam", "StackedNetwork"]

# Smaller gradients become 0. Saturated sigmoids give subnormal gradients, with which a CPU multiplies up to a hundred
# times slower; beside Adam's epsilon of 1e-8 they don't move a weight.
_NOTHING = 1e-20


class StackedNetwork:
    """Networks from `networks.build` that differ in activation and weights only, computed together.

    `tensors` has the names of a member's ``state_dict``. Each tensor has a leading member axis, and a linear layer's
    weight is (member, in, out). `gradients` has the names of the trainable tensors; each `backward` fills it again.
    Members of one activation must be neighbours, since an activation is applied to a slice of members.

    Networks may begin with a `Scale`. Training steps compute in `dtype`, or in the weights' dtype if it is None.
    Weights and gradients keep their dtype.
    """

    def __init__(
        self, networks: Sequence[nn.Sequential], configs: Sequence[Config], dtype: torch.dtype | None = None
    ) -> None:
        self._config = configs[0]
        self._dtype = dtype
        stretches = _stretches([config.activation for config in configs])
        self._activations = [ACTIVATIONS[configs[members.start].activation].module() for members in stretches]
        self._sizes = [members.stop - members.start for members in stretches]
        states = [network.state_dict() for network in networks]
        self.tensors = {name: torch.stack([_turned(state[name]) for state in states]) for name in states[0]}
        # Allocated once: new gradients of several MB at each step would cost a sixth of its time in page faults.
        self.gradients = {name: torch.zeros_like(self.tensors[name]) for name, _ in networks[0].named_parameters()}

    def unstack(self, member: int, into: nn.Sequential) -> None:
        """Copy one member's tensors into a plain network of the same shape."""
        into.load_state_dict({name: _turned(stacked[member]) for name, stacked in self.tensors.items()})

    @torch.no_grad()
    def logits(self, x: Tensor) -> Tensor:
        """Each member's logits (member, sample, class) for the samples x (sample, feature), in eval mode."""
        return self._forward(x.expand(sum(self._sizes), *x.shape), None)

    def backward(self, x: Tensor, y: Tensor) -> None:
        """Fill `gradients` with the gradients of each member's mean cross-entropy over its batch, in training mode.

        x is (member, sample, feature), y (member, sample). The running statistics of batch norm are updated.
        """
        taps = _Taps()
        logits = self._forward(x, taps)
        # Each member's mean, summed over members: no member's gradient depends on the others.
        logits = logits.to(self.tensors["head.weight"].dtype)
        loss = F.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="sum") / y.shape[1]
        upstream = torch.autograd.grad(loss, list(taps.outputs.values()))
        for name, gradient in zip(taps.outputs, upstream, strict=True):
            if name not in taps.inputs:
                self.gradients[name].copy_(gradient.view_as(self.gradients[name]))
                continue
            gradient = F.hardshrink(gradient, _NOTHING)
            _product(taps.inputs[name].transpose(1, 2), gradient, self.gradients[f"{name}.weight"])
            if f"{name}.bias" in self.gradients:
                torch.sum(gradient, 1, dtype=self.gradients[f"{name}.bias"].dtype, out=self.gradients[f"{name}.bias"])

    def _forward(self, h: Tensor, taps: _Taps | None) -> Tensor:
        if "scale.factor" in self.tensors:
            factor, shift = (self.tensors[f"scale.{name}"].unsqueeze(1) for name in ("factor", "shift"))
            h = torch.addcmul(shift, h, factor)
        for number in range(1, self._config.depth + 1):
            h = self._linear(f"linear{number}", h, taps)
            if self._config.batch_norm:
                h = self._norm(f"norm{number}", h, taps)
            outputs = [module(each) for module, each in zip(self._activations, h.split(self._sizes), strict=True)]
            h = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
        return self._linear("head", h, taps)

    def _linear(self, name: str, h: Tensor, taps: _Taps | None) -> Tensor:
        weight, bias = self.tensors[f"{name}.weight"], self.tensors.get(f"{name}.bias")
        if taps is not None and self._dtype is not None:
            h, weight, bias = h.to(self._dtype), weight.to(self._dtype), None if bias is None else bias.to(self._dtype)
        output = torch.bmm(h, weight) if bias is None else torch.baddbmm(bias.unsqueeze(1), h, weight)
        if taps is not None:
            taps.inputs[name], taps.outputs[name] = h.detach(), output.requires_grad_()
        return output

    def _norm(self, name: str, h: Tensor, taps: _Taps | None) -> Tensor:
        """Batch norm of every member at once, as independent columns (sample, member x node)."""
        columns = h.transpose(0, 1).reshape(h.shape[1], -1)
        scale, shift, mean, variance = (
            self.tensors[f"{name}.{tensor}"].flatten() for tensor in ("weight", "bias", "running_mean", "running_var")
        )
        if taps is not None:
            taps.outputs[f"{name}.weight"], taps.outputs[f"{name}.bias"] = (
                scale.requires_grad_(),
                shift.requires_grad_(),
            )
            self.tensors[f"{name}.num_batches_tracked"] += 1
        normed = F.batch_norm(columns, mean, variance, scale, shift, training=taps is not None)
        return normed.view(h.shape[1], h.shape[0], -1).transpose(0, 1)


def _product(left: Tensor, right: Tensor, out: Tensor) -> None:
    """Write the product of two stacks of matrices into `out`, whose dtype may be wider."""
    if out.dtype == right.dtype:
        torch.bmm(left, right, out=out)
    else:
        out.copy_(left @ right)


class _Taps:
    """What `backward` needs from a forward pass: linear layers' inputs, and the tensors to differentiate by."""

    def __init__(self) -> None:
        self.inputs: dict[str, Tensor] = {}
        self.outputs: dict[str, Tensor] = {}


class StackedAdam:
    """Adam (Kingma and Ba 2015) over a stacked network, with a learning rate for each member.

    Adam works element by element, so each member moves as it would with its own optimiser. `tensors` has Adam's state
    by name, each tensor with a leading member axis.
    """

    def __init__(self, network: StackedNetwork, learning_rates: Sequence[float]) -> None:
        stretches, trainable = _stretches(learning_rates), list(network.gradients)
        self.tensors = {
            f"{moment}.{name}": torch.zeros_like(network.gradients[name])
            for moment in ("mean", "square")
            for name in trainable
        }
        device = network.gradients["head.weight"].device
        self._steps = torch.zeros(len(stretches), len(trainable), device=device)
        self._groups = [
            (
                learning_rates[members.start],
                [network.tensors[name][members] for name in trainable],
                [network.gradients[name][members] for name in trainable],
                [self.tensors[f"mean.{name}"][members] for name in trainable],
                [self.tensors[f"square.{name}"][members] for name in trainable],
                list(self._steps[group]),
            )
            for group, members in enumerate(stretches)
        ]

    def step(self, number: int, decay: float) -> None:
        """Move the weights by their gradients, at `decay` times each member's learning rate; steps count from 0."""
        self._steps.fill_(number)  # adam itself adds one
        for rate, weights, gradients, means, squares, steps in self._groups:
            adam(
                weights, gradients, means, squares, [], steps,
                fused=True, amsgrad=False, beta1=0.9, beta2=0.999, lr=decay * rate, weight_decay=0.0, eps=1e-8,
                maximize=False,
            )  # fmt: skip


def _turned(tensor: Tensor) -> Tensor:
    """A linear layer's weight transposed; any other tensor unchanged."""
    return tensor.T if tensor.ndim == 2 else tensor


def _stretches(values: Sequence[Hashable]) -> list[slice]:
    """Slices of equal neighbours, in order."""
    stretches, start = [], 0
    for _, group in groupby(values):
        stretches.append(slice(start, start + len(list(group))))
        start = stretches[-1].stop
    return stretches
