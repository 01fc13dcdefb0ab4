"""What a capture will do, before it does it: the sites, their rows and bytes, the buffer, the disk."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from probekit._data.batches import Batch
from probekit._probe.reductions import Mask, Reduced, Reducer, Reduction, plan_reduction
from probekit._probe.selectors import Rule, SiteName, module_names, no_match, selects
from probekit._probe.site_table import Site, SiteTable
from probekit._sizes import format_size
from probekit._store.backend import Place
from probekit._store.codec import check_compression
from probekit._store.layout import Layout, SiteSpec
from probekit._write.writer import SLOTS
from probekit.errors import SiteError, StoreError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["CapturePlan", "Kept", "make_plan"]

CHUNK_ROWS = 8192  # samples, or tokens, in a tile where memory allows: at 200 float32 nodes 6.5 MB
CHUNK_BYTES = 32 * 2**20  # of all sites in a chunk-row: what is left to be written when the model is done
DTYPES = {"float32": torch.float32, "float16": torch.float16, "float64": torch.float64, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Kept:
    """What is kept of one site: its `spec` on disk, the batch's axis, the reduction, the dtype it is cast to."""

    spec: SiteSpec
    site: SiteName
    batch_dim: int
    reducer: Reducer | None
    dtype: torch.dtype
    rows_per_sample: float  # 1, or the example's tokens a sample

    @property
    def bytes_per_sample(self) -> int:
        return math.ceil(self.spec.bytes_per_row * self.rows_per_sample)

    @property
    def name(self) -> str:
        return self.spec.name

    def of(self, tensor: Tensor, mask: Mask | None, rows: int) -> Reduced:
        """What is kept of an activation, the batch of so many `rows` as axis 0."""
        moved = tensor.movedim(self.batch_dim, 0) if self.batch_dim else tensor
        return Reduced(moved) if self.reducer is None else self.reducer(moved, mask, rows=rows)


@dataclass(frozen=True)
class CapturePlan:
    """A capture as it will be; prints as a table, also in a notebook.

    `rows` is None where the data can't say how many samples there are, and then so is `bytes`; `free` is None where
    the place has no bound. Of a site whose rows are tokens, the example's number of tokens a sample is taken for all.
    """

    model: str
    kept: tuple[Kept, ...]
    rows: int | None
    batch_size: int
    chunk_rows: int
    token_rows: int
    free: int | None

    columns = ("site", "dims", "sample", "dtype", "tile", "bytes/sample", "bytes")

    @property
    def specs(self) -> list[SiteSpec]:
        return [kept.spec for kept in self.kept]

    @property
    def names(self) -> list[str]:
        return [kept.name for kept in self.kept]

    @property
    def gradients(self) -> bool:
        """Whether a site is a gradient, which takes a backward pass."""
        return any(kept.site.side == "grad" for kept in self.kept)

    @property
    def bytes_per_sample(self) -> int:
        return sum(kept.bytes_per_sample for kept in self.kept)

    @property
    def bytes(self) -> int | None:
        """What the activations will take on disk, uncompressed."""
        return None if self.rows is None else self.rows * self.bytes_per_sample

    @property
    def buffer(self) -> int:
        """What the writer holds in memory at most."""
        samples, tokens = _bytes_by_kind(self.kept)
        return SLOTS * self.chunk_rows * samples + (SLOTS + 1) * self.token_rows * tokens

    def in_chunks_of(self, rows: int, memory: int) -> CapturePlan:
        """The same in chunk-rows of so many samples.

        Raises:
            StoreError: they aren't whole batches, their buffers don't fit in `memory`, or a site has tokens for rows.
        """
        made = replace(self, chunk_rows=rows)
        tokens = [kept.name for kept in self.kept if kept.spec.tokens]
        if tokens:
            raise StoreError(
                f"{tokens[0]} has a row for each token, and where such a row belongs shows only when all before it are "
                "there. Capture it in one process, without a ChunkSampler."
            )
        if rows % self.batch_size or made.buffer > memory:
            raise StoreError(
                f"The ChunkSampler's chunk_rows is {rows}, which must be a multiple of the batch size, "
                f"{self.batch_size}, and takes {format_size(made.buffer)} of buffers ({_largest(self.kept)}), where "
                f"memory is {format_size(memory)}."
            )
        return made

    def layout(self, columns: Mapping[str, np.dtype[Any]]) -> Layout:
        """The arrays of the store, its samples having these `columns`."""
        return Layout(tuple(self.specs), columns, self.chunk_rows, self.token_rows)

    def rows_of_cells(self) -> list[tuple[str, str, str, str, str, int, int | None]]:
        """The cells under `columns`, one tuple a site."""
        layout = self.layout({})
        return [
            (
                kept.name,
                ", ".join(layout.activation(kept.spec).dims),
                "×".join(map(str, kept.spec.shape)) or "scalar",
                str(kept.spec.dtype),
                "×".join(map(str, layout.activation(kept.spec).tile)),
                kept.bytes_per_sample,
                None if self.rows is None else self.rows * kept.bytes_per_sample,
            )
            for kept in self.kept
        ]

    def summary(self) -> str:
        """One line: samples, bytes, buffer, free disk."""
        total = "of unknown number" if self.rows is None else f"{self.rows}"
        disk = f"{format_size(self.bytes_per_sample)} a sample" if self.bytes is None else format_size(self.bytes)
        free = "" if self.free is None else f" ({format_size(self.free)} free)"
        return (
            f"{self.model}: {len(self.kept)} sites, samples {total}, {disk} on disk{free}, "
            f"{format_size(self.buffer)} of buffers, committed every {self.chunk_rows} samples"
        )

    def to_dataframe(self) -> pd.DataFrame:
        import pandas as pd

        return pd.DataFrame(self.rows_of_cells(), columns=list(self.columns))

    def __repr__(self) -> str:
        return f"{self.summary()}\n{self.to_dataframe().to_string(index=False)}"

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(self.summary())}</p>{self.to_dataframe().to_html(index=False)}"

    def require_room(self, place: Place) -> None:
        """Raise StoreError where the samples to come, if their number is known, can't fit on the disk."""
        if self.bytes is not None and self.free is not None and self.bytes > self.free:
            raise StoreError(
                f"{place.url} would take {format_size(self.bytes)} for {self.rows} samples ({_largest(self.kept)}), "
                f"and the disk has {format_size(self.free)} free. Select fewer sites, reduce them (reduce=), or keep "
                'dtype="float16".'
            )


