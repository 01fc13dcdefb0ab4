"""A store's record as an xarray tree, of which nothing is read before it is asked for."""

from __future__ import annotations

import asyncio
import importlib.util
import math
import os
import pickle
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from itertools import product
from typing import Any, TypeAlias
from uuid import uuid4

import numpy as np
import xarray as xr
import zarr
from xarray.backends import BackendArray
from xarray.core import indexing
from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.core.metadata import ArrayV3Metadata
from zarr.storage import LocalStore, StorePath, WrapperStore

from probekit._files import open_regular, read_regular
from probekit._store.backend import Backend
from probekit._store.codec import Array, ChunkCodec, is_sound, vouched
from probekit._store.layout import ACTIVATION, CHECKSUM_BYTES, ArraySpec, Json, chunk_key
from probekit._store.record import CommitRecord
from probekit._store.validation import spec_of
from probekit.errors import StoreError

__all__ = ["as_stored", "open_tree", "read_array"]

Span: TypeAlias = tuple[int, int]

_STORED = "probekit_stored"  # in a variable's encoding: the name of its dask array, and what that reads from


class _Chunks(WrapperStore[Store]):
    """A store of which a chunk that is missing is an error, where zarr gives zeros, and so is one that isn't the chunk.

    Args:
        store: the store as zarr knows it.
        codec: of the one array that is read.
        checksums: of its chunks, as far as the commit record vouches for them.
    """

    def __init__(self, store: Store, codec: ChunkCodec, checksums: bytes) -> None:
        super().__init__(store)
        self._codec, self._checksums = codec, checksums

    def _with_store(self, store: Store) -> _Chunks:
        return _Chunks(store, self._codec, self._checksums)

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        # What byte_range asks for is part of what comes: nothing here is sharded, so nothing asks.
        spec = self._codec.spec
        index = [int(part) for part in key.removeprefix(f"{spec.path}/c/").split("/")]
        try:
            if isinstance(self._store, LocalStore):
                data = await asyncio.to_thread(read_regular, self._store.root / key, self._codec.lengths[1])
            else:
                found = await self._store.get(key, prototype)
                if found is None:
                    raise FileNotFoundError(f"{key} is missing")
                data = found.to_bytes()
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{key} is missing") from error
        except OSError:
            raise
        except Exception as error:  # the clients of object stores have kinds of their own
            raise ConnectionError(f"{key} can't be reached: {type(error).__name__}: {error}") from error
        try:
            self._codec.check(data, vouched(self._checksums, spec.number(index)))
        except ValueError as error:
            raise ValueError(f"{key} is damaged: {error}") from error
        return prototype.buffer.from_bytes(data)


class _Stored(BackendArray):
    """One array of a store, as a record's `node` describes it whatever its own metadata say, read when it is indexed.

    Raises:
        StoreError: zarr, which is asked only where it is needed, makes nothing of the node.
    """

    def __init__(self, store: Store, url: str, path: str, node: Json, checksums: bytes) -> None:
        self.url = url
        self.path = path
        self._store = store
        self.node = node
        self._checksums = checksums
        self._plain = _plain(store, path, node, checksums)  # where it can be read without zarr
        self._process = os.getpid()
        self.shape = tuple(node["shape"])
        self.dtype = np.dtype(self._array.dtype) if self._plain is None else self._plain.dtype

    @cached_property
    def _array(self) -> zarr.Array[Any]:
        try:
            metadata = ArrayV3Metadata.from_dict(self.node)
            chunks = _Chunks(self._store, ChunkCodec(spec_of(self.path, self.node)), self._checksums)
            return zarr.Array(zarr.AsyncArray(metadata, StorePath(chunks, self.path)))
        except Exception as error:  # whatever zarr and its codecs make of what they didn't expect
            fault = f"{self.url} has {self.path!r} with metadata that no writer of a store makes: {error}."
            raise StoreError(fault) from error

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.VECTORIZED, self._read)

    def _read(self, key: tuple[Any, ...]) -> Array:
        try:
            if self._plain is not None and all(_is_span(part) for part in key):
                return self._plain.read(key)
            if self._process != os.getpid():  # forked, and what talked to an object store stayed behind
                self._array, self._process = pickle.loads(pickle.dumps(self._array)), os.getpid()
            if any(isinstance(part, np.ndarray) for part in key):
                return np.asarray(self._array.vindex[key] if _pointwise(key) else self._array.oindex[key])
            return np.asarray(self._array[key])
        except (OSError, ValueError, RuntimeError, MemoryError) as error:  # RuntimeError: blosc's
            fault = str(error).rstrip(".")
            raise StoreError(
                f"{self.path} of {self.url} can't be read: {fault}. `probekit verify {self.url}` names all "
                "that is damaged or missing."
            ) from error


