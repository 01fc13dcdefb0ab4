"""What a capture will do, before it does it: the sites, their rows and bytes, the buffer, the disk."""

from __future__ import annotations

import html
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from probekit.batches import Batch
from probekit.errors import SiteError, StoreError
from probekit.layout import SiteSpec, tile_shape
from probekit.names import Rule, SiteName, module_names, no_match, selects
from probekit.reduce import Mask, Reducer, Reduction, plan_reduction, sample_dims
from probekit.sites import Site, SiteTable
from probekit.sizes import format_size
from probekit.writer import SLOTS

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["CapturePlan", "Kept", "make_plan"]

CHUNK_ROWS = 4096  # samples in a chunk-row where memory allows: at 200 float32 nodes a tile of 3 MB
DTYPES = {"float32": torch.float32, "float16": torch.float16, "float64": torch.float64, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Kept:
    """What is kept of one site: its `spec` on disk, the batch's axis, the reduction, the dtype it is cast to."""

    spec: SiteSpec
    site: SiteName
    batch_dim: int
    reducer: Reducer | None
    dtype: torch.dtype

    @property
    def name(self) -> str:
        return self.spec.name

    def of(self, tensor: Tensor, mask: Mask | None, rows: int) -> Tensor:
        """What is kept of an activation, the batch of so many `rows` as axis 0."""
        moved = tensor.movedim(self.batch_dim, 0) if self.batch_dim else tensor
        return moved if self.reducer is None else self.reducer(moved, mask, rows=rows).tensor


@dataclass(frozen=True)
class CapturePlan:
    """A capture as it will be; prints as a table, also in a notebook.

    `rows` is None where the data can't say how many samples there are, and then so is `bytes`.
    """

    model: str
    kept: tuple[Kept, ...]
    rows: int | None
    batch_size: int
    chunk_rows: int
    free: int

    columns = ("site", "dims", "sample", "dtype", "tile", "bytes/sample", "bytes")

    @property
    def specs(self) -> list[SiteSpec]:
        return [kept.spec for kept in self.kept]

    @property
    def bytes_per_sample(self) -> int:
        return sum(spec.bytes_per_sample for spec in self.specs)

    @property
    def bytes(self) -> int | None:
        """What the activations will take on disk, uncompressed."""
        return None if self.rows is None else self.rows * self.bytes_per_sample

    @property
    def buffer(self) -> int:
        """What the writer holds in memory."""
        return SLOTS * self.chunk_rows * self.bytes_per_sample

    def rows_of_cells(self) -> list[tuple[str, str, str, str, str, int, int | None]]:
        """The cells under `columns`, one tuple a site."""
        return [
            (
                spec.name,
                ", ".join(("sample", *spec.dims)),
                "×".join(map(str, spec.shape)) or "scalar",
                str(spec.dtype),
                "×".join(map(str, (self.chunk_rows, *tile_shape(spec, self.chunk_rows)))),
                spec.bytes_per_sample,
                None if self.rows is None else self.rows * spec.bytes_per_sample,
            )
            for spec in self.specs
        ]

    def summary(self) -> str:
        """One line: samples, bytes, buffer, free disk."""
        total = "of unknown number" if self.rows is None else f"{self.rows}"
        disk = f"{format_size(self.bytes_per_sample)} a sample" if self.bytes is None else format_size(self.bytes)
        return (
            f"{self.model}: {len(self.kept)} sites, samples {total}, {disk} on disk ({format_size(self.free)} free), "
            f"{format_size(self.buffer)} of buffers, committed every {self.chunk_rows} samples"
        )

    def to_dataframe(self) -> pd.DataFrame:
        import pandas as pd

        return pd.DataFrame(self.rows_of_cells(), columns=list(self.columns))

    def __repr__(self) -> str:
        return f"{self.summary()}\n{self.to_dataframe().to_string(index=False)}"

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(self.summary())}</p>{self.to_dataframe().to_html(index=False)}"

    def require_room(self, out: Path) -> None:
        """Raise StoreError where the samples to come, if their number is known, can't fit on the disk."""
        if self.bytes is not None and self.bytes > self.free:
            raise StoreError(
                f"{out} would take {format_size(self.bytes)} for {self.rows} samples ({_largest(self.specs)}), and the "
                f"disk has {format_size(self.free)} free. Select fewer sites, reduce them (reduce=), or keep "
                'dtype="float16".'
            )


