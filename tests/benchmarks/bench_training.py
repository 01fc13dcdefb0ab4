"""Training networks together against one after another as plain modules: ``python tests/benchmarks/bench_training.py``.

Both train the same networks on scikit-learn's digits and measure training and validation accuracy after each epoch.
The rounds are interleaved, so that whatever else the machine does falls on all alike; the table has medians.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits

from probekit.recipes.relu_vs_sigmoid.data import Split, split_arrays
from probekit.recipes.relu_vs_sigmoid.networks import Config, build
from probekit.recipes.relu_vs_sigmoid.training import Member, sample_order, train

EPOCHS = 2
BATCH_SIZE = 32


def train_alone(members: Sequence[Member], split: Split, optimiser: Callable[..., torch.optim.Optimizer]) -> None:
    for member in members:
        network = build(member.config, split.features, split.classes, member.seed).to(split.train.x.device)
        adam = optimiser(network.parameters(), lr=member.learning_rate)
        for epoch in range(EPOCHS):
            network.train()
            order = sample_order(member.seed, epoch, len(split.train)).to(split.train.x.device)
            for rows in order.split(BATCH_SIZE):
                adam.zero_grad()
                F.cross_entropy(network(split.train.x[rows]), split.train.y[rows]).backward()
                adam.step()
            network.eval()
            with torch.no_grad():
                for part in (split.train, split.validation):
                    (network(part.x).argmax(1) == part.y).double().mean().item()


def members_of(depth: int, width: int, batch_norm: bool, count: int) -> list[Member]:
    configs = [Config(name, depth, width, batch_norm) for name in ("relu", "sigmoid")]
    return [Member(config, seed, 1e-3) for config in configs for seed in range(count // 2)]


def compare(members: Sequence[Member], split: Split, rounds: int) -> dict[str, float]:
    """Median seconds an epoch of all the members, by way of training."""
    ways: dict[str, Callable[[], object]] = {
        "together": partial(train, members, split, epochs=EPOCHS, batch_size=BATCH_SIZE),
        "alone, fused Adam": partial(train_alone, members, split, partial(torch.optim.Adam, fused=True)),
        "alone, foreach Adam": partial(train_alone, members, split, partial(torch.optim.Adam, foreach=True)),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            if split.train.x.is_cuda:
                torch.cuda.synchronize()
            if number:  # the first round warms up
                seconds[name].append((time.perf_counter() - start) / EPOCHS)
    return {name: median(values) for name, values in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", type=int, nargs="+", default=[6, 12], help="networks, half of each activation")
    parser.add_argument("--depths", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--widths", type=int, nargs="+", default=[200])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    digits = load_digits()
    split = split_arrays(digits.images, digits.target, tuple("0123456789")).to(options.device)
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, batches of {BATCH_SIZE} on {options.device}")
    print(f"{'shape':<12}{'members':>8}  {'way':<22}{'ms an epoch':>12}{'together is':>14}")
    for width in options.widths:
        for depth in options.depths:
            for batch_norm in (False, True):
                for count in options.members:
                    members = members_of(depth, width, batch_norm, count)
                    medians = compare(members, split, options.rounds)
                    for name, value in medians.items():
                        ratio = f"{value / medians['together']:.2f} x" if name != "together" else ""
                        print(f"{members[0].config.shape:<12}{count:>8}  {name:<22}{1e3 * value:>12.1f}{ratio:>14}")


if __name__ == "__main__":
    main()
