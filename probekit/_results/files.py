"""Results on disk: a zarr store that is there whole or not at all."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import xarray as xr
from xarray.conventions import encode_cf_variable, encode_dataset_coordinates

from probekit._heap import give_back
from probekit._store.backend import backend_of
from probekit._store.codec import ChunkCodec, array_metadata
from probekit._store.layout import RECORD, ArraySpec, Json, chunk_key
from probekit._store.record import dump
from probekit.errors import StoreError

__all__ = ["as_store_errors", "files_of", "fill_value", "require_absent", "write"]

ChunkShape: TypeAlias = Callable[[xr.Variable], tuple[int, ...] | None]

_CHUNK_BYTES = 2**23  # compressing takes four times as much
_SMALL = 2**16  # bytes that aren't worth compressing
_LARGE = 2**20  # bytes of a file for which more memory was needed than may wait to be given back


def require_absent(out: Path) -> None:
    """Raise StoreError if something stands at `out`."""
    if out.exists():
        raise StoreError(
            f"{out} exists already, and measure never replaces anything. Remove it, or give another path (out=).",
            arguments=("out",),
        )


class _Files(Mapping[str, bytes]):
    """Files by their paths, of which each is made when it is asked for: all at once would be as large as the tree."""

    def __init__(self, makers: Mapping[str, Callable[[], bytes]]) -> None:
        self._makers = makers

    def __getitem__(self, path: str) -> bytes:
        made = self._makers[path]()
        give_back(at_once=len(made) > _LARGE)
        return made

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)


def files_of(tree: xr.DataTree, chunk_shape: ChunkShape = lambda _: None) -> Mapping[str, bytes]:
    """The files of a zarr store that holds `tree`, by their paths in it, as ``DataTree.to_zarr`` would have it.

    That takes zarr some milliseconds a variable, of which a tree has thousands. The bytes of a file are made each time
    that it is asked for.

    Args:
        tree: what is to be held.
        chunk_shape: of a variable; None leaves it open. A variable with one isn't compressed.
    """
    nodes: dict[str, Json] = {}
    files: dict[str, Callable[[], bytes]] = {}
    for node in tree.subtree:
        group = node.path.lstrip("/")
        dataset = node.to_dataset(inherit=False)
        variables, attrs = encode_dataset_coordinates(dataset)
        nodes[group] = {"attributes": _as_json(attrs), "zarr_format": 3, "node_type": "group"}
        for name, variable in variables.items():
            path = f"{group}/{name}".lstrip("/")
            nodes[path], chunks = _array(path, str(name), variable, chunk_shape(dataset.variables[name]))
            files |= chunks
    root = nodes.pop("")
    files |= {f"{path}/{RECORD}": partial(dump, node) for path, node in nodes.items()}
    consolidated = {"kind": "inline", "must_understand": False, "metadata": nodes}
    return _Files({**files, RECORD: partial(dump, {**root, "consolidated_metadata": consolidated})})


def _array(
    path: str, name: str, variable: xr.Variable, chunk: tuple[int, ...] | None
) -> tuple[Json, Mapping[str, Callable[[], bytes]]]:
    """The metadata of a variable, and what makes its chunks, by their keys."""
    # No value stands for a missing one.
    bare = xr.Variable(variable.dims, variable.values, variable.attrs, {"_FillValue": None})
    encoded = encode_cf_variable(bare, name=name)
    values = np.asarray(encoded.values)
    text = values.dtype.kind in "OU"
    dims, dtype = tuple(map(str, encoded.dims)), np.dtype(np.str_) if text else values.dtype
    compression = "fast" if chunk is None and not text and values.nbytes > _SMALL else None
    chunk = chunk or _chunk_shape(values.shape, values.dtype.itemsize)
    codec = ChunkCodec(ArraySpec(path, dims, values.shape[1:], dtype, chunk, compression))
    metadata = array_metadata(dims, values.shape, dtype, chunk, compression)
    # A dim that gets longer has no chunks for what was measured before.
    fill = "NaN" if dtype.kind == "f" else metadata["fill_value"]

    def content(index: tuple[int, ...]) -> bytes:
        part = values[tuple(slice(i * n, (i + 1) * n) for i, n in zip(index, chunk, strict=True))]
        if part.shape != chunk:
            padded = np.full(chunk, "" if text else fill_value(dtype), object if text else dtype)
            padded[tuple(map(slice, part.shape))] = part
            part = padded
        return b"".join(map(bytes, codec.encode(np.asarray(part, order="C"))))

    places = np.ndindex(*(math.ceil(n / part) for n, part in zip(values.shape, chunk, strict=True)))
    chunks = {chunk_key(path, index): partial(content, index) for index in places}
    return {**metadata, "attributes": _as_json(encoded.attrs), "fill_value": fill}, chunks


def fill_value(dtype: np.dtype[Any]) -> Any:
    """What stands where nothing was measured."""
    return np.nan if dtype.kind == "f" else np.zeros((), dtype)[()]


def _chunk_shape(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    chunk = [max(1, length) for length in shape]
    while math.prod(chunk) * itemsize > _CHUNK_BYTES and max(chunk) > 1:
        longest = chunk.index(max(chunk))
        chunk[longest] = math.ceil(chunk[longest] / 2)
    return tuple(chunk)


def _as_json(attrs: Mapping[Any, Any]) -> Json:
    return {
        str(key): value.tolist() if isinstance(value, np.ndarray | np.generic) else value
        for key, value in attrs.items()
    }


def write(results: xr.DataTree, out: Path) -> None:
    """Write `results` as a zarr store, readable by ``xarray.open_datatree``, which appears whole or not at all.

    Raises:
        StoreError: something stands at `out`, or it can't be written.
    """
    files = files_of(results)
    require_absent(out)
    with as_store_errors(str(out)):
        backend_of(out).create(files)


@contextmanager
def as_store_errors(url: str) -> Iterator[None]:
    """Turn the system's error for a disk that is full or refuses into a StoreError that names the store."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"The results can't be written to {url}: {error.strerror or error}.") from error
