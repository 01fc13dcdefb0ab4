"""The damages of a store: every chunk read once, and every node's metadata compared with the record."""

from __future__ import annotations

import json
import math
import os
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from typing import TypeVar

from probekit._sizes import format_size
from probekit._store.backend import Backend
from probekit._store.codec import CHECKSUM_BYTES, is_sound_chunk
from probekit._store.consolidation import alike
from probekit._store.layout import ACTIVATION, RECORD, ArraySpec, Json
from probekit._store.record import CommitRecord
from probekit._store.validation import MAX_CHUNK_BYTES
from probekit._table import ShownAsTable, Table
from probekit.progress import Progress

__all__ = ["Damage", "Verification", "check_integrity"]

T = TypeVar("T")
R = TypeVar("R")

_OVERWRITTEN = "zarr.consolidate_metadata wrote over it: other readers see what isn't committed"
_TASK_CHUNKS = 32  # chunks that a thread checks at a time


@dataclass(frozen=True)
class Damage:
    """Damaged rows of a site or a column, from `start` to before `stop`; without rows, damaged metadata.

    `array` is the path of the array within the store.
    """

    name: str
    array: str
    start: int
    stop: int
    what: str

    @property
    def rows(self) -> str:
        return f"{self.start}–{self.stop - 1}" if self.stop > self.start else ""


@dataclass(frozen=True, repr=False)
class Verification(ShownAsTable):
    """How much of a store was checked, and the damages that were found; true where there are none.

    Attributes:
        rows: the samples that were committed.
        kept: the samples that are committed after a repair; None where nothing was repaired.
        sites, columns, chunks, bytes: how much was checked.
    """

    path: str
    rows: int
    kept: int | None
    sites: int
    columns: int
    chunks: int
    bytes: int
    damages: tuple[Damage, ...]

    def __bool__(self) -> bool:
        return not self.damages

    @property
    def table(self) -> Table:
        """One row a damage."""
        rows = [(damage.name, damage.rows, damage.what, damage.array) for damage in self.damages]
        return Table(self.summary(), ("name", "rows", "what is wrong", "array"), rows)

    def summary(self) -> str:
        """One line: what was checked, what is wrong, what was kept."""
        state = f"{len(self.damages)} damaged" if self.damages else "all sound"
        if self.kept is not None:
            state += f"; repaired, {self.kept} samples kept"
        if self.kept is not None and self.kept < self.rows:
            state += "; the same capture with resume=True captures the others again"
        return (
            f"{self.path}: {self.rows} samples, {self.sites} sites, {self.columns} columns, {self.chunks} chunks, "
            f"{format_size(self.bytes)}: {state}"
        )


def check_integrity(backend: Backend, record: CommitRecord, progress: Progress) -> Verification:
    arrays, nodes = record.arrays, record.nodes
    checks = [check for path, spec in arrays.items() for check in _checks(backend, spec, nodes[path]["shape"][0])]
    checked = _on_threads(_ChunkCheck.run, checks, max(backend.parallel, os.cpu_count() or 1))
    faults: dict[str, list[tuple[int, str]]] = {path: [] for path in nodes}
    size = 0
    for check, found in zip(checks, progress(checked, "verify", len(checks)), strict=True):
        faults[check.spec.path] += found[0]
        size += found[1]
    damages = [Damage("commit record", RECORD, 0, 0, _OVERWRITTEN)] if record.overwritten else []
    for path, node in nodes.items():
        name = _name(path, nodes)
        if path in arrays:
            damages += _ranges(name, arrays[path], node["shape"][0], faults[path])
        what = _metadata_fault(backend, path, node, record.complete)
        damages += [Damage(name, path, 0, 0, what)] if what else []
    return Verification(
        path=backend.url,
        rows=record.rows,
        kept=None,
        sites=sum(node["node_type"] == "group" for node in nodes.values()),
        columns=sum("/" not in path for path in arrays),
        chunks=sum(len(check) for check in checks),
        bytes=size,
        damages=tuple(damages),
    )


