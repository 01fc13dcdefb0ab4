"""The main job: a model and its data, through a probe, into a store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, nullcontext
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
from probekit.copies import Copies, copies_for
from probekit.errors import DataError, ModelError
from probekit.fingerprint import check_same, inputs_digest, weights_digest
from probekit.layout import Json
from probekit.names import Selector, rules
from probekit.places import Place, place_of
from probekit.plan import CapturePlan, make_plan
from probekit.probe import Probe
from probekit.progress import Progress, silent
from probekit.recorder import Recorder
from probekit.records import codecs_of, create, lengths_of, nodes_of
from probekit.reduce import Reduction
from probekit.sites import SiteTable, run, running
from probekit.sites import sites as dry_run
from probekit.sizes import parse_size
from probekit.tiles import Array
from probekit.writer import Start, Writer

__all__ = ["Loss", "capture", "plan"]

Loss: TypeAlias = Callable[[Any, Tensor | None], Tensor]  # of the model's output and the labels; a scalar

MODES = ("eval", "train")
DRY_ROWS = 3  # samples of a dry run


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
    memory: str | int = "256MiB",
    resume: bool = False,
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
        data: a DataLoader, a data set (read in order), tensors or arrays ``x`` or ``(x, y)`` of all samples, or an
            iterable of batches: ``(x, y)``, ``x`` or dicts.
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
            the classes are called; see `probekit.batches.Batches`.
        memory: the buffer's bound, such as ``"256MiB"`` or bytes.
        resume: go on with the store that stands at `out`, if there is one, from its last committed sample. The data
            must come in the same order; the batches that are there already are read and compared, not run.
        overwrite: replace a store that stands at `out`.
        durable: have every file on the disk (fsync) before a commit counts on it, so that it outlives a power loss.

    Raises:
        SiteError: no such site, or one whose axis 0 isn't the batch.
        DataError: inputs and labels don't fit together.
        ModelError: the model fails on a batch.
        StoreError: `out` exists, or was made otherwise than what is to be resumed, which the error names; another
            process writes it; the disk is full or refuses; one batch doesn't fit in `memory`.

    Example:
        >>> import torch, probekit as pk
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU())
        >>> x, y = torch.randn(100, 4), torch.arange(100) % 2
        >>> tree = pk.capture(model, (x, y), "acts.zarr", sites="1")  # doctest: +SKIP
        >>> tree["1"]["activation"].groupby("label").mean()  # doctest: +SKIP
    """
    if any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers())):
        raise ModelError(
            f"{type(model).__name__} has weights on the device 'meta', which hold no numbers. Load its weights first; "
            "probekit.sites and probekit.plan work without them."
        )
    if mode not in MODES:
        raise ModelError(f"mode is {mode!r}; it is {' or '.join(map(repr, MODES))}.")
    place = place_of(out, durable=durable)
    if not overwrite and not resume:
        store.check_absent(place)
    batches = Batches(
        data,
        batch_size=batch_size,
        labels=labels,
        columns=columns,
        ids=ids,
        keep_labels=keep_labels,
        class_names=class_names,
    )
    first, stream = _peek(batches)
    options = _Options(sites, exclude, reduce, batch_dim, dtype, compression, memory, mode)
    job = _Job(model, options, loss, batches, first, options.plan(model, first, batches.rows, place.free()))
    if overwrite:
        store.remove(place)
    copies = copies_for(model)
    with ExitStack() as held:
        if resume and place.exists():
            held.enter_context(place.lock())  # nothing may change between the look at it and the writing
            writer = job.resumed(place, copies)
        else:
            writer = job.new(place, copies)
            held.enter_context(place.lock())
        if writer is not None:
            stream = progress(stream, f"capture {place.url.rpartition('/')[2]}", batches.count)
            job.run(stream, held.enter_context(writer), copies)
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
    first, _ = _peek(batches)
    options = _Options(sites, exclude, reduce, batch_dim, dtype, compression, memory, "eval")
    return options.plan(model, first, batches.rows, place_of(out).free())