def make_plan(
    model: nn.Module,
    table: SiteTable,
    shorter: SiteTable | None,
    example: Batch,
    *,
    batch_size: int,
    rows: int | None,
    free: int | None,
    reduce: Mapping[Any, Reduction] | Reduction | None,
    batch_dim: Mapping[Any, int] | int,
    dtype: str | None,
    compression: str | None,
    memory: int,
) -> CapturePlan:
    """The plan for sites that a dry run on `example` found, and one on a `shorter` batch by one sample.

    Raises:
        SiteError: axis 0 of a site isn't the batch, a reduction doesn't fit, or a key of `reduce` picks no site.
        StoreError: an unknown dtype or compression, or one batch doesn't fit in `memory`.
    """
    check_compression(compression)
    if dtype is not None and dtype not in DTYPES:
        raise StoreError(f"dtype is {dtype!r}; a store keeps {', '.join(DTYPES)}, or None for what the model gives.")
    modules = module_names(model)
    reductions = _by_site(reduce, None, table, modules)
    dims = _by_site(batch_dim, 0, table, modules)
    mask = None if example.mask is None else Mask.of(example.mask)
    kept = tuple(
        _kept(site, reductions[site.name], dims[site.name], mask, example.rows, dtype, compression, batch_size)
        for site in table
    )
    _check_batch_axes(kept, table, shorter)
    chunk_rows, token_rows = _tile_rows(kept, batch_size, rows, memory)
    return CapturePlan(table.model, kept, rows, batch_size, chunk_rows, token_rows, free)


def _by_site(given: Any, default: Any, table: SiteTable, modules: Mapping[str, nn.Module]) -> dict[str, Any]:
    """The option of each site: one for all, or by selector, where the first that picks a site counts."""
    if not isinstance(given, Mapping):
        return dict.fromkeys(table.names, default if given is None else given)
    chosen = dict.fromkeys(table.names, default)
    for selector, value in reversed(list(given.items())):
        picked = [site for site in table if _picks(selector, site, modules)]
        if not picked:
            raise no_match(
                selector, dict.fromkeys(table.names), f"the sites that are captured of {table.model}", "probekit.plan"
            )
        chosen |= dict.fromkeys((site.name for site in picked), value)
    return chosen


def _picks(selector: Rule, site: Site, modules: Mapping[str, nn.Module]) -> bool:
    return selects(selector, site.parts, modules[site.module])


