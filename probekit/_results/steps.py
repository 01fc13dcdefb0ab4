"""Trees of results of one model at several steps, as one tree with a dim ``step``: in memory, and on disk.

On disk it is a zarr store that plain xarray opens. The root ``zarr.json``, with the metadata of every array inline, is
the commit record: a step is there when it counts it. So a process that is killed, at any moment, leaves every committed
step as it was. As many steps as make 32 KiB share a chunk, which is replaced by one that holds the same steps and one
more.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import xarray as xr

from probekit._results.files import as_store_errors, files_of, fill_value
from probekit._store.backend import Backend
from probekit._store.codec import Array, ChunkCodec
from probekit._store.layout import MAX_RECORD_BYTES, RECORD, Json, chunk_key
from probekit._store.record import dump
from probekit._store.validation import spec_of
from probekit.errors import StoreError

__all__ = ["InMemory", "OnDisk", "Steps", "differences", "variables_of"]

STEP = "step"
CHUNK_BYTES = 2**15
CODECS = ["bytes", "crc32c"]
OF_XARRAY = ("_FillValue", "coordinates")  # attributes in which it keeps what isn't the metric's
COMPARED = {"root": ("by", "mode"), "site": ("kind", "type", "reduce", "positions")}


class Steps(Protocol):
    """Where the trees of the steps go. `add` drops those from its step on, which a training that goes back repeats."""

    def add(self, step: int, tree: xr.DataTree) -> None: ...
    def tree(self) -> xr.DataTree | None: ...


def variables_of(tree: xr.DataTree) -> Iterator[tuple[str, xr.DataArray]]:
    """Every data variable with its path, such as ``layers.0/std``."""
    for node in tree.subtree:
        for name, variable in node.data_vars.items():
            yield f"{node.path}/{name}".lstrip("/"), variable


def differences(before: xr.DataTree, now: xr.DataTree) -> list[str]:
    """The differences that keep two trees from being steps of one result, as clauses; a dim `step` is not counted.

    Dims without values, such as the atoms of a histogram, may be of any length, but for ``node``.
    """
    old, new = _described(before), _described(now)
    return [
        f"{key} was {_short(old.get(key, 'not there'))} and is {_short(new.get(key, 'not there'))}"
        for key in dict.fromkeys([*old, *new])
        if old.get(key) != new.get(key)
    ]


def _described(tree: xr.DataTree) -> dict[str, str]:
    found = {key: str(tree.attrs[key]) for key in COMPARED["root"] if key in tree.attrs}
    for node in tree.subtree:
        at = f"{node.path.lstrip('/')}/".lstrip("/")
        found |= {f"{at}{key}": str(node.attrs[key]) for key in COMPARED["site"] if key in node.attrs}
        if "kind" in node.attrs:  # a site; results of earlier versions name no mask, since they counted padding
            found[f"{at}mask"] = str(node.attrs.get("mask", "none"))
        dataset = node.to_dataset(inherit=False)
        found |= {f"{at}{name}": str(each.values.tolist()) for name, each in dataset.coords.items() if name != STEP}
    return found | {path: _kind(variable) for path, variable in variables_of(tree)}


def _kind(variable: xr.DataArray) -> str:
    fixed = {*variable.coords, "node"}
    dims = [f"{dim}: {n}" if dim in fixed else str(dim) for dim, n in variable.sizes.items() if dim != STEP]
    metric = [str(variable.attrs.get(key)) for key in ("metric", "version", "parameters")]
    return f"{variable.dtype} ({', '.join(dims)}) of {' '.join(metric)}"


def _short(text: str) -> str:
    return text if len(text) <= 100 else f"{text[:97]}..."


def _padded(array: Array, shape: Iterable[int]) -> Array:
    padded = np.full(tuple(map(int, shape)), fill_value(array.dtype), array.dtype)
    padded[tuple(map(slice, array.shape))] = array
    return padded


def _joined(steps: Sequence[int], trees: Sequence[xr.DataTree]) -> xr.DataTree:
    """One tree whose variables begin with the dim `step`; coordinates and attributes are the last step's."""
    found = {}
    for nodes in zip(*(tree.subtree for tree in trees), strict=True):
        datasets = [node.to_dataset(inherit=False) for node in nodes]
        last = datasets[-1]
        variables = {
            name: xr.Variable((STEP, *variable.dims), _stacked([each[name] for each in datasets]), variable.attrs)
            for name, variable in last.data_vars.items()
        }
        found[nodes[-1].path] = xr.Dataset(variables, last.coords, last.attrs)
    found["/"] = found["/"].assign_coords({STEP: np.array(steps, np.int64)})
    return xr.DataTree.from_dict(found)


def _stacked(variables: Sequence[xr.DataArray]) -> Array:
    lengths = np.max([variable.shape for variable in variables], axis=0)
    return np.stack([_padded(variable.values, lengths) for variable in variables])


class InMemory:
    """The trees of the steps, joined when they are asked for."""

    def __init__(self) -> None:
        self._trees: dict[int, xr.DataTree] = {}

    def add(self, step: int, tree: xr.DataTree) -> None:
        self._trees[step] = tree

    def tree(self) -> xr.DataTree | None:
        return _joined(list(self._trees), list(self._trees.values())) if self._trees else None


