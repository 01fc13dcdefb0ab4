"""Training: many networks of one shape at once, each exactly as it would train alone."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile
from math import ceil
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from probekit.errors import DataError, ModelError
from probekit.progress import Progress, silent

from ..data import Samples, Split
from .checkpoint import Checkpoint
from .networks import Builder, Curves, Member, Snapshot, Trained, build_member, calibrate_batch_norm
from .stack import StackedAdam, StackedNetwork

__all__ = ["STACK_BYTES", "by_shape", "check", "sample_order", "train"]

# How the steps of a training multiply matrices. Losses and accuracies after an epoch are computed in full precision.
_PRECISIONS = ("float32", "tf32", "bfloat16")

# More rows spill from the cache: 4,096 rows of six networks take half as long again. Networks that scale the
# samples each for itself need a copy each: 512 rows of fifteen on CIFAR-10 (94 MB) would be asked of the system anew
# for each batch, which takes a quarter longer.
_EVALUATION_ROWS = 256
# Weights, gradients and Adam's moments that a CPU computes with at once: twelve networks of 4 x 800 (390 MB) take a
# quarter longer than two stacks of six.
STACK_BYTES = 192 * 2**20


def by_shape(members: Sequence[Member]) -> dict[str, list[Member]]:
    """The members that can train together, under the name of their shape (`4x200-bn`)."""
    shapes: dict[str, list[Member]] = {}
    for member in members:
        shapes.setdefault(member.config.shape, []).append(member)
    return shapes


def sample_order(seed: int, epoch: int, samples: int) -> Tensor:
    """The order (samples,) in which a network of `seed` sees the samples in `epoch`, from 0.

    It depends on nothing else, so a training can resume at any epoch.
    """
    return torch.from_numpy(np.random.default_rng((seed, epoch)).permutation(samples))


def train(
    members: Sequence[Member],
    split: Split,
    *,
    epochs: int,
    batch_size: int,
    decay: float = 0.99,
    patience: int = 0,
    fit: float = 0.0,
    precision: str = "float32",
    checkpoint: Checkpoint | None = None,
    stack_bytes: int = STACK_BYTES,
    build: Builder = build_member,
    progress: Progress = silent,
) -> list[Trained]:
    """Train networks of one shape together, on the device of the split; the results are in the members' order.

    Each member trains with Adam on the mean cross-entropy, in batches of `batch_size` in an order of its own (the last
    batch may be smaller); after each epoch its learning rate is multiplied by `decay`. A member whose validation
    accuracy hasn't improved for `patience` epochs is done; with a patience of 0 all epochs run. Patience counts from
    the first epoch whose training accuracy is at least `fit`. Each result has the weights of the best validation
    accuracy (the last of equals) and those of the last epoch. Each epoch is one step of `progress`.

    With a `checkpoint`, a training that was stopped at any moment resumes from the last one; on the same number of
    threads the results are bit-identical to those without the stop. With the `precision` ``tf32`` (of CUDA devices) or
    ``bfloat16`` the steps multiply matrices in it, while weights, Adam and measured values keep the samples' dtype;
    with ``float32`` everything does. On a CPU, members whose weights, gradients and moments fit in `stack_bytes` are
    computed at once. `build` makes the members' untrained networks.

    Raises:
        ModelError: the members differ in shape.
        DataError: batch norm would get a last batch of one sample, or the device has no such precision.

    >>> from sklearn.datasets import load_digits
    >>> from probekit.recipes.relu_vs_sigmoid.data import split_arrays
    >>> digits = load_digits()
    >>> split = split_arrays(digits.images, digits.target, tuple("0123456789"))
    >>> from probekit.recipes.relu_vs_sigmoid.training.networks import Config, Member
    >>> members = [Member(Config(name, 1, 32, False), 0, 3e-3) for name in ("relu", "sigmoid")]
    >>> relu, sigmoid = train(members, split, epochs=5, batch_size=32)
    >>> relu.best.train_accuracy > 0.95, len(relu.curves.train_loss)
    (True, 5)
    """
    check(members, split, batch_size, precision)
    # In the stack, members of one activation are neighbours, and within it those of one learning rate.
    ranks = sorted(range(len(members)), key=lambda i: (members[i].config.activation, members[i].learning_rate))
    ordered = [members[i] for i in ranks]
    dtype = torch.bfloat16 if precision == "bfloat16" else None
    trainings = [_Training(ordered, rows, split, epochs, dtype, build) for rows in _stacks(ordered, split, stack_bytes)]
    saved = checkpoint.load(split.train.x.device) if checkpoint else None
    first = 0
    if saved is not None:
        first = saved["epoch"]
        for training in trainings:
            training.restore(saved["active"], saved["tensors"])
    remaining = takewhile(lambda _: any(training.active for training in trainings), range(first, epochs))
    description = f"{members[0].config.shape}: {len(members)} networks"
    for epoch in progress(remaining, description, total=epochs - first):
        for training in trainings:
            if training.active:
                with _matrix_products(precision):
                    training.run_epoch(epoch, batch_size, decay)
                training.measure(epoch)
                training.dismiss(epoch, patience, fit)
        if checkpoint:
            checkpoint.save(epoch + 1, _state(trainings))
    results = [result for training in trainings for result in training.results()]
    return [results[ranks.index(i)] for i in range(len(members))]


def check(members: Sequence[Member], split: Split, batch_size: int, precision: str) -> None:
    """Raise the errors of `train` before any training."""
    shapes = by_shape(members)
    if len(shapes) != 1:
        raise ModelError(
            f"Networks that train together must have one shape; these have {', '.join(shapes) or 'none'}. "
            "Group them with by_shape(members)."
        )
    if members[0].config.batch_norm and len(split.train) % batch_size == 1:
        raise DataError(
            f"{len(split.train)} training samples in batches of {batch_size} leave a last batch of one sample, which "
            "batch norm can't take; choose another batch size."
        )
    if precision not in _PRECISIONS:
        raise DataError(f"There is no precision {precision!r}; there are: {', '.join(_PRECISIONS)}.")
    if precision == "tf32" and not split.train.x.is_cuda:
        raise DataError(f"tf32 is a precision of CUDA devices, and the samples are on {split.train.x.device}.")


@contextmanager
def _matrix_products(precision: str) -> Iterator[None]:
    """Multiply float32 matrices in tf32 during the block if that is the precision."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else before)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _stacks(members: Sequence[Member], split: Split, stack_bytes: int) -> list[range]:
    """The members to compute at once: all on a GPU, as many as fit in `stack_bytes` on a CPU."""
    config = members[0].config
    inputs, width = split.features, config.width
    weights = inputs * width + (config.depth - 1) * width**2 + width * split.classes
    fit = max(1, stack_bytes // (4 * weights * split.train.x.element_size()))
    count = 1 if split.train.x.is_cuda else ceil(len(members) / fit)
    return [range(len(members) * i // count, len(members) * (i + 1) // count) for i in range(count)]


def _state(trainings: Sequence[_Training]) -> dict[str, Any]:
    """The state that `restore` needs, of all members as if in one stack: another machine may stack them otherwise."""
    active = [training for training in trainings if training.active]
    return {
        "active": [training.rows[index] for training in active for index in training.active],
        "tensors": {**_joined([each.moving for each in active]), **_joined([each.known for each in trainings])},
    }


class _Training:
    """The training of one stack: of the members at `rows`. Every tensor of its state has the member as first axis.

    `moving` has the weights and Adam's moments of the members still `active`; `known` has what is known of all:
    their best and last weights, best epochs and curves.
    """

    def __init__(
        self,
        members: Sequence[Member],
        rows: range,
        split: Split,
        epochs: int,
        dtype: torch.dtype | None,
        build: Builder,
    ) -> None:
        members, x = [members[index] for index in rows], split.train.x
        self.rows, self._members, self._split, self._dtype = rows, members, split, dtype
        self._networks = [build(each, split.features, split.classes).to(x.device, x.dtype) for each in members]
        self._stack_up(list(range(len(members))))
        device, count = split.train.x.device, len(members)
        self.known = {
            **{f"{which}.{name}": t.clone() for which in ("best", "last") for name, t in self._stack.tensors.items()},
            "best_accuracy": torch.full((count,), -1.0, dtype=torch.float64, device=device),
            "best_epoch": torch.zeros(count, dtype=torch.int64, device=device),
            "better_epoch": torch.zeros(count, dtype=torch.int64, device=device),
            "epochs": torch.zeros(count, dtype=torch.int64, device=device),
            "seconds": torch.zeros(count, dtype=torch.float64, device=device),
            "curves": torch.zeros(count, 3, epochs, dtype=torch.float64, device=device),
        }

    def _stack_up(self, active: list[int]) -> None:
        """Stack these members anew, untrained."""
        members = [self._members[index] for index in active]
        networks = [self._networks[index] for index in active]
        self._stack = StackedNetwork(networks, [each.config for each in members], self._dtype)
        self._adam = StackedAdam(self._stack, [member.learning_rate for member in members])
        self.active, self._active_rows = active, torch.tensor(active, device=self._split.train.x.device)
        self.moving = {
            **{f"network.{name}": tensor for name, tensor in self._stack.tensors.items()},
            **{f"adam.{name}": tensor for name, tensor in self._adam.tensors.items()},
        }

    def restore(self, active: Sequence[int], saved: dict[str, Tensor]) -> None:
        """Restore a saved state of all members, of which those at `active` still move."""
        ours = [position for position, index in enumerate(active) if index in self.rows]
        self.active = [active[position] - self.rows.start for position in ours]
        if ours:
            self._stack_up(self.active)
            _copy({name: saved[name][ours] for name in self.moving}, self.moving)
        _copy({name: saved[name][self.rows.start : self.rows.stop] for name in self.known}, self.known)

    def run_epoch(self, epoch: int, batch_size: int, decay: float) -> None:
        """Train on each sample once."""
        start = time.perf_counter()
        x, y = self._split.train.x, self._split.train.y
        members = [self._members[index] for index in self.active]
        orders = {seed: sample_order(seed, epoch, len(y)) for seed in {member.seed for member in members}}
        order = torch.stack([orders[member.seed] for member in members]).to(x.device)
        batches = order.split(batch_size, dim=1)
        for number, rows in enumerate(batches, epoch * len(batches)):
            # index_select on flat rows is several times faster than x[rows]
            batch = x.index_select(0, rows.flatten()).view(*rows.shape, -1)
            self._stack.backward(batch, y.index_select(0, rows.flatten()).view(rows.shape))
            self._adam.step(number, decay**epoch)
        self._count(start)

    def measure(self, epoch: int) -> None:
        """Record the epoch's losses, accuracies and weights, and keep the weights of members that were never better."""
        start = time.perf_counter()
        train_loss, train_accuracy = self._evaluate(self._split.train)
        _, accuracy = self._evaluate(self._split.validation)
        rows = self._active_rows
        self.known["curves"][rows, :, epoch] = torch.stack([train_loss, train_accuracy, accuracy], 1)
        self.known["epochs"][rows] = epoch + 1
        self.known["better_epoch"][rows[accuracy > self.known["best_accuracy"][rows]]] = epoch + 1
        # An equal is good, too: with few validation samples many epochs tie, and the last is the most trained.
        good = accuracy >= self.known["best_accuracy"][rows]
        self.known["best_accuracy"][rows[good]] = accuracy[good]
        self.known["best_epoch"][rows[good]] = epoch + 1
        for name, tensor in self._stack.tensors.items():
            self.known[f"best.{name}"][rows[good]] = tensor[good]
            self.known[f"last.{name}"][rows] = tensor
        self._count(start)

    def _count(self, start: float) -> None:
        """Share the seconds since `start` among the active members."""
        self.known["seconds"][self._active_rows] += (time.perf_counter() - start) / len(self.active)

    def dismiss(self, epoch: int, patience: int, fit: float) -> None:
        """Take members that reached `fit` and have not improved for `patience` epochs out of the stack."""
        rows = self._active_rows
        fitted = self.known["curves"][rows, 1, : epoch + 1] >= fit
        since = torch.where(fitted.any(1), fitted.int().argmax(1) + 1, epoch + 1)  # it waits from here on
        waited = epoch + 1 - torch.maximum(self.known["better_epoch"][rows], since)
        stay = [position for position, epochs in enumerate(waited.tolist()) if not patience or epochs < patience]
        if not stay:
            self.active = []
        elif len(stay) < len(self.active):
            before = self.moving
            self._stack_up([self.active[position] for position in stay])
            _copy({name: before[name][stay] for name in self.moving}, self.moving)

    def _evaluate(self, samples: Samples) -> tuple[Tensor, Tensor]:
        """The mean loss and the accuracy of each member of the stack (member,), in eval mode."""
        loss = torch.zeros(len(self._active_rows), dtype=torch.float64, device=samples.x.device)
        correct = torch.zeros_like(loss)
        for x, y in zip(samples.x.split(_EVALUATION_ROWS), samples.y.split(_EVALUATION_ROWS), strict=True):
            logits = self._stack.logits(x)
            target = y.expand(len(logits), -1)
            loss += F.cross_entropy(logits.transpose(1, 2), target, reduction="none").sum(1, dtype=torch.float64)
            correct += (logits.argmax(2) == target).sum(1)
        return loss / len(samples), correct / len(samples)

    def results(self) -> list[Trained]:
        """Every member with its best and its last weights."""
        best = self._snapshots("best", self.known["best_epoch"].tolist())
        last = self._snapshots("last", self.known["epochs"].tolist())
        curves, seconds = self.known["curves"].cpu().numpy(), self.known["seconds"].tolist()
        results = []
        for index, member in enumerate(self._members):
            untrained = self._networks[index].eval()
            calibrate_batch_norm(untrained, self._split.train.x)
            epochs = last[index].epoch
            course = Curves(np.arange(1, epochs + 1), *curves[index, :, :epochs])
            results.append(Trained(member, untrained, best[index], last[index], course, seconds[index]))
        return results

    def _snapshots(self, which: str, epochs: list[int]) -> list[Snapshot]:
        """Every member with its ``best`` or ``last`` weights, in eval mode."""
        self._stack_up(list(range(len(self._members))))
        _copy({name: self.known[f"{which}.{name}"] for name in self._stack.tensors}, self._stack.tensors)
        accuracies = torch.stack([self._evaluate(samples)[1] for samples in self._split.subsets], 1).tolist()
        snapshots = []
        for index, built in enumerate(self._networks):
            network = copy.deepcopy(built).eval()
            self._stack.unstack(index, network)
            snapshots.append(Snapshot(network, epochs[index], *accuracies[index]))
        return snapshots


def _joined(states: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([state[name] for state in states]) for name in states[0]} if states else {}


def _copy(source: dict[str, Tensor], target: dict[str, Tensor]) -> None:
    """Copy the tensors of the same names into `target`."""
    for name, tensor in target.items():
        tensor.copy_(source[name])