def _peek(batches: Batches) -> tuple[Batch, Iterator[Batch]]:
    """The first batch, and the stream that still begins with it."""
    stream = iter(batches)
    first = next(stream, None)
    if first is None or not first.rows:
        raise DataError("The data hold no samples.")
    return first, chain([first], stream)


@dataclass(frozen=True)
class _Options:
    """What is captured of a model, and how."""

    sites: Selector
    exclude: Selector | None
    reduce: Mapping[Any, Reduction] | Reduction | None
    batch_dim: Mapping[Any, int] | int
    dtype: str | None
    compression: str | None
    memory: str | int
    mode: str

    def plan(self, model: nn.Module, first: Batch, rows: int | None, free: int | None) -> CapturePlan:
        """The plan for data that begin with the batch `first`."""
        example, table = self._dry_run(model, first)
        return make_plan(
            model,
            table,
            self._shorter(model, example),
            example,
            batch_size=first.rows,
            rows=rows,
            free=free,
            reduce=self.reduce,
            batch_dim=self.batch_dim,
            dtype=self.dtype,
            compression=self.compression,
            memory=parse_size(self.memory),
        )

    def _dry_run(self, model: nn.Module, first: Batch) -> tuple[Batch, SiteTable]:
        """A dry run on a few samples, which cost little, or on the whole batch where the model takes no fewer."""
        few = _head(first, DRY_ROWS)
        if few is not None:
            try:
                return few, self._sites(model, few)
            except ModelError:
                pass  # the whole batch says what is wrong, if it isn't the size
        return first, self._sites(model, first)

    def _shorter(self, model: nn.Module, example: Batch) -> SiteTable | None:
        """The sites on one sample less than the example: which axis follows the batch shows then.

        An axis may be as long as the batch by chance, such as the time steps of a recurrent layer. There is no second
        run for a single sample, nor for a model that takes batches of one size only.
        """
        less = _head(example, example.rows - 1)
        if less is None:
            return None
        try:
            return self._sites(model, less)
        except ModelError:
            return None

    def _sites(self, model: nn.Module, batch: Batch) -> SiteTable:
        return dry_run(model, batch.inputs, select=self.sites, exclude=self.exclude)


def _head(batch: Batch, rows: int) -> Batch | None:
    """The first samples of a batch; None where it has no more, or its inputs can't be cut."""
    inputs = _cut(batch.inputs, batch.rows, rows)
    if not 0 < rows < batch.rows or inputs is None:
        return None
    mask = None if batch.mask is None else batch.mask[:rows]
    return replace(batch, inputs=inputs, rows=rows, mask=mask, columns={n: v[:rows] for n, v in batch.columns.items()})


def _cut(inputs: Any, rows: int, wanted: int) -> Any:
    """The first samples of all tensors in `inputs`; None for what isn't made of tensors."""
    if isinstance(inputs, Tensor):
        return inputs[:wanted] if inputs.dim() and len(inputs) == rows else inputs
    if isinstance(inputs, Mapping):
        parts = {name: _cut(value, rows, wanted) for name, value in inputs.items()}
        return None if any(part is None and inputs[name] is not None for name, part in parts.items()) else parts
    if isinstance(inputs, tuple | list) and not hasattr(inputs, "_fields"):
        several = [_cut(value, rows, wanted) for value in inputs]
        return None if any(part is None for part in several) else tuple(several)
    return inputs if isinstance(inputs, str | int | float | bool) else None


