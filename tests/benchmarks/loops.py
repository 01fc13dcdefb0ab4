"""Loops that run a model over all its inputs and keep what some of its modules give: by hand, and by other libraries.

All get the same inputs, sliced in memory, and none has gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
import zarr
from torch import Tensor, nn

import probekit as pk

__all__ = ["BY_HAND", "PEERS", "Work", "capture", "forward", "mlp", "raw_write", "relu_mlp", "resnet", "zarr_write"]

FEATURES, WIDTH, CLASSES = 784, 200, 10
BLOCK = 8_000_000


@dataclass(frozen=True)
class Work:
    """A model, its inputs, and the names of the modules whose outputs are kept."""

    model: nn.Module
    x: Tensor
    y: Tensor
    batch: int
    sites: tuple[str, ...]

    def first(self, samples: int) -> Work:
        return replace(self, x=self.x[:samples], y=self.y[:samples])

    @torch.no_grad()
    def batches(self) -> Iterator[slice]:
        """Runs the model on each batch, and gives the rows that it was."""
        for start in range(0, len(self.x), self.batch):
            self.model(self.x[start : start + self.batch])
            yield slice(start, min(start + self.batch, len(self.x)))

    def kept(self) -> Iterator[tuple[slice, dict[str, Tensor]]]:
        """Runs the model on each batch under hooks; what the modules gave, by name."""
        kept: dict[str, Tensor] = {}
        with hooks(self, kept.__setitem__):
            for rows in self.batches():
                yield rows, kept

    def activations(self) -> dict[str, np.ndarray]:
        """All that the modules give, by name."""
        parts: dict[str, list[Tensor]] = {name: [] for name in self.sites}
        for _, kept in self.kept():
            for name, output in kept.items():
                parts[name].append(output)
        return {name: torch.cat(each).numpy() for name, each in parts.items()}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of `activations`."""
        _, kept = next(self.first(self.batch).kept())
        return {name: (len(self.x), *output.shape[1:]) for name, output in kept.items()}


@contextmanager
def hooks(work: Work, keep: Callable[[str, Tensor], None]) -> Iterator[None]:
    with ExitStack() as stack:
        for name in work.sites:
            hook = work.model.get_submodule(name).register_forward_hook(
                lambda module, args, output, name=name: keep(name, output)
            )
            stack.callback(hook.remove)
        yield


def relu_mlp() -> nn.Sequential:
    hidden = (part for a, b in pairwise([FEATURES, *[WIDTH] * 4]) for part in (nn.Linear(a, b), nn.ReLU()))
    return nn.Sequential(*hidden, nn.Linear(WIDTH, CLASSES)).eval()


def mlp(samples: int) -> Work:
    """784–4×200–10, and its four ReLUs."""
    torch.manual_seed(0)
    x, y = torch.randn(samples, FEATURES), torch.randint(0, CLASSES, (samples,))
    return Work(relu_mlp(), x, y, 512, ("1", "3", "5", "7"))


def resnet(samples: int) -> Work:
    """ResNet-18 on images of 64 × 64, and its four stages."""
    torch.manual_seed(0)
    x, y = torch.randn(samples, 3, 64, 64), torch.randint(0, CLASSES, (samples,))
    return Work(torchvision.models.resnet18().eval(), x, y, 64, ("layer1", "layer2", "layer3", "layer4"))


def forward(work: Work) -> None:
    for _ in work.batches():
        pass


def raw_write(activations: Mapping[str, np.ndarray], folder: Path) -> None:
    """The same bytes to new files, one a site, in blocks of 8 MB."""
    for name, values in activations.items():
        content = memoryview(values).cast("B")
        with open(folder / name, "wb", buffering=0) as file:
            for start in range(0, len(content), BLOCK):
                file.write(content[start : start + BLOCK])


def capture(work: Work, folder: Path) -> None:
    pk.capture(work.model, (work.x, work.y), folder / "acts.zarr", sites=list(work.sites), batch_size=work.batch)


# By hand


def torch_save(work: Work, folder: Path) -> None:
    for rows, kept in work.kept():
        torch.save(kept, folder / f"{rows.start}.pt")


def memmap(work: Work, folder: Path) -> None:
    files = {
        name: np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.float32, shape)
        for name, shape in work.shapes().items()
    }
    _fill(files, work)


def h5_append(work: Work, folder: Path) -> None:
    import h5py

    with h5py.File(folder / "acts.h5", "w") as file:
        for name, (_, *sample) in work.shapes().items():
            chunks = (work.batch, *sample)
            file.create_dataset(name, (0, *sample), np.float32, maxshape=(None, *sample), chunks=chunks)
        for rows, kept in work.kept():
            for name, output in kept.items():
                file[name].resize(rows.stop, axis=0)
                file[name][rows] = output.numpy()


def zarr_write(work: Work, folder: Path) -> None:
    group = zarr.open_group(folder / "acts.zarr", mode="w")
    arrays = {
        name: group.create_array(name, shape=shape, chunks=(work.batch, *shape[1:]), dtype=np.float32)
        for name, shape in work.shapes().items()
    }
    _fill(arrays, work)


def _fill(arrays: Mapping[str, Any], work: Work) -> None:
    for rows, kept in work.kept():
        for name, output in kept.items():
            arrays[name][rows] = output.numpy()


BY_HAND = {
    "hooks, torch.save a batch": torch_save,
    "hooks, numpy memmap": memmap,
    "hooks, h5py append": h5_append,
}


# By other libraries


def captum(work: Work, folder: Path) -> None:
    from captum._utils.av import AV

    batches = list(work.x.split(work.batch))
    with torch.no_grad():
        AV.generate_dataset_activations(str(folder), work.model, "model", list(work.sites), batches)


def nnsight(work: Work, folder: Path) -> None:
    from nnsight import NNsight

    model = NNsight(deepcopy(work.model))
    with torch.no_grad():
        for start in range(0, len(work.x), work.batch):
            with model.trace(work.x[start : start + work.batch]):
                kept = {name: model.get(name).output for name in work.sites}.save()
            torch.save(kept, folder / f"{start}.pt")


def torchlens(work: Work, folder: Path) -> None:
    import torchlens

    torchlens.extract_dataset(
        work.model, work.x, list(work.sites), batch_size=work.batch, output_dir=folder / "acts", progress=False
    )


PEERS = {"captum": captum, "nnsight": nnsight, "torchlens": torchlens}
