"""The main job: a model and its data, through a probe, into a store."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
import xarray as xr
from torch import Tensor, nn

import probekit
from probekit import store
from probekit.batches import Batch, Batches
from probekit.errors import DataError, ModelError, SiteError
from probekit.layout import Json
from probekit.names import Selector, SiteName, rules
from probekit.plan import CapturePlan, Kept, make_plan
from probekit.probe import Probe
from probekit.progress import Progress, silent
from probekit.reduce import Mask, Reduction
from probekit.sites import SiteTable, evaluation, run
from probekit.sites import sites as dry_run
from probekit.sizes import parse_size
from probekit.writer import Array, Writer, check_absent

__all__ = ["Loss", "capture", "plan", "weights_digest"]

Loss: TypeAlias = Callable[[Any, Tensor | None], Tensor]  # of the model's output and the labels; a scalar


def capture(
    model: nn.Module,
    data: Any,
    out: str | Path,
    *,
    sites: Selector = "**",
    exclude: Selector | None = None,
    reduce: Mapping[Any, Reduction] | Reduction | None = None,
    batch_dim: Mapping[Any, int] | int = 0,
    dtype: str | None = None,
    loss: Loss | None = None,
    batch_size: int = 256,
    labels: Any = None,
    columns: Mapping[str, Any] | None = None,
    ids: Any = None,
    class_names: Sequence[str] | None = None,
    memory: str | int = "256MiB",
    overwrite: bool = False,
    progress: Progress = silent,
) -> xr.DataTree:
    """Stream the activations of `model` on `data` into a new store at `out`; returns it opened, as `probekit.open`.

    The model runs in eval mode, without gradients unless a ``:grad`` site is asked for, in the order of the data, and
    isn't moved; its mode is restored. Samples are committed in chunk-rows: what is committed survives an error, Ctrl-C
    or a kill, and opens as a prefix.

    Args:
        model: any torch module whose selected sites have the batch as axis 0.
        data: a DataLoader, a data set (read in order), tensors or arrays ``x`` or ``(x, y)`` of all samples, or an
            iterable of batches: ``(x, y)``, ``x`` or dicts.
        out: a path where nothing stands yet.
        sites, exclude: which sites to keep, as `probekit.Probe` selects them.
        reduce: what to keep of an activation: ``"mean"`` or ``"max"`` over positions, ``"cls"``, ``"last"``,
            ``"flatten"``, unit indices, a `probekit.Projection`, a callable tensor → tensor, or a list of these to
            apply in turn; for all sites, or by selector in a dict, whose first match counts. An ``attention_mask`` in
            the batch says which tokens are real.
        batch_dim: the axis that is the batch, for all sites or by selector.
        dtype: ``"float32"``, ``"float16"``, ``"bfloat16"`` or ``"float64"``; by default as the model gives it.
            bfloat16 is written as float32, which is exact.
        loss: for ``:grad`` sites, a callable of the model's output and the batch's labels that gives a scalar; by
            default the cross-entropy summed over the batch, so that rows don't scale with it. No ``.grad`` is touched.
        batch_size: samples a batch, where the data don't come in batches.
        labels, columns, ids, class_names: where the samples' labels, further columns and ids are, and what the classes
            are called; see `probekit.batches.Batches`.
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
    if any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers())):
        raise ModelError(
            f"{type(model).__name__} has weights on the device 'meta', which hold no numbers. Load its weights first; "
            "probekit.sites and probekit.plan work without them."
        )
    if not overwrite:
        check_absent(out)
    batches = Batches(data, batch_size=batch_size, labels=labels, columns=columns, ids=ids, class_names=class_names)
    first, stream = _peek(batches)
    made = make_plan(
        model,
        *_dry_runs(model, first, sites, exclude),
        first,
        rows=batches.rows,
        out=out,
        reduce=reduce,
        batch_dim=batch_dim,
        dtype=dtype,
        memory=parse_size(memory),
    )
    made.require_room(out)
    if overwrite:
        store.remove(out)
    writer = Writer(
        out,
        made.specs,
        chunk_rows=made.chunk_rows,
        rows=batches.rows,
        columns={name: values.dtype for name, values in _columns(first, 0).items()},
        attrs=_attrs(model, sites, dtype, first.rows),
    )
    with writer, evaluation(model):
        _stream(model, progress(stream, f"capture {out.name}", batches.count), writer, made, batches, loss)
    return store.open_store(out)


def plan(
    model: nn.Module,
    data: Any,
    *,
    sites: Selector = "**",
    exclude: Selector | None = None,
    reduce: Mapping[Any, Reduction] | Reduction | None = None,
    batch_dim: Mapping[Any, int] | int = 0,
    dtype: str | None = None,
    batch_size: int = 256,
    out: str | Path = "acts.zarr",
    memory: str | int = "256MiB",
) -> CapturePlan:
    """What `capture` would do with these arguments: sites, shapes, rows, bytes, tiles, buffers and free disk.

    Reads one batch of the data and runs the model once on it. Prints as a table, also in a notebook.

    Raises:
        SiteError, DataError, ModelError, StoreError: as `capture`, but for a disk that is too small.

    Example:
        >>> import torch, probekit as pk
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU())
        >>> pk.plan(model, torch.randn(100, 4), sites="1").bytes
        1200
    """
    batches = Batches(data, batch_size=batch_size)
    first, _ = _peek(batches)
    return make_plan(
        model,
        *_dry_runs(model, first, sites, exclude),
        first,
        rows=batches.rows,
        out=Path(out),
        reduce=reduce,
        batch_dim=batch_dim,
        dtype=dtype,
        memory=parse_size(memory),
    )


