"""What a probe alone costs, as ratios within one run: ``python tests/benchmarks/bench_probe.py``.

The same forward pass with no hooks, with bare hooks that do nothing on every module, under a probe of every module
whose records go to a function that does nothing, and under one of every operation too. Rounds are taken in turns; a
ratio is the median over the rounds.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

import torch
import torch.nn.functional as F
import torchvision
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
def bare_hooks(model: nn.Module) -> Iterator[None]:
    with ExitStack() as hooks:
        for module in model.modules():
            hooks.callback(module.register_forward_hook(lambda module, args, output: None).remove)
        yield


def probe(model: nn.Module) -> AbstractContextManager[object]:
    return pk.Probe(model, "**", record=lambda site, tensor: None)


def operations(model: nn.Module) -> AbstractContextManager[object]:
    return pk.Probe(model, ["**", "**~*"], record=lambda site, tensor: None)


CASES: dict[str, Callable[[nn.Module], AbstractContextManager[object]]] = {
    "forward": lambda model: nullcontext(),
    "bare": bare_hooks,
    "probe": probe,
    "operations": operations,
}


def main() -> None:
    print(f"{os.cpu_count()} cores, {torch.get_num_threads()} threads; milliseconds a forward pass")
    print(
        f"{'':24}{'sites':>9}{'forward':>9}{'hooks':>9}{'probe':>9}{'with ~':>9}{'probe ÷ hooks':>15}"
        f"{'with ~ ÷ hooks':>16}{'µs a site call':>16}"
    )
    row("resnet18, 8 × 64²", torchvision.models.resnet18(), torch.randn(8, 3, 64, 64), rounds=31)
    row(f"GPT-2 small, 2 × {POSITIONS}", Decoder(), torch.randint(0, VOCABULARY, (2, POSITIONS)), rounds=11)
    row("MLP of 16 layers of 16", mlp(), torch.randn(1, 16), rounds=51, passes=50)


def row(name: str, model: nn.Module, inputs: Tensor, *, rounds: int, passes: int = 1) -> None:
    seconds = timed(model.eval(), inputs, rounds, passes)
    calls = site_calls(model, inputs)
    ratios = "".join(
        f"{statistics.median(ours / theirs for ours, theirs in zip(seconds[case], seconds['bare'], strict=True)):15.3f}"
        for case in ("probe", "operations")
    )
    extra = statistics.median(ours - none for ours, none in zip(seconds["probe"], seconds["forward"], strict=True))
    times = "".join(f"{1e3 * statistics.median(seconds[case]):9.3f}" for case in CASES)
    # Where a forward pass takes long, the difference of two of them says nothing about microseconds.
    each = f"{1e6 * extra / calls:16.1f}" if passes > 1 else f"{'':>16}"
    print(f"{name:24}{calls:9}{times}{ratios} {each}")


@torch.no_grad()
def timed(model: nn.Module, inputs: Tensor, rounds: int, passes: int) -> dict[str, list[float]]:
    """Seconds a forward pass in each round of each case, after one that warms up."""
    seconds: dict[str, list[float]] = {case: [] for case in CASES}
    for _ in range(rounds + 1):
        for case, around in CASES.items():
            with around(model):
                start = time.perf_counter()
                for _ in range(passes):
                    model(inputs)
                seconds[case].append((time.perf_counter() - start) / passes)
    return {case: each[1:] for case, each in seconds.items()}


@torch.no_grad()
def site_calls(model: nn.Module, inputs: Tensor) -> int:
    """How often a site is recorded in one forward pass."""
    seen: list[str] = []
    with pk.Probe(model, "**", record=lambda site, tensor: seen.append(site.module)):
        model(inputs)
    return len(seen)


if __name__ == "__main__":
    main()
