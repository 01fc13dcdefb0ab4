"""The main job: a model and its data, through a probe, into a store."""

from __future__ import annotations

import hashlib
import math
import shutil
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

import probekit
from probekit import store
from probekit.batches import Batch, Batches
from probekit.errors import DataError, SiteError, StoreError
from probekit.layout import Json, SiteSpec
from probekit.names import Selector, SiteName, rules
from probekit.probe import Probe
from probekit.progress import Progress, silent
from probekit.sites import Site, evaluation, run
from probekit.sites import sites as dry_run
from probekit.sizes import format_size, parse_size
from probekit.writer import SLOTS, Array, Writer, check_absent

__all__ = ["capture", "weights_digest"]

CHUNK_ROWS = 4096  # samples in a chunk-row where memory allows: at 200 float32 nodes a tile of 3 MB
DTYPES = {"float32": torch.float32, "float16": torch.float16, "float64": torch.float64}
DIMS = {1: ("node",), 2: ("position", "node"), 3: ("channel", "y", "x")}


def capture(
    model: nn.Module,
    data: Any,
    out: str | Path,
    *,
    sites: Selector = "**",
    dtype: str | None = None,
    batch_size: int = 256,
    class_names: Sequence[str] | None = None,
    memory: str | int = "256MiB",
    overwrite: bool = False,
    progress: Progress = silent,
) -> xr.DataTree:
    """Stream the activations of `model` on `data` into a new store at `out`; returns it opened, as `probekit.open`.

    The model runs in eval mode without gradients, in the order of the data, and isn't moved; its mode is restored.
    Samples are committed in chunk-rows: what is committed survives an error, Ctrl-C or a kill, and opens as a prefix.

    Args:
        model: any torch module whose selected sites have the batch as axis 0.
        data: a DataLoader, a Dataset (read in order), tensors ``x`` or ``(x, y)`` of all samples, or an iterable of
            batches: ``(x, y)``, ``x`` or dicts.
        out: a path where nothing stands yet.
        sites: which sites to keep, as `probekit.Probe` selects them.
        dtype: ``"float32"``, ``"float16"`` or ``"float64"`` on disk; by default as the model gives it (bfloat16 as
            float32, which is exact).
        batch_size: samples a batch, where the data don't come in batches.
        class_names: names of the classes 0, 1, …; by default the data set's ``classes``.
        memory: the buffer's bound, such as ``"256MiB"`` or bytes.
        overwrite: replace a store that stands at `out`.

    Raises:
        SiteError: no such site, or one whose axis 0 isn't the batch.
        DataError: inputs and labels don't fit together.
        ModelError: the model fails on a batch.
        StoreError: `out` exists, the disk is full or refuses, or one batch doesn't fit in `memory`.

    Example:
        >>> import torch, probekit as pk
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU())
        >>> x, y = torch.randn(100, 4), torch.arange(100) % 2
        >>> tree = pk.capture(model, (x, y), "acts.zarr", sites="1")  # doctest: +SKIP
        >>> tree["1"]["activation"].groupby("label").mean()  # doctest: +SKIP
    """
    out = Path(out)
    if not overwrite:
        check_absent(out)
    batches = Batches(data, batch_size=batch_size)
    first, stream = _peek(batches)
    table = dry_run(model, first.inputs, select=sites)
    specs = [_spec(site, first.rows, dtype) for site in table]
    chunk_rows = _chunk_rows(specs, first.rows, batches.rows, parse_size(memory))
    _check_disk(out, specs, batches.rows)
    if overwrite:
        store.remove(out)
    writer = Writer(
        out,
        specs,
        chunk_rows=chunk_rows,
        rows=batches.rows,
        labelled=first.labels is not None,
        class_names=class_names or batches.class_names or (),
        attrs=_attrs(model, sites, dtype, first.rows),
    )
    with writer, evaluation(model):
        _stream(model, progress(stream, f"capture {out.name}", batches.count), writer, specs)
    return store.open_store(out)


def _peek(batches: Batches) -> tuple[Batch, Iterator[Batch]]:
    """The first batch, and the stream that still begins with it."""
    stream = iter(batches)
    first = next(stream, None)
    if first is None or not first.rows:
        raise DataError("The data hold no samples.")
    return first, chain([first], stream)


def _stream(model: nn.Module, batches: Iterable[Batch], writer: Writer, specs: Sequence[SiteSpec]) -> None:
    recorder = _Recorder(type(model).__name__, specs)
    start = 0
    with Probe(model, [spec.name for spec in specs], record=recorder):
        for batch in batches:
            recorder.begin(writer.reserve(batch.rows), batch.rows)
            run(model, batch.inputs)
            recorder.end()
            columns = {"sample_id": np.arange(start, start + batch.rows)}
            writer.advance(columns if batch.labels is None else columns | {"label": batch.labels})
            start += batch.rows
    recorder.warn_of_overflow()