def _peek(batches: Batches) -> tuple[Batch, Iterator[Batch]]:
    """The first batch, and the stream that still begins with it."""
    stream = iter(batches)
    first = next(stream, None)
    if first is None or not first.rows:
        raise DataError("The data hold no samples.")
    return first, chain([first], stream)


def _dry_runs(
    model: nn.Module, first: Batch, sites: Selector, exclude: Selector | None
) -> tuple[SiteTable, SiteTable | None]:
    """The sites on the first batch, and on all of it but one sample: which axis follows the batch shows then.

    An axis may be as long as the batch by chance, such as the time steps of a recurrent layer. There is no second run
    for a single sample, nor for a model that takes batches of one size only.
    """
    table = dry_run(model, first.inputs, select=sites, exclude=exclude)
    if first.rows < 2:
        return table, None
    try:
        return table, dry_run(model, _shortened(first.inputs, first.rows), select=sites, exclude=exclude)
    except ModelError:
        return table, None


def _shortened(inputs: Any, rows: int) -> Any:
    """The inputs without their last sample."""
    if isinstance(inputs, Tensor):
        return inputs[: rows - 1] if inputs.dim() and len(inputs) == rows else inputs
    if isinstance(inputs, Mapping):
        return {name: _shortened(value, rows) for name, value in inputs.items()}
    if isinstance(inputs, tuple | list) and not hasattr(inputs, "_fields"):
        return tuple(_shortened(value, rows) for value in inputs)
    return inputs


def _columns(batch: Batch, start: int) -> dict[str, Array]:
    """The columns of a batch; samples that carry no id are numbered from `start`."""
    return {"sample_id": np.arange(start, start + batch.rows)} | batch.columns


def _stream(
    model: nn.Module,
    stream: Iterable[Batch],
    writer: Writer,
    made: CapturePlan,
    batches: Batches,
    loss: Loss | None,
) -> None:
    recorder = _Recorder(made.model, made.kept)
    gradients = any(kept.site.side == "grad" for kept in made.kept)
    start = 0
    with Probe(model, [kept.name for kept in made.kept], record=recorder) as probe:
        for batch in stream:
            recorder.begin(writer.reserve(batch.rows), batch)
            with torch.enable_grad() if gradients else nullcontext():
                output = run(model, batch.inputs)
                if gradients:
                    probe.backward(_loss(loss, output, batch))
            recorder.end()
            writer.advance(_columns(batch, start), batches.class_names or ())
            start += batch.rows
    recorder.warn_of_overflow()


def _loss(loss: Loss | None, output: Any, batch: Batch) -> Tensor:
    labels = None if batch.labels is None else torch.from_numpy(batch.labels)
    if loss is not None:
        return loss(output, labels)
    logits = getattr(output, "logits", output)
    if labels is None or not isinstance(logits, Tensor) or logits.dim() != 2:
        raise DataError(
            "Gradients need a loss. By default it is the cross-entropy of logits (sample, class) and the labels, and "
            f"here the {'model gives no such logits' if labels is not None else 'data have no labels'}: pass "
            "loss=, a callable of the output and the labels."
        )
    return F.cross_entropy(logits, labels.to(logits.device), reduction="sum")


@dataclass
class _Now:
    """The batch that is being recorded: where its rows go, and which sites haven't given theirs."""

    number: int
    spans: list[dict[str, Array]]
    rows: int
    mask: Mask | None
    missing: set[str]


class _Recorder:
    """Copies each activation, at the moment it is made, into the rows that the writer has reserved for the batch."""

    def __init__(self, model: str, kept: Sequence[Kept]) -> None:
        self._model = model
        self._names = {replace(one.site, call=one.site.call or 0): one.name for one in kept}
        self._kept = {one.name: one for one in kept}
        self._overflows = dict.fromkeys(self._kept, 0)
        self._now = _Now(-1, [], 0, None, set())

    def begin(self, spans: list[dict[str, Array]], batch: Batch) -> None:
        mask = None if batch.mask is None else Mask.of(batch.mask)
        self._now = _Now(self._now.number + 1, spans, batch.rows, mask, set(self._kept))

    def __call__(self, site: SiteName, tensor: Tensor) -> None:
        now, name = self._now, self._names.get(site)
        if name is None:
            raise SiteError(f"{site} of {self._model} ran at batch {now.number} and not in the first batch.")
        kept = self._kept[name]
        source = kept.of(tensor, now.mask, now.rows)
        if tuple(source.shape) != (now.rows, *kept.spec.shape):
            raise SiteError(
                f"{name} of {self._model} gave shape {tuple(source.shape)} at batch {now.number}, of {now.rows} "
                f"samples; in the first batch each sample had shape {kept.spec.shape}."
            )
        if kept.dtype != source.dtype:
            source = self._cast(name, source, kept.dtype)
        done = 0
        for span in now.spans:
            target = torch.from_numpy(span[name])
            target.copy_(source[done : done + len(target)])
            done += len(target)
        now.missing.discard(name)

    def _cast(self, name: str, source: Tensor, dtype: torch.dtype) -> Tensor:
        cast = source.to(dtype)
        if torch.finfo(dtype).max < torch.finfo(source.dtype).max:
            self._overflows[name] += int(cast.isinf().sum() - source.isinf().sum())
        return cast

    def end(self) -> None:
        """Check that every site ran in the batch."""
        if self._now.missing:
            missing = ", ".join(sorted(self._now.missing))
            raise SiteError(f"{missing} of {self._model} didn't run at batch {self._now.number}.")

    def warn_of_overflow(self) -> None:
        lost = {name: count for name, count in self._overflows.items() if count}
        if lost:
            warnings.warn(
                f"Values too large for the dtype became infinite: {lost}. Capture these sites as float32.",
                stacklevel=4,
            )


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
