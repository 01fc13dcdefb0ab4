"""The main job: a model and its data, through a probe, into a store."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import xarray as xr
from torch import nn

from probekit._capture.plan import CapturePlan
from probekit._capture.session import Session
from probekit._data.batches import Batch, Batches
from probekit._data.sampler import ChunkSampler
from probekit._forward.dry_run import Request, peek
from probekit._forward.forward_pass import Loss
from probekit._probe.reductions import Reduction
from probekit._probe.selectors import Selector, module_names
from probekit._store import store
from probekit._store.backend import Place, place_of
from probekit._store.layout import MARKERS
from probekit._write.rank_writer import Group, done_chunks
from probekit._write.transfer import copies_for
from probekit._write.writer import Writer
from probekit.errors import DataError, ModelError, StoreError
from probekit.progress import Progress, silent

__all__ = ["capture", "plan"]

MODES = ("eval", "train")


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
    compression: str | None = None,
    mode: str = "eval",
    loss: Loss | None = None,
    batch_size: int = 256,
    labels: Any = None,
    columns: Mapping[str, Any] | None = None,
    ids: Any = None,
    keep_labels: bool = False,
    class_names: Sequence[str] | None = None,
    predictions: bool = False,
    memory: str | int = "256MiB",
    resume: bool = False,
    append: Literal["samples", "sites"] | None = None,
    overwrite: bool = False,
    durable: bool = False,
    progress: Progress = silent,
) -> xr.DataTree:
    """Stream the activations of `model` on `data` into a new store at `out`; returns it opened, as `probekit.open`.

    The model runs in eval mode, without gradients unless a ``:grad`` site is asked for, in the order of the data, and
    isn't moved; its mode, its buffers and the random generators are as before afterwards. Samples are committed in
    chunk-rows: what is committed survives an error, Ctrl-C or a kill, opens as a prefix, and with `resume` the capture
    goes on from there, to the same bits as if it had never stopped.

    Args:
        model: any torch module whose selected sites have the batch as axis 0.
        data: a DataLoader (with a `probekit.ChunkSampler` where several processes capture together), a data set (read
            in order), tensors or arrays ``x`` or ``(x, y)`` of all samples, or an iterable of batches: ``(x, y)``,
            ``x`` or dicts.
        out: a path where nothing stands yet, or a URL such as ``s3://bucket/acts.zarr``, which needs the extra for it.
        sites, exclude: which sites to keep, as `probekit.Probe` selects them.
        reduce: what to keep of an activation: ``"mean"`` or ``"max"`` over positions, ``"cls"``, ``"last"``,
            ``"flatten"``, ``"tokens"`` (a row for each real token, with its sample's columns and its ``position``
            among the sample's real tokens), unit indices, a `probekit.Projection`, a callable tensor → tensor, or a
            list of these to apply in turn; for all sites, or by selector in a dict, whose first match counts. An
            ``attention_mask`` in the batch says which tokens are real.
        batch_dim: the axis that is the batch, for all sites or by selector.
        dtype: ``"float32"``, ``"float16"``, ``"bfloat16"`` or ``"float64"``; by default as the model gives it.
            bfloat16 is written as float32, which is exact, and compressed ``"fast"``.
        compression: ``"fast"`` (lz4) or ``"small"`` (zstd), both of shuffled bits; by default none, which is fastest.
        mode: ``"eval"`` or ``"train"``. In train mode each batch draws from generators seeded by its first sample's
            number, and running statistics are put back afterwards.
        loss: for ``:grad`` sites, a callable of the model's output and the batch's labels that gives a scalar; by
            default the cross-entropy summed over the batch, so that rows don't scale with it. No ``.grad`` is touched.
        batch_size: samples a batch, where the data don't come in batches.
        labels, columns, ids, keep_labels, class_names: where the samples' labels, further columns and ids are, and what
            the classes are called; see `probekit._data.batches.Batches`.
        predictions: keep the class that the model predicts for each sample, where its logits (sample, class) are
            largest, as the column ``prediction``. The logits are what the model returns, or its ``.logits`` or
            ``["logits"]``.
        memory: the bound on what waits to be written, such as ``"256MiB"`` or bytes.
        resume: go on with the store that stands at `out`, if there is one, from its last committed sample. The data
            must come in the same order; the batches that are there already are read and compared, not run.
        append: add to the complete store at `out`: ``"samples"``, which follow those that are there, of the same sites;
            or ``"sites"``, of the same samples, which appear when they are whole.
        overwrite: replace a store that stands at `out`.
        durable: have every file on the disk (fsync) before a commit counts on it, so that it outlives a power loss.

    Raises:
        SiteError: no such site, or one whose axis 0 isn't the batch.
        DataError: inputs and labels don't fit together.
        ModelError: the model fails on a batch, or gives no logits to predict by.
        StoreError: `out` exists, or was made otherwise than what is to be resumed, which the error names; another
            process writes it; the disk is full or refuses; one batch doesn't fit in `memory`.

    Example:
        >>> import torch, probekit as pk
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU())
        >>> x, y = torch.randn(100, 4), torch.arange(100) % 2
        >>> tree = pk.capture(model, (x, y), "acts.zarr", sites="1")  # doctest: +SKIP
        >>> tree["1"]["activation"].groupby("label").mean()  # doctest: +SKIP
    """
    module_names(model)  # raises for what has no modules that run
    if any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers())):
        raise ModelError(
            f"{type(model).__name__} has weights on the device 'meta', which hold no numbers. Load its weights first; "
            "probekit.sites and probekit.plan work without them."
        )
    if mode not in MODES:
        raise ModelError(f"mode is {mode!r}; it is {' or '.join(map(repr, MODES))}.")
    place = place_of(out, durable=durable)
    how = _How(resume, append, overwrite)
    how.check(place)
    batches = Batches(
        data,
        batch_size=batch_size,
        labels=labels,
        columns=columns,
        ids=ids,
        keep_labels=keep_labels,
        class_names=class_names,
    )
    request = Request(sites, exclude, reduce, batch_dim, dtype, compression, memory, mode, predictions)
    job = _Job(model, request, loss, batches, place, how, progress)
    with torch.random.fork_rng(devices=()):  # a DataLoader draws from torch's generator when it begins
        if batches.chunks is None:
            job.run()
        else:
            job.run_with_others(batches.chunks)
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
    compression: str | None = None,
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
    first, _ = peek(batches)
    options = Request(sites, exclude, reduce, batch_dim, dtype, compression, memory, "eval")
    return options.plan(model, first, batches.rows, place_of(out).free())


@dataclass(frozen=True)
class _How:
    """What is done about a store that stands there already."""

    resume: bool
    append: Literal["samples", "sites"] | None
    overwrite: bool

    def check(self, place: Place) -> None:
        if self.append not in (None, "samples", "sites"):
            raise DataError(f"append is {self.append!r}; it is 'samples' or 'sites'.")
        if self.overwrite and (self.resume or self.append):
            raise DataError(
                "overwrite=True replaces the store that resume or append would go on with. Give one of them."
            )
        if self.resume and self.append:
            raise DataError("resume=True goes on with what was appended, too, given the same data. Give one of them.")
        if self.append:
            store.read_record(place)
        elif not self.overwrite and not self.resume:
            store.check_absent(place)


@dataclass(frozen=True)
class _Job:
    """One call of `capture`."""

    model: nn.Module
    request: Request
    loss: Loss | None
    batches: Batches
    place: Place
    how: _How
    progress: Progress

    def run(self) -> None:
        if self.place.exists() and not self.how.overwrite:
            self.batches.begin_with(store.class_names(self.place, store.read_record(self.place)))
        first, stream = peek(self.batches)
        session = self._session(first)
        if self.how.overwrite:
            store.remove(self.place)
        with ExitStack() as held:
            new = not self.place.exists()
            if not new:
                held.enter_context(self.place.lock())  # nothing may change between the look at it and the writing
            writer = self._writer(session, new)
            if new:
                held.enter_context(self.place.lock())
            if writer is not None:
                session.run(self._shown(stream), held.enter_context(writer))

    def run_with_others(self, sampler: ChunkSampler) -> None:
        """Capture this process's chunk-rows of a store that several may write."""
        group = Group(sampler)
        if self.how.append:
            raise DataError("append= takes data in order, and no ChunkSampler. Give a loader without one.")
        first = next(iter(self.batches), None)
        session = None if first is None else self._session(first)
        with ExitStack() as held:
            if group.by_first(lambda: self._lay_out(session, held)) == "complete":
                return
            record = store.read_record(self.place)["attributes"]
            sampler.done = done_chunks(self.place, record["rows"], sampler)
            writer = None if session is None else session.ranked(sampler)
            group.by_all(lambda: self._run_own(session, writer))
            group.by_first(lambda: writer.close() if writer is not None else None)

    def _lay_out(self, session: Session | None, held: ExitStack) -> str:
        """In the first process, which always has a chunk-row: have a store to write into, and hold it."""
        if session is None:
            raise DataError("The data hold no samples.")
        session.require_alike()
        if self.how.overwrite:
            store.remove(self.place)
        new = not self.place.exists()
        writer = self._writer(session, new)
        held.enter_context(self.place.lock())
        if writer is None:
            return "complete"
        rows, theirs = session.plan.chunk_rows, store.read_record(self.place)["attributes"]["chunk_rows"]
        if rows != theirs:
            raise StoreError(f"{self.place.url} has chunk-rows of {theirs} samples, and the ChunkSampler of {rows}.")
        self.place.make_room([MARKERS])
        return "to be written"

    def _run_own(self, session: Session | None, writer: Writer | None) -> None:
        if session is not None and writer is not None:
            with writer:
                session.run(self._shown(iter(self.batches)), writer)

    def _session(self, first: Batch) -> Session:
        made = self.request.plan(self.model, first, self.batches.rows, self.place.free())
        if self.batches.chunks is not None:
            made = made.in_chunks_of(self.batches.chunks.chunk_rows, self.request.bytes)
        return Session(
            self.model, self.request, self.loss, self.batches, first, made, self.place, copies_for(self.model)
        )

    def _writer(self, session: Session, new: bool) -> Writer | None:
        if new:
            return session.new()
        if self.how.resume:
            return session.resumed()
        return session.longer() if self.how.append == "samples" else session.wider()

    def _shown(self, stream: Iterable[Batch]) -> Iterable[Batch]:
        return self.progress(stream, f"capture {self.place.url.rpartition('/')[2]}", self.batches.count)
