"""What a capture will do, before it does it: the sites, their rows and bytes, the row buffers, the disk."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from probekit._data.batches import Batch, Batches
from probekit._forward.early_stop import check_early_stop
from probekit._forward.options import RunOptions, SiteOptions
from probekit._forward.site_plan import PlannedSite, SitePlan, plan_sites, require_model_order
from probekit._sizes import Size, format_size, format_time, parse_size
from probekit._store.backend import Backend
from probekit._store.codec import check_compression
from probekit._store.layout import Layout, SiteSpec
from probekit._table import ShownAsTable, Table
from probekit._write.writer import ROW_BUFFERS
from probekit.errors import StoreError

__all__ = ["BatchTooLarge", "CaptureOptions", "CapturePlan", "StorageOptions", "plan_capture"]

CHUNK_ROWS = 8192  # samples, or tokens, in a chunk where memory allows: at 200 float32 nodes 6.5 MB
CHUNK_ROW_BYTES = 32 * 2**20  # of all sites in a chunk row: what is left to be written when the model is done


class BatchTooLarge(StoreError):
    """A batch whose activations don't fit in the row buffers; one of `fits` samples would."""

    def __init__(self, message: str, fits: int) -> None:
        super().__init__(message, arguments=("memory", "batch_size", "sites", "reduce"))
        self.fits = fits

    def __reduce__(self) -> tuple[type[BatchTooLarge], tuple[str, int]]:
        return type(self), (str(self), self.fits)  # as a pool of processes sends it

    @property
    def size(self) -> int:
        """The number of samples of the batches that are taken instead: a power of two."""
        return 1 << (self.fits.bit_length() - 1)


@dataclass(frozen=True)
class StorageOptions:
    """How activations are stored, and in how much memory they wait; `probekit.capture` documents every field.

    Raises:
        StoreError: there is no such `compression`.
        ProbekitError: `memory` is not a size.
    """

    compression: str | None
    memory: int

    @classmethod
    def of(cls, compression: str | None, memory: str | int) -> StorageOptions:
        check_compression(compression)
        return cls(compression, parse_size(memory))


@dataclass(frozen=True)
class CaptureOptions:
    """The options of a capture, apart from its data and its path."""

    sites: SiteOptions
    run: RunOptions
    storage: StorageOptions


@dataclass(frozen=True, repr=False)
class CapturePlan(ShownAsTable):
    """A capture as it will be; prints as a table, also in a notebook.

    `rows` is None where the data can't say how many samples there are, and then so is `bytes`. `free` is None where the
    backend has no limit. A site whose rows are tokens is taken to have the example's number of tokens in every sample.
    """

    site_plan: SitePlan
    rows: int | None
    batch_size: int
    rows_per_chunk: int
    tokens_per_chunk: int
    free: int | None

    @property
    def sites(self) -> tuple[PlannedSite, ...]:
        return self.site_plan.sites

    @property
    def specs(self) -> list[SiteSpec]:
        return [site.spec for site in self.sites]

    @property
    def bytes_per_sample(self) -> int:
        return sum(site.bytes_per_sample for site in self.sites)

    @property
    def bytes(self) -> int | None:
        """The bytes of the activations on disk, uncompressed."""
        return None if self.rows is None else self.rows * self.bytes_per_sample

    @property
    def seconds(self) -> float | None:
        """What the model's passes take, at most, judged by those of the dry run, which are of a few samples."""
        return None if self.rows is None else self.rows * self.site_plan.seconds

    @property
    def buffer(self) -> int:
        """The most bytes that the row buffers take in memory."""
        samples, tokens = _bytes_by_kind(self.sites)
        return ROW_BUFFERS * self.rows_per_chunk * samples + (ROW_BUFFERS + 1) * self.tokens_per_chunk * tokens

    def in_chunks_of(self, rows: int, batch_size: int, memory: int) -> CapturePlan:
        """The same in chunk rows of so many samples, for a loader of batches of `batch_size`.

        Raises:
            StoreError: they aren't whole batches, or their buffers don't fit in `memory`.
        """
        made = replace(self, rows_per_chunk=rows)
        if rows % batch_size or made.buffer > memory:
            raise StoreError(
                f"The ChunkSampler's chunk_rows is {rows}, which must be a multiple of the batch size, "
                f"{batch_size}, and takes {format_size(made.buffer)} of row buffers ({_largest(self.sites)}); "
                f"memory is {format_size(memory)}.",
                arguments=("batch_size", "memory"),
            )
        return made

    def layout(self, columns: Mapping[str, np.dtype[Any]]) -> Layout:
        """The arrays of the store, its samples having these `columns`."""
        return Layout(tuple(self.specs), columns, self.rows_per_chunk, self.tokens_per_chunk)

    @property
    def table(self) -> Table:
        """One row a site."""
        columns = ("site", "dims", "batch", "nodes", "mask", "sample", "dtype", "chunk", "bytes/sample", "bytes")
        return Table(self.summary(), columns, [self._row(site) for site in self.sites])

    def _row(self, site: PlannedSite) -> tuple[object, ...]:
        activation = self.layout({}).activation(site.spec)
        return (
            site.name,
            ", ".join(activation.dims),
            "axis 0, unfolded" if site.folded else f"axis {site.batch_dim}",
            site.shown_nodes,
            None if site.mask is None else site.mask.name,
            "×".join(map(str, site.spec.shape)) or "scalar",
            str(site.spec.dtype),
            "×".join(map(str, activation.chunk)),
            Size(site.bytes_per_sample),
            None if self.rows is None else Size(self.rows * site.bytes_per_sample),
        )

    def summary(self) -> str:
        """One line: samples, bytes, buffer, free disk."""
        total = "of unknown number" if self.rows is None else f"{self.rows}"
        disk = f"{format_size(self.bytes_per_sample)} a sample" if self.bytes is None else format_size(self.bytes)
        free = "" if self.free is None else f" ({format_size(self.free)} free)"
        time = "" if self.seconds is None else f", at most some {format_time(self.seconds)} by passes of few samples"
        return (
            f"{self.site_plan.model}: {len(self.sites)} sites, samples {total}, {disk} on disk{free}, "
            f"{format_size(self.buffer)} of buffers, committed every {self.rows_per_chunk} samples in batches of "
            f"{self.batch_size}{time}"
        )

    def require_room(self, backend: Backend) -> None:
        """Raise StoreError where the samples to come, if their number is known, can't fit on the disk."""
        if self.bytes is not None and self.free is not None and self.bytes > self.free:
            raise StoreError(
                f"{backend.url} would take {format_size(self.bytes)} for {self.rows} samples ({_largest(self.sites)}), "
                f"and the disk has {format_size(self.free)} free. Select fewer sites (sites=), reduce them (reduce=), "
                'or keep dtype="float16".',
                arguments=("sites", "reduce", "dtype"),
            )


