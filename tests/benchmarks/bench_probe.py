"""What a probe alone costs: ``python tests/benchmarks/bench_probe.py``.

The same forward pass with no hooks, with bare hooks that do nothing on every module, under a probe of every module
whose records go to a function that does nothing, and under one of every operation too. Then passes that keep all that
the modules give: by hooks that keep the tensors or copies of them, and by a probe's ``take()``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from statistics import median
from typing import NamedTuple

import torch
import torch.nn.functional as F
import torchvision
from harness import Figure, Row, Table, Timing, alone, in_turn, ratio
from torch import Tensor, nn

import probekit as pk

LAYERS, WIDTH, HEADS, VOCABULARY, POSITIONS = 12, 768, 12, 50257, 64  # of GPT-2 small, but for the positions


class Block(nn.Module):
    """One layer of a GPT-2-like decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attention, self.projection = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(approximate="tanh"), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        parts = self.attention(self.ln_1(x)).chunk(3, dim=-1)
        query, key, value = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in parts)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.projection(mixed.transpose(1, 2).flatten(2))
        return x + self.mlp(self.ln_2(x))


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(POSITIONS, WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1]))
        return self.head(self.norm(self.blocks(x)))


def mlp() -> nn.Module:
    return nn.Sequential(*(part for _ in range(8) for part in (nn.Linear(16, 16), nn.ReLU())))


@contextmanager
def hooks(model: nn.Module, keep: Callable[[Tensor], object]) -> Iterator[None]:
    """A hook on every module, which hands over what the module gives."""
    with ExitStack() as stack:
        for module in model.modules():
            hook = module.register_forward_hook(lambda module, args, output: keep(output) and None)
            stack.callback(hook.remove)
        yield


class Case(NamedTuple):
    """What is on the model meanwhile, and what is done once a pass."""

    around: Callable[[], AbstractContextManager[object]]
    step: Callable[[], object]


def attached(model: nn.Module, inputs: Tensor) -> dict[str, Case]:
    """Passes whose records go nowhere."""
    forward = partial(model, inputs)
    return {
        FORWARD: Case(nullcontext, forward),
        BARE: Case(lambda: hooks(model, lambda output: None), forward),
        PROBE: Case(lambda: pk.Probe(model, "**", record=lambda site, tensor: None), forward),
        OPERATIONS: Case(lambda: pk.Probe(model, ["**", "**~*"], record=lambda site, tensor: None), forward),
    }


def keeping(model: nn.Module, inputs: Tensor) -> dict[str, Case]:
    """Passes that keep what all modules give until they end."""
    kept: list[Tensor] = []
    probe = pk.Probe(model, "**")
    return {
        DETACHED: Case(
            lambda: hooks(model, lambda output: kept.append(output.detach())), lambda: (model(inputs), kept.clear())
        ),
        CLONED: Case(
            lambda: hooks(model, lambda output: kept.append(output.detach().clone())),
            lambda: (model(inputs), kept.clear()),
        ),
        TAKE: Case(lambda: probe, lambda: (model(inputs), probe.take())),
    }


FORWARD, BARE, PROBE, OPERATIONS = "forward only", "bare hooks", "probe, no-op record", "probe with operations (~)"
DETACHED, CLONED, TAKE = "hooks keep output.detach()", "hooks keep output.detach().clone()", "probe.take()"


@torch.no_grad()
def measure(options: argparse.Namespace) -> list[Table]:
    """What a probe alone costs."""
    few = 3 if options.quick else 1_000
    inputs = torch.randn(8, 3, 64, 64)
    resnet = compare("ResNet-18, 8 × 64²", torchvision.models.resnet18().eval(), inputs, rounds=min(few, 21))
    ids = torch.randint(0, VOCABULARY, (2, POSITIONS))
    gpt2 = compare(f"GPT-2 small, 2 × {POSITIONS}", Decoder().eval(), ids, rounds=1 if options.quick else 9, keep=False)
    small = compare("MLP of 16 layers of 16", mlp().eval(), torch.randn(1, 16), rounds=min(few, 51), passes=50)
    return [resnet, gpt2, small]


def compare(name: str, model: nn.Module, inputs: Tensor, *, rounds: int, passes: int = 1, keep: bool = True) -> Table:
    cases = attached(model, inputs) | (keeping(model, inputs) if keep else {})
    steps = {case: partial(repeat, each.step, passes) for case, each in cases.items()}
    times = in_turn(steps, rounds, around=lambda case: cases[case].around())
    calls = site_calls(model, inputs)
    table = Table(f"probe, {name}, {calls} sites{f', {passes} passes' * (passes > 1)}")
    table.add(
        Row.timed(FORWARD, times[FORWARD]),
        Row.timed(BARE, times[BARE], ratio(times[BARE], times[FORWARD], FORWARD)),
        Row.timed(PROBE, times[PROBE], *probe_figures(times, calls, passes)),
        # The limits are for models that work; where a pass takes microseconds, what a call costs counts.
        Row.timed(
            OPERATIONS, times[OPERATIONS], ratio(times[OPERATIONS], times[BARE], BARE, 2 if passes == 1 else None)
        ),
    )
    if keep:
        against = ratio(times[TAKE], times[CLONED], CLONED), ratio(times[TAKE], times[DETACHED], DETACHED)
        table.add(
            *(Row.timed(case, times[case], ratio(times[case], times[FORWARD], FORWARD)) for case in (DETACHED, CLONED)),
            Row.timed(TAKE, times[TAKE], *against, ratio(times[TAKE], times[FORWARD], FORWARD)),
        )
    return table


def probe_figures(times: Mapping[str, Timing], calls: int, passes: int) -> list[Figure]:
    against_bare = ratio(times[PROBE], times[BARE], BARE, 1.1 if passes == 1 else None)
    if passes == 1:  # the difference of two long passes says nothing about microseconds
        return [against_bare]
    pairs = zip(times[PROBE].seconds, times[FORWARD].seconds, strict=True)
    each = median(ours - bare for ours, bare in pairs) / passes / calls
    return [against_bare, Figure(1e6 * each, "µs a site call", 15)]


def repeat(step: Callable[[], object], passes: int) -> None:
    for _ in range(passes):
        step()


def site_calls(model: nn.Module, inputs: Tensor) -> int:
    """How often a site is recorded in one forward pass."""
    seen: list[str] = []
    with pk.Probe(model, "**", record=lambda site, tensor: seen.append(site.module)):
        model(inputs)
    return len(seen)


if __name__ == "__main__":
    alone(measure)