def _is_span(part: Any) -> bool:
    return part.step in (None, 1) if isinstance(part, slice) else not isinstance(part, np.ndarray)


def _pointwise(key: tuple[Any, ...]) -> bool:
    return sum(isinstance(part, np.ndarray) for part in key) == len(key) > 1


def open_tree(backend: Backend, record: CommitRecord) -> xr.DataTree:
    """The tree that a store's record describes: one group a site, the samples' columns attached to each as coords.

    Only arrays that a store has are opened, and nothing is read: no index, which xarray would load, is made of them.

    Raises:
        StoreError: the record has what no writer makes.
    """
    store = backend.for_zarr()
    root: dict[str, xr.Variable] = {}
    sites: dict[str, dict[str, xr.Variable]] = {}
    attrs: dict[str, Json] = {}
    for path, node in record.nodes.items():
        group, _, name = path.rpartition("/")
        if node["node_type"] == "group":
            attrs[path], sites[path] = node["attributes"], sites.get(path, {})
        else:
            variables = sites.setdefault(group, {}) if group else root
            variables[name] = _variable(_Stored(store, backend.url, path, node, record.checksums.get(path, b"")))
    columns = {name: root[name] for name in record.columns}
    others = {name: variable for name, variable in root.items() if name not in columns}
    tree = xr.DataTree(xr.Dataset(others, columns, record.attributes))
    # Not through the constructor, which copies each of them.
    tree.children = {group: xr.DataTree(_site(variables, columns, attrs[group])) for group, variables in sites.items()}
    return tree


def _site(variables: Mapping[str, xr.Variable], columns: Mapping[str, xr.Variable], attrs: Json) -> xr.Dataset:
    # Children inherit index coordinates only, and these are none: an index would load every value on opening.
    own = {name: variable for name, variable in variables.items() if name != ACTIVATION}
    values = {name: variable for name, variable in variables.items() if name == ACTIVATION}
    dims = {dim for variable in values.values() for dim in variable.dims}
    shared = {name: column for name, column in columns.items() if set(column.dims) <= dims}
    return xr.Dataset(values, shared | own, attrs)


def _variable(stored: _Stored) -> xr.Variable:
    node, path = stored.node, stored.path
    dims, chunk = tuple(node["dimension_names"]), tuple(node["chunk_grid"]["configuration"]["chunk_shape"])
    lazy = indexing.LazilyIndexedArray(stored)
    chunks = dict(zip(dims, chunk, strict=True))
    encoding = {"chunks": chunk, "preferred_chunks": chunks}
    variable = xr.Variable(dims, lazy, node.get("attributes", {}), encoding, fastpath=True)
    if path.rpartition("/")[2] != ACTIVATION or not _has_dask():
        return variable  # groupby takes no columns of dask's
    chunked = variable.chunk(chunks, name=f"{path}-{uuid4().hex}")  # dask's own name is a digest, which takes long
    chunked.encoding[_STORED] = (chunked.data.name, lazy)
    return chunked


@lru_cache(maxsize=1)
def _has_dask() -> bool:
    return importlib.util.find_spec("dask") is not None


def _plain(store: Store, path: str, node: Json, checksums: bytes) -> PlainChunks | None:
    if not isinstance(store, LocalStore) or not is_plain(node):
        return None
    return PlainChunks(str(store.root / path), spec_of(path, node), node["shape"][0], checksums)