def plan_capture(
    model: nn.Module, batches: Batches, first: Batch, options: CaptureOptions, free: int | None
) -> CapturePlan:
    """The plan for `batches` that begin with the batch `first`, where the disk has so many bytes `free`.

    Raises:
        SiteError, ModelError, DataError: as `probekit._forward.site_plan.plan_sites`.
        BatchTooLarge: one batch doesn't fit in the memory.
        StoreError: a `ChunkSampler` asks for chunk rows that don't fit.
    """
    names = None if batches.names_grow else batches.class_names
    planned = plan_sites(model, first, options.sites, options.run, None if names is None else len(names))
    require_model_order(batches, planned, options.run)
    check_early_stop(model, first, planned, options.run)
    sites = replace(planned, sites=tuple(_compressed(site, options.storage.compression) for site in planned.sites))
    chunk_rows, tokens_per_chunk = _rows_per_chunk(sites.sites, first.rows, batches.rows, options.storage.memory)
    plan = CapturePlan(sites, batches.rows, first.rows, chunk_rows, tokens_per_chunk, free)
    if batches.chunks is None:
        return plan
    return plan.in_chunks_of(batches.chunks.chunk_rows, batches.batch_rows, options.storage.memory)


def _compressed(site: PlannedSite, compression: str | None) -> PlannedSite:
    if compression is None and site.dtype == torch.bfloat16:
        compression = "fast"  # half of the bits of a bfloat16 in a float32 are zeros
    return replace(site, spec=replace(site.spec, compression=compression))


def _bytes_by_kind(sites: Sequence[PlannedSite]) -> tuple[int, int]:
    """The bytes of a sample at all sites whose rows are samples, and of a token at those whose rows are tokens."""
    samples, tokens = (
        sum(one.spec.bytes_per_row for one in sites if one.spec.tokens == of_tokens) for of_tokens in (False, True)
    )
    return samples, tokens


def _rows_per_chunk(sites: Sequence[PlannedSite], batch: int, rows: int | None, memory: int) -> tuple[int, int]:
    """Samples and tokens in a chunk, near `CHUNK_ROWS`, so that the writer's buffers fit into `memory`.

    The samples are whole batches. Sites of the two kinds share the memory; a token site has one more buffer.
    """
    sample, token = _bytes_by_kind(sites)
    share = memory // 2 if sample and token else memory
    most = share // max(1, ROW_BUFFERS * sample) // batch  # batches
    most_tokens = share // max(1, (ROW_BUFFERS + 1) * token)
    if most < 1 or most_tokens < 1:
        least = max(ROW_BUFFERS * batch * sample, (ROW_BUFFERS + 1) * token) * memory // max(1, share)
        fits = share // (ROW_BUFFERS * sample) if sample and most_tokens else 0
        raise BatchTooLarge(
            f"One batch of {batch} samples needs {format_size(least)} of row buffers ({_largest(sites)}), and memory "
            f"is {format_size(memory)}. Give more memory (memory=), smaller batches (batch_size=), or fewer sites "
            "(sites=), or reduce them (reduce=).",
            fits,
        )
    wanted = min(CHUNK_ROWS, max(1, CHUNK_ROW_BYTES // max(1, sample)), CHUNK_ROWS if rows is None else rows)
    return batch * min(most, math.ceil(wanted / batch)), min(most_tokens, CHUNK_ROWS)


def _largest(sites: Sequence[PlannedSite]) -> str:
    top = sorted(sites, key=lambda one: one.bytes_per_sample, reverse=True)[:3]
    return "largest per sample: " + ", ".join(f"{one.name} {format_size(one.bytes_per_sample)}" for one in top)