def _kept(
    site: Site,
    reduction: Reduction,
    batch_dim: int,
    mask: Mask | None,
    rows: int,
    dtype: str | None,
    compression: str | None,
    batch_size: int,
) -> Kept:
    if not site.shape:
        raise SiteError(f"{site.name} ({site.type}) is one number for the whole batch, which has no samples to keep.")
    if not -len(site.shape) <= batch_dim < len(site.shape):
        raise SiteError(f"batch_dim is {batch_dim} for {site.name}, whose shape is {site.shape}.")
    reducer = None if reduction is None else plan_reduction(reduction, site=site.name)
    example = torch.zeros(site.shape, dtype=site.dtype).movedim(batch_dim, 0)
    if reducer is None and len(example) != rows:
        raise SiteError(
            f"Axis 0 of {site.name} ({site.type}) is not the batch: its shape is {site.shape} for {rows} samples. Say "
            f"which axis is: batch_dim={{{site.name!r}: 1}}; or pass a callable that makes it axis 0 in reduce=; or "
            "select other sites."
        )
    reduced = Reduced(example) if reducer is None else reducer(example, mask, rows=rows)
    result = reduced.tensor
    cast = DTYPES[dtype] if dtype is not None and result.is_floating_point() else result.dtype
    attrs = {
        "module": site.module,
        "kind": site.kind,
        "type": site.type,
        "dtype": str(site.dtype).removeprefix("torch."),
        "kept_dtype": str(cast).removeprefix("torch."),
        "original_shape": [batch_size if axis == batch_dim else length for axis, length in enumerate(site.shape)],
        "batch_dim": batch_dim,
        "reduce": "none" if reducer is None else reducer.describe(),
    }
    spec = SiteSpec(
        site.name,
        reduced.dims,
        tuple(result.shape[1:]),
        _on_disk(cast),
        attrs,
        tokens=reduced.sample is not None,
        # Half of the bits of a bfloat16 in a float32 are zeros.
        compression=compression or ("fast" if cast == torch.bfloat16 else None),
    )
    return Kept(spec, site.parts, batch_dim, reducer, cast, len(result) / rows)


def _check_batch_axes(kept: Sequence[Kept], table: SiteTable, shorter: SiteTable | None) -> None:
    """Raise SiteError for a site whose axis of the batch didn't become shorter with the batch."""
    after = {} if shorter is None else {site.name: site.shape for site in shorter}
    for one, site in zip(kept, table, strict=True):
        shape, less = site.shape, after.get(site.name, ())
        if one.reducer is None and len(less) == len(shape) and less[one.batch_dim] == shape[one.batch_dim]:
            raise SiteError(
                f"Axis {one.batch_dim} of {site.name} ({site.type}) is not the batch, though as long: its shape is "
                f"{shape}, and {less} for one sample less. Say which axis is: batch_dim={{{site.name!r}: 1}}; or "
                "select other sites."
            )


def _on_disk(dtype: torch.dtype) -> np.dtype[Any]:
    # bfloat16, which zarr can't store, fits exactly into float32.
    dtype = torch.float32 if dtype == torch.bfloat16 else dtype
    return np.dtype(torch.empty((), dtype=dtype).numpy().dtype)


def _bytes_by_kind(kept: Sequence[Kept]) -> tuple[int, int]:
    """The bytes of a sample at all sites whose rows are samples, and of a token at those whose rows are tokens."""
    samples, tokens = (
        sum(one.spec.bytes_per_row for one in kept if one.spec.tokens == of_tokens) for of_tokens in (False, True)
    )
    return samples, tokens


def _tile_rows(kept: Sequence[Kept], batch: int, rows: int | None, memory: int) -> tuple[int, int]:
    """Samples and tokens in a tile, near `CHUNK_ROWS`, so that the writer's buffers fit into `memory`.

    The samples are whole batches. Sites of the two kinds share the memory; a token site has one more buffer.
    """
    sample, token = _bytes_by_kind(kept)
    share = memory // 2 if sample and token else memory
    most = share // max(1, SLOTS * sample) // batch  # batches
    most_tokens = share // max(1, (SLOTS + 1) * token)
    if most < 1 or most_tokens < 1:
        least = max(SLOTS * batch * sample, (SLOTS + 1) * token) * memory // max(1, share)
        raise StoreError(
            f"One batch of {batch} samples needs {format_size(least)} of buffers ({_largest(kept)}), and memory is "
            f"{format_size(memory)}. Give more memory, smaller batches, fewer sites, or reduce=."
        )
    wanted = min(CHUNK_ROWS, max(1, CHUNK_BYTES // max(1, sample)), CHUNK_ROWS if rows is None else rows)
    return batch * min(most, math.ceil(wanted / batch)), min(most_tokens, CHUNK_ROWS)


def _largest(kept: Sequence[Kept]) -> str:
    top = sorted(kept, key=lambda one: one.bytes_per_sample, reverse=True)[:3]
    return "largest a sample: " + ", ".join(f"{one.name} {format_size(one.bytes_per_sample)}" for one in top)