def make_plan(
    model: nn.Module,
    table: SiteTable,
    shorter: SiteTable | None,
    first: Batch,
    *,
    rows: int | None,
    out: Path,
    reduce: Mapping[Any, Reduction] | Reduction | None,
    batch_dim: Mapping[Any, int] | int,
    dtype: str | None,
    memory: int,
) -> CapturePlan:
    """The plan for sites that a dry run on the `first` batch found, and one on a `shorter` batch by one sample.

    Raises:
        SiteError: axis 0 of a site isn't the batch, a reduction doesn't fit, or a key of `reduce` picks no site.
        StoreError: an unknown dtype, or one batch doesn't fit in `memory`.
    """
    if dtype is not None and dtype not in DTYPES:
        raise StoreError(f"dtype is {dtype!r}; a store keeps {', '.join(DTYPES)}, or None for what the model gives.")
    modules = module_names(model)
    reductions = _by_site(reduce, None, table, modules)
    dims = _by_site(batch_dim, 0, table, modules)
    mask = None if first.mask is None else Mask.of(first.mask)
    kept = tuple(_kept(site, reductions[site.name], dims[site.name], mask, first.rows, dtype) for site in table)
    _check_batch_axes(kept, table, shorter)
    folder = next(parent for parent in out.absolute().parents if parent.exists())
    chunk_rows = _chunk_rows([one.spec for one in kept], first.rows, rows, memory)
    return CapturePlan(table.model, kept, rows, first.rows, chunk_rows, shutil.disk_usage(folder).free)


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


def _kept(site: Site, reduction: Reduction, batch_dim: int, mask: Mask | None, rows: int, dtype: str | None) -> Kept:
    if not site.shape:
        raise SiteError(f"{site.name} ({site.type}) is one number for the whole batch, which has no samples to keep.")
    if not -len(site.shape) <= batch_dim < len(site.shape):
        raise SiteError(f"batch_dim is {batch_dim} for {site.name}, whose shape is {site.shape}.")
    reducer = None if reduction is None else plan_reduction(reduction, site=site.name)
    if reducer is not None and reducer.by_token:
        raise SiteError(
            f"A store can't keep one row a token yet, as 'tokens' of {site.name} asks. Keep all positions, or one of "
            "them: 'mean', 'max', 'cls', 'last'."
        )
    example = torch.zeros(site.shape, dtype=site.dtype).movedim(batch_dim, 0)
    if reducer is None and len(example) != rows:
        raise SiteError(
            f"Axis 0 of {site.name} ({site.type}) is not the batch: its shape is {site.shape} for {rows} samples. Say "
            f"which axis is: batch_dim={{{site.name!r}: 1}}; or pass a callable that makes it axis 0 in reduce=; or "
            "select other sites."
        )
    result = example if reducer is None else reducer(example, mask, rows=rows).tensor
    cast = DTYPES[dtype] if dtype is not None and result.is_floating_point() else result.dtype
    attrs = {
        "module": site.module,
        "kind": site.kind,
        "type": site.type,
        "dtype": str(site.dtype).removeprefix("torch."),
        "kept_dtype": str(cast).removeprefix("torch."),
        "original_shape": list(site.shape),
        "batch_dim": batch_dim,
        "reduce": "none" if reducer is None else reducer.describe(),
    }
    spec = SiteSpec(site.name, sample_dims(result.dim() - 1), tuple(result.shape[1:]), _on_disk(cast), attrs)
    return Kept(spec, site.parts, batch_dim, reducer, cast)


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


def _chunk_rows(specs: Sequence[SiteSpec], batch: int, rows: int | None, memory: int) -> int:
    """Samples in a chunk-row: whole batches, near `CHUNK_ROWS`, so that the writer's buffers fit into `memory`."""
    sample = sum(spec.bytes_per_sample for spec in specs)
    most = memory // max(1, SLOTS * sample) // batch  # batches
    if most < 1:
        raise StoreError(
            f"One batch of {batch} samples needs {format_size(SLOTS * batch * sample)} of buffers "
            f"({_largest(specs)}), and memory is {format_size(memory)}. Give more memory, smaller batches, "
            "fewer sites, or reduce=."
        )
    wanted = CHUNK_ROWS if rows is None else min(CHUNK_ROWS, rows)
    return batch * min(most, math.ceil(wanted / batch))


def _largest(specs: Sequence[SiteSpec]) -> str:
    top = sorted(specs, key=lambda spec: spec.bytes_per_sample, reverse=True)[:3]
    return "largest a sample: " + ", ".join(f"{spec.name} {format_size(spec.bytes_per_sample)}" for spec in top)