def as_stored(variable: xr.Variable) -> xr.Variable:
    """The variable without dask, read from the store itself, where it is as `open_tree` gave it; else what it is.

    Who reads chunk after chunk on threads of his own has nothing of dask's.
    """
    name, lazy = variable.encoding.get(_STORED, (None, None))
    if variable.chunks is None or variable.data.name != name:
        return variable
    return xr.Variable(variable.dims, lazy, variable.attrs, variable.encoding, fastpath=True)


def read_array(backend: Backend, record: CommitRecord, path: str, rows: slice = slice(None)) -> Array:
    """The values of the array at `path`, all or those in `rows`, as a `record` describes it.

    Raises:
        StoreError: a chunk is missing or damaged.
    """
    array = _Stored(backend.for_zarr(), backend.url, path, record.nodes[path], record.checksums.get(path, b""))
    return array._read((rows, *[slice(None)] * (len(array.shape) - 1)))


def is_plain(node: Json) -> bool:
    """Whether the chunks of the array that `node` describes are the bytes of its values and a checksum."""
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    return node["codecs"] in ([little, {"name": "crc32c"}], [{"name": "bytes"}, {"name": "crc32c"}])


class PlainChunks:
    """An array whose chunks lie below `folder`, uncompressed.

    Zarr reads the same values, through five copies and an event loop, which takes several times as long.
    """

    def __init__(self, folder: str, spec: ArraySpec, rows: int, checksums: bytes) -> None:
        self.folder = folder
        self.shape = (rows, *spec.shape)
        self.chunk = spec.chunk
        self.dtype = spec.dtype
        self._spec, self._checksums = spec, checksums

    def read(self, key: Sequence[int | slice]) -> Array:
        """The values at `key`, as numpy indexes with integers and slices of step 1.

        Raises:
            OSError: a chunk is missing.
            ValueError: a chunk is damaged.
        """
        spans = [_span(part, length) for part, length in zip(key, self.shape, strict=True)]
        values = np.empty([stop - start for start, stop in spans], self.dtype)
        parts = (range(a // n, -(-b // n)) if b > a else () for (a, b), n in zip(spans, self.chunk, strict=True))
        for index in product(*parts):
            self._copy(index, spans, values)
        found: Array = values[tuple(slice(None) if isinstance(part, slice) else 0 for part in key)]
        return found

    def _copy(self, index: tuple[int, ...], spans: Sequence[Span], values: Array) -> None:
        """Copy what `values`, which stands at `spans`, has of the chunk at `index`."""
        inside, outside = [], []
        for number, (start, stop), length in zip(index, spans, self.chunk, strict=True):
            first, last = max(start, number * length), min(stop, (number + 1) * length)
            inside.append(slice(first - number * length, last - number * length))
            outside.append(slice(first - start, last - start))
        target = values[tuple(outside)]
        if target.shape == self.chunk and target.flags.c_contiguous:
            self._load(index, target)
        else:
            chunk = np.empty(self.chunk, self.dtype)
            self._load(index, chunk)
            target[...] = chunk[tuple(inside)]

    def _load(self, index: tuple[int, ...], chunk: Array) -> None:
        name = chunk_key("", index)
        data = chunk.reshape(-1).view(np.uint8)
        try:
            with open_regular(os.path.join(self.folder, name)) as file:
                count = file.readinto(data.data)
                checksum = file.read(CHECKSUM_BYTES + 1)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{name} is missing") from error
        if count < data.nbytes or len(checksum) != CHECKSUM_BYTES:
            size = math.prod(self.chunk) * self.dtype.itemsize + CHECKSUM_BYTES
            raise ValueError(f"{name} is {'shorter' if count < data.nbytes else 'of another size'} than {size} bytes")
        if not is_sound(data, checksum):
            raise ValueError(f"the checksum of {name} is wrong")
        if checksum != (vouched(self._checksums, self._spec.number(index)) or checksum):
            raise ValueError(f"{name} is another chunk than the one that was committed")


def _span(part: int | slice, length: int) -> Span:
    if isinstance(part, slice):
        start, stop, _ = part.indices(length)
        return start, max(start, stop)
    at = range(length)[part]
    return at, at + 1