class OnDisk:
    """The steps that a store at `backend` holds, of which there may be none yet.

    Raises:
        StoreError: what lies there isn't such a store.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._content = backend.read(RECORD, MAX_RECORD_BYTES) if backend.exists() and _has_record(backend) else None
        self._steps: list[int] = []
        self._longer: set[str] = set()  # arrays of which a dim has become longer since the last commit
        if backend.exists():
            self._record: Json = _checked(self._content, backend.url)
            self._restore_lengths()
            opened = self.tree()
            self._steps = [] if opened is None else opened.coords[STEP].values.tolist()

    @property
    def _nodes(self) -> Json:
        nodes: Json = self._record["consolidated_metadata"]["metadata"]
        return nodes

    @property
    def _growing(self) -> list[Json]:
        return [node for node in self._nodes.values() if _grows(node)]

    def _restore_lengths(self) -> None:
        """Commit as many steps of every variable as there are, where zarr.consolidate_metadata has taken the nodes' own
        metadata, of which only those of the steps' numbers are written at each commit."""
        steps = self._nodes[STEP]["shape"][0]
        if any(node["shape"][0] != steps for node in self._growing):
            with as_store_errors(self._backend.url), self._backend.lock():
                self._commit(list(range(steps)))

    def tree(self) -> xr.DataTree | None:
        """The committed steps, read when they are indexed."""
        return None if self._content is None else xr.open_datatree(self._backend.url, engine="zarr")

    def add(self, step: int, tree: xr.DataTree) -> None:
        """Commit the step, replacing those from it on.

        Raises:
            StoreError: another process has written there, or it can't be written.
        """
        with as_store_errors(self._backend.url):
            if self._content is None:
                self._create(step, tree)
            else:
                with self._backend.lock():
                    self._append(step, tree)

    def _create(self, step: int, tree: xr.DataTree) -> None:
        whole = _joined([step], [tree])
        files = files_of(whole, lambda variable: _chunk_shape(variable) if STEP in variable.dims else None)
        self._record = json.loads(files[RECORD])
        if self._backend.exists():
            raise StoreError(f"{self._backend.url} has been created since this began. Give another path.")
        self._backend.create(files)
        self._content, self._steps = files[RECORD], [step]

    def _append(self, step: int, tree: xr.DataTree) -> None:
        if self._backend.read(RECORD, MAX_RECORD_BYTES) != self._content:
            raise StoreError(
                f"Another process has written to {self._backend.url}. Let one of them watch, or give two paths."
            )
        kept = [each for each in self._steps if each < step]
        if kept != self._steps:  # first, so that no committed step is ever half another's
            self._commit(kept)
        self._write(STEP, np.array(step), len(kept))
        for path, variable in variables_of(tree):
            self._write(path, variable.values, len(kept))
            attrs = self._nodes[path]["attributes"]
            of_xarray = {key: attrs[key] for key in OF_XARRAY if key in attrs}
            if variable.dtype == bool:
                of_xarray["dtype"] = "bool"  # by which it knows the bools that it stores as integers
            self._nodes[path]["attributes"] = {**variable.attrs, **of_xarray}
        self._commit([*kept, step])

    def _write(self, path: str, row: Array, count: int) -> None:
        """Write the chunks that hold the step after the first `count` of an array."""
        node = self._nodes[path]
        shape = list(map(max, node["shape"][1:], row.shape))
        if shape != node["shape"][1:]:
            node["shape"][1:] = shape
            self._longer.add(path)
        spec = spec_of(path, node)
        codec, values = ChunkCodec(spec), _padded(row, spec.shape)
        chunk_row, at = divmod(count, spec.chunk[0])
        for index in np.ndindex(*map(math.ceil, np.divide(spec.shape, spec.chunk[1:]))):
            new = values[tuple(slice(i * n, (i + 1) * n) for i, n in zip(index, spec.chunk[1:], strict=True))]
            key = chunk_key(path, (chunk_row, *index))
            chunk = np.full(spec.chunk, fill_value(spec.dtype), spec.dtype)
            if at:
                chunk[:at] = self._chunk(codec, key, chunk)[:at]
            where: tuple[Any, ...] = (at, *map(slice, new.shape))
            chunk[where] = new
            self._backend.write(key, codec.encode(chunk))

    def _chunk(self, codec: ChunkCodec, key: str, absent: Array) -> Array:
        """The chunk that is there; `absent` where there is none, since a dim has become longer."""
        try:
            return codec.decode(self._backend.read(key, codec.lengths[1]))
        except FileNotFoundError:
            return absent
        except ValueError as error:
            raise StoreError(f"{key} of {self._backend.url} is damaged. Measure into another path.") from error

    def _commit(self, steps: list[int]) -> None:
        for node in self._growing:
            node["shape"][0] = len(steps)
        for path in sorted({STEP, *self._longer}):
            self._backend.write(f"{path}/{RECORD}", [dump(self._nodes[path])])
        self._longer.clear()
        content = dump(self._record)
        self._backend.commit(RECORD, content)
        self._content, self._steps = content, steps


def _has_record(backend: Backend) -> bool:
    try:
        return backend.size(RECORD) > 0
    except OSError:
        return False


def _checked(content: bytes | None, url: str) -> Json:
    """The record in `content`; StoreError where it isn't of steps."""
    try:
        record: Json = json.loads(content or b"")
        nodes = record["consolidated_metadata"]["metadata"]
        growing = [node for node in nodes.values() if _grows(node)]
        sound = nodes[STEP] in growing and all([each["name"] for each in node["codecs"]] == CODECS for node in growing)
    except (ValueError, KeyError, TypeError):
        sound = False
    if not sound:
        raise StoreError(f"{url} wasn't written by a Watch, so a Watch can't resume it. Give another path.")
    return record


def _grows(node: Json) -> bool:
    return bool(node["node_type"] == "array" and node["dimension_names"][:1] == [STEP])


def _chunk_shape(variable: xr.Variable) -> tuple[int, ...]:
    shape = [max(1, length) for length in variable.shape[1:]]
    return max(1, CHUNK_BYTES // (math.prod(shape) * variable.dtype.itemsize)), *shape