@dataclass(frozen=True)
class _Job:
    """One capture: a model, what is kept of it, and the data."""

    model: nn.Module
    options: _Options
    loss: Loss | None
    batches: Batches
    first: Batch
    plan: CapturePlan

    def new(self, place: Place, copies: Copies) -> Writer:
        """The writer of a new store."""
        self.plan.require_room(place)
        layout, attrs = self.plan.layout(self._dtypes), self._attrs()
        nodes = create(place, layout, attrs, self.batches.rows or 0)
        start = Start(dict.fromkeys(codecs_of(layout), 0))
        return Writer(place, layout, nodes, start, attrs, copies)

    def resumed(self, place: Place, copies: Copies) -> Writer | None:
        """The writer that goes on with the store that is there; None where that is complete.

        Raises:
            StoreError: the store was made otherwise.
        """
        record = store.read_record(place)
        theirs = record["attributes"]
        plan = replace(self.plan, chunk_rows=theirs["chunk_rows"], token_rows=theirs["token_rows"])
        layout = plan.layout(self._dtypes)
        nodes = nodes_of(layout, self.batches.rows or 0)
        check_same(place.url, record, self._attrs(), nodes)
        if theirs["complete"]:
            return None
        start = Start(lengths_of(layout, record), store.class_names(place, record))
        return Writer(place, layout, nodes, start, {**self._attrs(), "created": theirs["created"]}, copies)

    def run(self, stream: Iterable[Batch], writer: Writer, copies: Copies) -> None:
        """Run the model on every batch that isn't committed yet."""
        done = writer.committed
        seen = store.Columns(writer.place) if done else None
        start = 0
        recorder = Recorder(self.plan.model, self.plan.kept, writer, copies)
        with running(self.model, self.options.mode), Probe(self.model, self.plan.names, record=recorder) as probe:
            for number, batch in enumerate(stream):
                columns = _columns(batch)
                start = batch.start + batch.rows
                if seen is not None and batch.start < done:
                    seen.check(columns, batch.start)
                if start <= done and batch.rows:
                    continue
                recorder.begin(batch, number)
                writer.begin(columns, self.batches.class_names or (), skip=max(0, done - batch.start))
                self._forward(batch, probe)
                recorder.end()
                writer.end()
        if start < done:
            raise DataError(f"The data hold {start} samples, and {writer.place.url} has {done} of them already.")
        recorder.warn_of_overflow()

    def _forward(self, batch: Batch, probe: Probe) -> None:
        if self.options.mode == "train":
            torch.manual_seed(batch.start)  # so that what dropout draws doesn't depend on where a capture was stopped
        with torch.enable_grad() if self._gradients else nullcontext():
            output = run(self.model, batch.inputs)
            if self._gradients:
                probe.backward(_loss(self.loss, output, batch))

    @property
    def _gradients(self) -> bool:
        return any(kept.site.side == "grad" for kept in self.plan.kept)

    @property
    def _dtypes(self) -> dict[str, np.dtype[Any]]:
        return {name: values.dtype for name, values in _columns(self.first).items()}

    def _attrs(self) -> Json:
        """How the store was made: what `probekit info` shows, and what a resumed capture has to agree with."""
        attrs = {
            "probekit_version": probekit.__version__,
            "torch_version": str(torch.__version__),
            "model": f"{type(self.model).__module__}.{type(self.model).__qualname__}",
            "weights": weights_digest(self.model),
            "inputs": inputs_digest(self.first.inputs),
            "sites": [str(rule) for rule in rules(self.options.sites)],
            "dtype": self.options.dtype or "as given",
            "mode": self.options.mode,
            "batch_size": self.first.rows,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        if self.batches.rows is not None:
            attrs["expected_rows"] = self.batches.rows
        if self._gradients:
            loss = F.cross_entropy if self.loss is None else self.loss
            attrs["loss"] = getattr(loss, "__qualname__", type(loss).__qualname__)
        return attrs


def _columns(batch: Batch) -> dict[str, Array]:
    """The columns of a batch; samples that carry no id are numbered."""
    return {"sample_id": np.arange(batch.start, batch.start + batch.rows)} | batch.columns


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