class _Recorder:
    """Copies each activation, at the moment it is made, into the rows that the writer has reserved for the batch."""

    def __init__(self, model: str, specs: Sequence[SiteSpec]) -> None:
        self._model = model
        parsed = {spec.name: SiteName.parse(spec.name) for spec in specs}
        self._names = {replace(site, call=site.call or 0): name for name, site in parsed.items()}
        self._narrow = {spec.name for spec in specs if spec.dtype == np.float16 and spec.attrs["dtype"] != "float16"}
        self._overflows = dict.fromkeys(self._narrow, 0)
        self._batch = -1

    def begin(self, spans: list[dict[str, Array]], rows: int) -> None:
        self._spans, self._rows = spans, rows
        self._missing = set(self._names.values())
        self._batch += 1

    def __call__(self, site: SiteName, tensor: Tensor) -> None:
        name = self._names.get(site)
        if name is None:
            raise SiteError(f"{site} of {self._model} ran at batch {self._batch} and not in the first batch.")
        room = self._spans[0][name]
        if tuple(tensor.shape) != (self._rows, *room.shape[1:]):
            raise SiteError(
                f"{name} of {self._model} gave shape {tuple(tensor.shape)} at batch {self._batch}, of {self._rows} "
                f"samples; in the first batch each sample had shape {room.shape[1:]}."
            )
        done = 0
        for span in self._spans:
            target = torch.from_numpy(span[name])
            source = tensor[done : done + len(target)]
            target.copy_(source)
            done += len(target)
            if name in self._narrow:
                self._overflows[name] += int(target.isinf().sum() - source.isinf().sum())
        self._missing.discard(name)

    def end(self) -> None:
        """Check that every site ran in the batch."""
        if self._missing:
            raise SiteError(f"{', '.join(sorted(self._missing))} of {self._model} didn't run at batch {self._batch}.")

    def warn_of_overflow(self) -> None:
        lost = {name: count for name, count in self._overflows.items() if count}
        if lost:
            warnings.warn(
                f"Values beyond float16's 65,504 became infinite: {lost}. Capture these sites as float32.", stacklevel=4
            )


def _spec(site: Site, rows: int, dtype: str | None) -> SiteSpec:
    if not site.shape or site.shape[0] != rows:
        raise SiteError(
            f"Axis 0 of {site.name} ({site.type}) is not the batch: its shape is {site.shape} for {rows} samples. "
            "Select other sites."
        )
    shape = site.shape[1:]
    stored = _stored_dtype(site.dtype, dtype)
    dims = DIMS.get(len(shape), tuple(f"axis_{axis}" for axis in range(1, len(shape) + 1)))
    made = {"module": site.module, "type": site.type, "dtype": str(site.dtype).removeprefix("torch.")}
    return SiteSpec(site.name, dims, shape, stored, made)


def _stored_dtype(given: torch.dtype, asked: str | None) -> np.dtype[Any]:
    if asked is not None and asked not in DTYPES:
        raise StoreError(f"dtype is {asked!r}; a store keeps {', '.join(DTYPES)}, or None for what the model gives.")
    kept = DTYPES[asked] if asked is not None and given.is_floating_point else given
    # bfloat16, which zarr can't store, fits exactly into float32.
    kept = torch.float32 if kept == torch.bfloat16 else kept
    return np.dtype(torch.empty((), dtype=kept).numpy().dtype)


def _chunk_rows(specs: Sequence[SiteSpec], batch: int, rows: int | None, memory: int) -> int:
    """Samples in a chunk-row: whole batches, near `CHUNK_ROWS`, so that the writer's buffers fit into `memory`."""
    sample = sum(spec.bytes_per_sample for spec in specs)
    most = memory // max(1, SLOTS * sample) // batch  # batches
    if most < 1:
        raise StoreError(
            f"One batch of {batch} samples needs {format_size(SLOTS * batch * sample)} of buffers "
            f"({_largest(specs)}), and memory is {format_size(memory)}. Give more memory, smaller batches, or fewer "
            "sites."
        )
    wanted = CHUNK_ROWS if rows is None else min(CHUNK_ROWS, rows)
    return batch * min(most, math.ceil(wanted / batch))


def _check_disk(out: Path, specs: Sequence[SiteSpec], rows: int | None) -> None:
    """Raise StoreError where the samples to come, if their number is known, can't fit on the disk."""
    folder = next(parent for parent in out.absolute().parents if parent.exists())
    needed = sum(spec.bytes_per_sample for spec in specs) * (rows or 0)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise StoreError(
            f"{out} would take {format_size(needed)} for {rows} samples ({_largest(specs)}), and "
            f'{folder} has {format_size(free)} free. Select fewer sites, or keep dtype="float16".'
        )


def _largest(specs: Sequence[SiteSpec]) -> str:
    top = sorted(specs, key=lambda spec: spec.bytes_per_sample, reverse=True)[:3]
    return "largest a sample: " + ", ".join(f"{spec.name} {format_size(spec.bytes_per_sample)}" for spec in top)


def _attrs(model: nn.Module, sites: Selector, dtype: str | None, batch_size: int) -> Json:
    """How the store was made: what `probekit info` shows."""
    return {
        "probekit_version": probekit.__version__,
        "torch_version": str(torch.__version__),
        "model": f"{type(model).__module__}.{type(model).__qualname__}",
        "weights": weights_digest(model),
        "sites": [str(rule) for rule in rules(sites)],
        "dtype": dtype or "as given",
        "mode": "eval",
        "batch_size": batch_size,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def weights_digest(model: nn.Module) -> str:
    """blake2b of every parameter and buffer with its name, so that a store tells which weights it came from."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in model.state_dict().items():
        if isinstance(tensor, Tensor):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
