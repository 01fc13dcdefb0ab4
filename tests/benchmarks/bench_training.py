"""Training networks together against one after another as plain modules: ``python tests/benchmarks/bench_training.py``.

Both train the same networks on scikit-learn's digits and measure training and validation accuracy after each epoch.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product

import torch
import torch.nn.functional as F
from harness import Row, Table, Timing, alone, in_turn, ratio
from sklearn.datasets import load_digits

from probekit.recipes.relu_vs_sigmoid.data import Split, split_arrays
from probekit.recipes.relu_vs_sigmoid.training.networks import Config, Member, build
from probekit.recipes.relu_vs_sigmoid.training.trainer import sample_order, train

EPOCHS = 8  # of a real training's hundred, so that what is done once doesn't count for more than it is
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
                for samples in (split.train, split.validation):
                    (network(samples.x).argmax(1) == samples.y).double().mean().item()


def members_of(depth: int, width: int, batch_norm: bool, count: int) -> list[Member]:
    configs = [Config(name, depth, width, batch_norm) for name in ("relu", "sigmoid")]
    return [Member(config, seed, 1e-3) for config in configs for seed in range(count // 2)]


def compare(members: Sequence[Member], split: Split, rounds: int) -> dict[str, Timing]:
    """Seconds of a few epochs of all the members, by way of training."""
    ways: dict[str, Callable[[], object]] = {
        "together": partial(train, members, split, epochs=EPOCHS, batch_size=BATCH_SIZE),
        "alone, fused Adam": partial(train_alone, members, split, partial(torch.optim.Adam, fused=True)),
        "alone, foreach Adam": partial(train_alone, members, split, partial(torch.optim.Adam, foreach=True)),
    }
    return in_turn({name: partial(finished, way, split) for name, way in ways.items()}, rounds)


def finished(way: Callable[[], object], split: Split) -> None:
    way()
    if split.train.x.is_cuda:
        torch.cuda.synchronize()


def measure(options: argparse.Namespace) -> list[Table]:
    """How long networks take to train together, and one after another."""
    digits = load_digits()
    split = split_arrays(digits.images, digits.target, tuple("0123456789")).to(options.device)
    title = f"training on {options.device}, {EPOCHS} epochs of digits, batches of {BATCH_SIZE}"
    tables = []
    depths, rounds = (options.depths[:1], 1) if options.quick else (options.depths, options.rounds)
    for width, depth, batch_norm, count in product(options.widths, depths, (False, True), options.members):
        members = members_of(depth, width, batch_norm, count)
        times = compare(members, split, rounds)
        ours = times.pop("together")
        figures = [ratio(ours, timing, name) for name, timing in times.items()]
        rows = [Row.timed("together", ours, *figures), *(Row.timed(name, timing) for name, timing in times.items())]
        tables.append(Table(f"{title}: {count} networks {members[0].config.shape}", rows))
    return tables


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--members", type=int, nargs="+", default=[6], help="networks, half of each activation")
    parser.add_argument("--depths", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--widths", type=int, nargs="+", default=[200])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")


if __name__ == "__main__":
    alone(measure, options)
