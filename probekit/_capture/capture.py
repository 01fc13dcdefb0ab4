"""The main job: a model and its data, through a probe, into a store."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn
from torch.utils.data import Dataset

from probekit._bars import default
from probekit._capture.job import CaptureJob, IfExists
from probekit._capture.plan import BatchTooLarge, CaptureOptions, CapturePlan, StorageOptions, plan_capture
from probekit._data.batches import BATCH_SIZE, Batches, Rows, peek
from probekit._data.loaders import is_hugging_face
from probekit._forward.options import Loss, MaskChoice, Reset, RunOptions, SiteOptions
from probekit._probe.offloaded import offloaded_weights
from probekit._probe.reductions import Reduction
from probekit._probe.selectors import Selector, module_names
from probekit._provenance import call_of, origin
from probekit._store.backend import backend_of
from probekit._store.store import open_store
from probekit._write.transfer import transfer_for
from probekit.errors import DataError, ModelError
from probekit.progress import Progress

__all__ = ["capture", "plan"]


def capture(
    model: nn.Module,
    data: Any,
    out: str | Path,
    *,
    sites: Selector = "**",
    exclude: Selector | None = None,
    reduce: Mapping[Any, Reduction] | Reduction | None = None,
    batch_dim: Mapping[Any, int] | int | None = None,
    node_dim: Mapping[Any, int] | int | None = None,
    mask: Mapping[Any, MaskChoice] | MaskChoice | None = None,
    dtype: str | None = None,
    compression: str | None = None,
    mode: Literal["eval", "train", "as is"] = "eval",
    loss: Loss | None = None,
    reset: Reset | None = None,
    batch_size: int | None = None,
    workers: int = 0,
    labels: Any = None,
    columns: Mapping[str, Any] | None = None,
    ids: Any = None,
    keep_labels: bool = False,
    class_names: Sequence[str] | None = None,
    ignore_label: int | str | Collection[int | str] | None = None,
    rows: Rows | None = None,
    predictions: bool | Literal["auto"] = False,
    stop_early: bool = False,
    memory: str | int = "256MiB",
    resume: bool = False,
    append: Literal["samples", "sites"] | None = None,
    overwrite: bool = False,
    durable: bool = False,
    progress: Progress | None = None,
) -> xr.DataTree:
    """Stream the activations of `model` on `data` into a new store at `out`; returns it opened, as `probekit.open`.

    The model runs over the data in order, in eval mode, without gradients unless a ``:grad`` site is asked for. It
    isn't moved; afterwards its mode, its buffers, its attributes and the random generators are as before. Samples are
    committed in chunk rows: committed samples survive an error, Ctrl-C or a kill, and open as a prefix. With `resume`
    the capture continues from there, and its results are bit-identical to those of a capture that was never stopped.

    Args:
        model: any torch module. Axis 0 of the selected sites is the batch, or `batch_dim` says which axis is.
        data: a DataLoader (with a `probekit.ChunkSampler` where several processes capture together), a data set (read
            in order), tensors or arrays ``x`` or ``(x, y)`` of all samples, or an iterable of batches: ``(x, y)``,
            ``x`` or dicts.
        out: a path where nothing exists yet, or a URL such as ``s3://bucket/acts.zarr``, which needs its extra.
        sites, exclude: which sites to keep, as `probekit.Probe` selects them.
        reduce: what to keep of an activation: ``"mean"`` or ``"max"`` over positions, ``"cls"``, ``"last"``,
            ``"flatten"``, ``"tokens"`` (a row for each real token, with its sample's columns and its ``position``
            among the sample's real tokens), ``"attention_entropy"`` of attention maps (for each head, the mean over the
            real queries, in bits), unit indices, a `probekit.Projection`, a callable tensor → tensor, or a list of
            these to apply in turn; for all sites, or by selector in a dict, whose first match counts.
        batch_dim: the axis of an activation that is the batch, for all sites or by selector. By default axis 0, or
            axis 1 of what recurrent and attention layers give with the time first. The dry run checks that it follows
            the number of samples.
        node_dim: the axis of an activation, as the model gives it, that is the nodes, for all sites or by selector. By
            default it is followed from the operation that made the nodes: axis 1 of a convolution or a batch norm, the
            last axis of a linear layer, a layer norm or an embedding. `probekit.sites` shows it, with a question mark
            where it is a guess by the number of axes.
        mask: which tokens are real, 1, and which are padding, 0, as (batch, position): a key of the inputs or a
            parameter of the model's forward, a place among the inputs, a callable that makes it of the inputs, False
            for none; for all sites, or by selector. By default the input whose name ends in ``attention_mask``, where
            one alone fits a site. Reductions leave padding out. A site that keeps its positions has the mask beside
            its activation, for `probekit.measure` to leave padding out.
        dtype: ``"float32"``, ``"float16"``, ``"bfloat16"`` or ``"float64"``; by default as the model gives it.
            bfloat16 is written as float32, which is exact, and compressed ``"fast"``.
        compression: ``"fast"`` (lz4) or ``"small"`` (zstd), both of shuffled bits; by default none, which is fastest.
        mode: ``"eval"`` or ``"train"``, the training flag that every module gets, or ``"as is"``, which leaves the
            flags (for dropout alone, or frozen batch norms). In each mode, what a pass draws at random is seeded by the
            number of the batch's first sample, and running statistics are put back afterwards.
        loss: for ``:grad`` sites, a callable of the model's output and the batch's labels that gives a scalar; by
            default the cross-entropy summed over the batch, so that rows don't scale with it. No ``.grad`` is touched.
        reset: a callable that takes the model and clears the state that it keeps from one pass to the next, such as
            that of spiking neurons; called before each pass.
        batch_size: samples a batch, where the data don't come in batches. By default 256, or fewer where these don't
            fit in `memory`, which a warning says; a store that is added to keeps its own.
        workers: processes that read a data set, such as one that decodes images; 0 for this process.
        labels, columns, ids, keep_labels, class_names: where the samples' labels, further columns and ids are, and the
            names of the classes; the page "Data, labels and columns" explains them.
        ignore_label: a label, or several, whose samples are left out, such as -100.
        rows: for inputs of different lengths, such as graphs: a callable of a batch's inputs that returns its number of
            samples, or a pair of that and the index of the sample that each row of a site belongs to: a tensor, or a
            dict of such by selector. Those sites have a row for each of their rows, as with ``reduce="tokens"``.
        predictions: keep the class that the model predicts for each sample, where its logits (sample, class) are
            largest, as the column ``prediction``. The logits are what the model returns, or its ``.logits`` or
            ``["logits"]``. With ``"auto"``, where the samples have labels and there are as many logits as
            classes. `probekit.info` tells the accuracy.
        stop_early: leave each forward pass as soon as the selected sites have given their activations, which are
            bit-identical. What the model would do after that isn't run: there are no predictions and no gradients, and
            what runs only there isn't checked.
        memory: the maximum memory of the row buffers that wait to be written, such as ``"256MiB"`` or bytes.
        resume: continue the store at `out`, if there is one, from its last committed sample. The data must come in the
            same order; batches that are committed already are read and compared, but not run.
        append: add to the complete store at `out`: ``"samples"``, which follow those that are there, of the same sites;
            or ``"sites"``, of the same samples, which appear when they are whole.
        overwrite: replace a store at `out`.
        durable: write every file to the disk (fsync) before a commit counts on it, so that it survives a power loss.

    Raises:
        SiteError: no such site, or one whose axis 0 isn't the batch.
        DataError: inputs and labels don't fit together.
        ModelError: the model fails on a batch, gives no logits to predict by, or can't be left early.
        StoreError: `out` exists, or was captured with different settings, which the error names; another process
            writes it; the disk is full or refuses; one batch doesn't fit in `memory`.

    Example:
        >>> import torch, probekit as pk
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU())
        >>> x, y = torch.randn(100, 4), torch.arange(100) % 2
        >>> tree = pk.capture(model, (x, y), "acts.zarr", sites="1")  # doctest: +SKIP
        >>> tree["1"]["activation"].groupby("label").mean()  # doctest: +SKIP
    """
    call = call_of(capture, locals())
    module_names(model)  # raises for what has no modules that run
    elsewhere = offloaded_weights(model)
    tensors = (*model.named_parameters(), *model.named_buffers())
    if any(tensor.is_meta and name not in elsewhere for name, tensor in tensors):
        raise ModelError(
            f"{type(model).__name__} has weights on the device 'meta', which hold no numbers. Load its weights first; "
            "probekit.sites and probekit.plan work without them."
        )
    backend = backend_of(out, durable=durable)
    options = CaptureOptions(
        SiteOptions(sites, exclude, reduce, batch_dim, node_dim, mask, dtype),
        RunOptions(mode, loss, predictions, reset, stop_early),
        StorageOptions.of(compression, memory),
    )
    if_exists = IfExists(resume, append, overwrite)
    if_exists.check(backend)
    batches_of = partial(
        Batches,
        data,
        workers=workers,
        labels=labels,
        columns=columns,
        ids=ids,
        keep_labels=keep_labels,
        class_names=class_names,
        ignore_label=ignore_label,
        rows=rows,
    )
    batches = batches_of(batch_size=BATCH_SIZE if batch_size is None else batch_size)
    smaller = _in_batches_of(batches_of, data) if batch_size is None else None
    with torch.random.fork_rng(devices=()):  # a DataLoader draws from torch's generator when it begins
        whence = origin(model, data, call)
        transfer, shown = transfer_for(model), default(progress)
        CaptureJob(model, options, batches, backend, if_exists, transfer, shown, whence, smaller).run()
    return open_store(out)


def plan(
    model: nn.Module,
    data: Any,
    *,
    sites: Selector = "**",
    exclude: Selector | None = None,
    reduce: Mapping[Any, Reduction] | Reduction | None = None,
    batch_dim: Mapping[Any, int] | int | None = None,
    node_dim: Mapping[Any, int] | int | None = None,
    mask: Mapping[Any, MaskChoice] | MaskChoice | None = None,
    dtype: str | None = None,
    compression: str | None = None,
    mode: Literal["eval", "train", "as is"] = "eval",
    reset: Reset | None = None,
    batch_size: int | None = None,
    workers: int = 0,
    labels: Any = None,
    columns: Mapping[str, Any] | None = None,
    ids: Any = None,
    keep_labels: bool = False,
    class_names: Sequence[str] | None = None,
    ignore_label: int | str | Collection[int | str] | None = None,
    rows: Rows | None = None,
    predictions: bool | Literal["auto"] = False,
    stop_early: bool = False,
    out: str | Path = "acts.zarr",
    memory: str | int = "256MiB",
) -> CapturePlan:
    """What `capture` would do with these arguments: sites, shapes, rows, bytes, chunks, row buffers and free disk.

    Reads one batch of the data and runs the model on its first samples. Prints as a table, also in a notebook.

    Args:
        out: the path or URL whose free space is looked up; nothing is written there.
        model, data, sites, exclude, reduce, batch_dim, node_dim, mask, dtype, compression: as for `capture`.
        mode, reset, batch_size, workers, labels, columns, ids, keep_labels, class_names: as for `capture`.
        ignore_label, rows: as for `capture`.
        predictions, stop_early, memory: as for `capture`.

    Raises:
        SiteError, DataError, ModelError, StoreError: as `capture`, but not for a disk that is too small.

    Example:
        >>> import torch, probekit as pk
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU())
        >>> pk.plan(model, torch.randn(100, 4), sites="1").bytes
        1200
    """
    if isinstance(data, Iterator):
        raise DataError(
            f"A {type(data).__name__} gives its batches once, and a plan would take the first. Give the data set, a "
            "loader, or a list of one batch."
        )
    options = CaptureOptions(
        SiteOptions(sites, exclude, reduce, batch_dim, node_dim, mask, dtype),
        RunOptions(mode, predictions=predictions, reset=reset, stop_early=stop_early),
        StorageOptions.of(compression, memory),
    )
    batches_of = partial(
        Batches,
        data,
        workers=workers,
        labels=labels,
        columns=columns,
        ids=ids,
        keep_labels=keep_labels,
        class_names=class_names,
        ignore_label=ignore_label,
        rows=rows,
    )
    smaller = _in_batches_of(batches_of, data) if batch_size is None else None
    free = backend_of(out).free()
    try:
        return _planned(model, batches_of(batch_size=BATCH_SIZE if batch_size is None else batch_size), options, free)
    except BatchTooLarge as error:
        if smaller is None or error.fits < 1:
            raise
        return _planned(model, smaller(error.size), options, free)


def _planned(model: nn.Module, batches: Batches, options: CaptureOptions, free: int | None) -> CapturePlan:
    with torch.random.fork_rng(devices=()):  # a DataLoader draws from torch's generator when it begins
        first, _ = peek(batches)
    return plan_capture(model, batches, first, options, free)


def _in_batches_of(batches_of: Callable[..., Batches], data: Any) -> Callable[[int], Batches] | None:
    """What gives the data in batches of another size; None where they come in batches, or can be read once only."""
    whole = isinstance(data, Dataset | Tensor | np.ndarray | tuple | Mapping) or is_hugging_face(data)
    return (lambda size: batches_of(batch_size=size)) if whole else None