def _name(path: str, nodes: Mapping[str, Json]) -> str:
    """The name of a node for users: the site, the column, or the site and its column."""
    group, _, name = path.rpartition("/")
    owner = nodes[group or path]
    if owner["node_type"] == "array":
        return name
    site = str(owner["attributes"]["site"])
    return site if not group or name == ACTIVATION else f"{site}: {name}"


@dataclass(frozen=True)
class _ChunkCheck:
    """Some chunk rows of one array."""

    backend: Backend
    spec: ArraySpec
    rows: range

    def __len__(self) -> int:
        return len(self.rows) * self.spec.across

    def run(self) -> tuple[list[tuple[int, str]], int]:
        """The chunk rows that aren't sound, each with what is wrong, and the bytes that were read."""
        faults, size = [], 0
        for row in self.rows:
            for across in range(self.spec.across):
                what, read = self._check(self.spec.key(row, across))
                size += read
                if what:
                    faults.append((row, what))
        return faults, size

    def _check(self, key: str) -> tuple[str, int]:
        least, most = _lengths(self.spec)
        try:
            length = self.backend.size(key)
            if not least <= length <= most:
                return f"wrong length: {length} bytes" + (f" of {least}" if least == most else ""), 0
            data = self.backend.read(key)
        except FileNotFoundError:
            return "missing", 0
        except OSError as error:
            return f"unreadable: {error.strerror or error}", 0
        return "" if is_sound_chunk(data) else "wrong checksum", len(data)


def _lengths(spec: ArraySpec) -> tuple[int, int]:
    """The least and the most bytes that a chunk of an array may have."""
    if spec.dtype.kind == "U":
        return CHECKSUM_BYTES + 1, MAX_CHUNK_BYTES
    plain = math.prod(spec.chunk) * spec.dtype.itemsize + CHECKSUM_BYTES
    return (plain, plain) if spec.compression is None else (CHECKSUM_BYTES + 1, plain + 2**16)


def _checks(backend: Backend, spec: ArraySpec, length: int) -> list[_ChunkCheck]:
    rows, step = math.ceil(length / spec.chunk[0]), max(1, _TASK_CHUNKS // spec.across)
    return [_ChunkCheck(backend, spec, range(first, min(first + step, rows))) for first in range(0, rows, step)]


def _on_threads(function: Callable[[T], R], items: Iterable[T], threads: int) -> Iterator[R]:
    """The results of `function` for `items`, in their order, a few of them at a time."""
    with ThreadPoolExecutor(threads, "probekit-verify") as pool:
        running: deque[Future[R]] = deque()
        for item in items:
            running.append(pool.submit(function, item))
            if len(running) > 2 * threads:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()


def _ranges(name: str, spec: ArraySpec, length: int, faults: Collection[tuple[int, str]]) -> Iterator[Damage]:
    """The faults of an array, those of neighbouring chunk rows in one."""
    for what in dict.fromkeys(what for _, what in faults):
        rows = sorted({row for row, fault in faults if fault == what})
        for _, run in groupby(enumerate(rows), lambda each: each[1] - each[0]):
            of_run = [row for _, row in run]
            start, stop = of_run[0] * spec.chunk[0], min(length, (of_run[-1] + 1) * spec.chunk[0])
            yield Damage(name, spec.path, start, stop, what)


def _metadata_fault(backend: Backend, path: str, node: Json, complete: bool) -> str:
    """The fault of the metadata beside a node's chunks; empty where there is none.

    Until a capture is complete, they are ahead of the record in the number of rows, and behind it in class names.
    """
    later = set() if complete or node["node_type"] == "group" else {"shape", "attributes"}
    try:
        own = json.loads(backend.read(f"{path}/{RECORD}"))
        agrees = alike({**own, **{key: node[key] for key in later}}, node)
    except FileNotFoundError:
        return f"its {RECORD} is missing"
    except (OSError, ValueError, TypeError, RecursionError) as error:
        return f"its {RECORD} is unreadable: {getattr(error, 'strerror', None) or error}"
    return "" if agrees else f"its {RECORD} disagrees with the commit record"
