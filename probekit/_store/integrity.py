"""The damages of a store: every chunk read once, and every node's metadata compared with the record."""

from __future__ import annotations

import errno
import json
import math
import os
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import TypeVar

from probekit._files import NoFileError
from probekit._sizes import format_size
from probekit._store.backend import Backend
from probekit._store.codec import ChunkCodec, vouched
from probekit._store.consolidation import alike
from probekit._store.layout import ACTIVATION, CHECKSUM_BYTES, MAX_RECORD_BYTES, RECORD, ArraySpec, Json
from probekit._store.leftovers import left_groups
from probekit._store.record import CommitRecord
from probekit._table import ShownAsTable, Table
from probekit.errors import StoreError
from probekit.progress import Progress, silent

__all__ = ["DISAGREES", "Damage", "Verification", "check_integrity", "with_checksums"]

T = TypeVar("T")
R = TypeVar("R")

_OVERWRITTEN = "zarr.consolidate_metadata wrote over it: other readers see what isn't committed"
_UNSEALED = "zarr.consolidate_metadata has left out the record's checksums, which a repair writes again"
DISAGREES = f"its {RECORD} disagrees with the commit record"
UNREADABLE = "unreadable: "  # begins what is wrong with what may be sound
_WAITS = (0.1, 0.5)  # seconds, before the disk or the network is asked again
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
    def unread(self) -> bool:
        """Whether it may be sound: the disk or the network failed."""
        return self.what.startswith(UNREADABLE)

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
        remarks: what a repair would put in order though nothing is damaged.
    """

    path: str
    rows: int
    kept: int | None
    sites: int
    columns: int
    chunks: int
    bytes: int
    damages: tuple[Damage, ...]
    remarks: tuple[str, ...] = ()

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
        state += "".join(f"; {remark}" for remark in self.remarks if self.kept is None)
        if self.kept is not None:
            state += f"; repaired, {self.kept} samples kept"
        if self.kept is not None and self.kept < self.rows:
            state += "; the same capture with resume=True captures the others again"
        return (
            f"{self.path}: {self.rows} samples, {self.sites} sites, {self.columns} columns, {self.chunks} chunks, "
            f"{format_size(self.bytes)}: {state}"
        )


def check_integrity(
    backend: Backend, record: CommitRecord, progress: Progress
) -> tuple[Verification, dict[str, bytes]]:
    """Whether a store is sound, and the checksums of its chunks as they lie there, zeros for unsound ones."""
    arrays, nodes = record.arrays, record.nodes
    checks = [
        check
        for path, spec in arrays.items()
        for check in _checks(backend, spec, nodes[path]["shape"][0], record.checksums.get(path, b""))
    ]
    checked = _on_threads(_ChunkCheck.run, checks, max(backend.parallel, os.cpu_count() or 1))
    faults: dict[str, list[tuple[int, str]]] = {path: [] for path in nodes}
    checksums = dict.fromkeys(arrays, b"")
    size = 0
    for check, found in zip(checks, progress(checked, "verify", len(checks)), strict=True):
        faults[check.spec.path] += found.faults
        checksums[check.spec.path] += found.checksums
        size += found.size
    damages, remarks = list[Damage](), list[str]()
    if record.overwritten and not record.complete:
        damages = [Damage("commit record", RECORD, 0, 0, _OVERWRITTEN)]
    elif record.overwritten:
        remarks = [_UNSEALED]
    left = sorted([*left_groups(backend, record), *backend.left_beside()])
    if left:
        remarks.append(f"{', '.join(left)} left by a capture that hasn't finished, which a repair removes")
    for path, node in nodes.items():
        name = _name(path, nodes)
        if path in arrays:
            damages += _ranges(name, arrays[path], node["shape"][0], faults[path])
        # Of a store without samples, a writer that resumes writes them anew.
        what = _metadata_fault(backend, path, node, record.complete) if record.rows or record.complete else ""
        damages += [Damage(name, path, 0, 0, what)] if what else []
    verification = Verification(
        path=backend.url,
        rows=record.rows,
        kept=None,
        sites=sum(node["node_type"] == "group" for node in nodes.values()),
        columns=sum("/" not in path for path in arrays),
        chunks=sum(len(check) for check in checks),
        bytes=size,
        damages=tuple(damages),
        remarks=tuple(remarks),
    )
    return verification, checksums


def with_checksums(backend: Backend, record: CommitRecord) -> CommitRecord:
    """The record with the checksums of its chunks, which are read for it where zarr has left them out of the record."""
    if not record.overwritten or record.format == 1:
        return record
    return replace(record, checksums=check_integrity(backend, record, silent)[1]).with_attributes(record.attributes)


def _name(path: str, nodes: Mapping[str, Json]) -> str:
    """The name of a node for users: the site, the column, or the site and its column."""
    group, _, name = path.rpartition("/")
    owner = nodes[group or path]
    if owner["node_type"] == "array":
        return name
    site = str(owner["attributes"]["site"])
    return site if not group or name == ACTIVATION else f"{site}: {name}"


@dataclass
class _Checked:
    """The chunk rows that aren't sound, each with what is wrong; the bytes that were read, and their checksums."""

    faults: list[tuple[int, str]] = field(default_factory=list)
    checksums: bytes = b""
    size: int = 0


@dataclass(frozen=True)
class _ChunkCheck:
    """Some chunk rows of one array, and the checksums of all of its chunks that the record vouches for."""

    backend: Backend
    spec: ArraySpec
    rows: range
    vouched: bytes

    def __len__(self) -> int:
        return len(self.rows) * self.spec.across

    def run(self) -> _Checked:
        """Check them, one after the other."""
        checked, codec = _Checked(), ChunkCodec(self.spec)
        for row in self.rows:
            for across in range(self.spec.across):
                expected = vouched(self.vouched, row * self.spec.across + across)
                self._check(self.spec.key(row, across), row, codec, expected, checked)
        return checked

    def _check(self, key: str, row: int, codec: ChunkCodec, expected: bytes | None, checked: _Checked) -> None:
        least, most = codec.lengths
        data, checksum = b"", bytes(CHECKSUM_BYTES)
        try:
            data = patiently(lambda: self.backend.read(key, most))
            if len(data) < least:
                of = f" of {least}" if least == most else ""
                raise NoFileError(errno.EINVAL, f"wrong length: {len(data)} bytes{of}", key)
            codec.check(data, expected)
        except FileNotFoundError:
            checked.faults.append((row, "missing"))
        except NoFileError as error:
            checked.faults.append((row, str(error.strerror)))
        except ValueError as error:
            checked.faults.append((row, str(error)))
        except OSError as error:
            checked.faults.append((row, f"{UNREADABLE}{error.strerror or error}"))
        else:
            checksum = data[-CHECKSUM_BYTES:]
        checked.size += len(data)
        checked.checksums += checksum


def patiently(read: Callable[[], bytes]) -> bytes:
    """What `read` gives; a disk or a network that fails for a moment is asked again."""
    for seconds in _WAITS:
        try:
            return read()
        except (FileNotFoundError, NoFileError):
            raise
        except (OSError, StoreError):
            time.sleep(seconds)
    return read()


def _checks(backend: Backend, spec: ArraySpec, length: int, checksums: bytes) -> list[_ChunkCheck]:
    rows, step = math.ceil(length / spec.chunk[0]), max(1, _TASK_CHUNKS // spec.across)
    parts = (range(first, min(first + step, rows)) for first in range(0, rows, step))
    return [_ChunkCheck(backend, spec, part, checksums) for part in parts]


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
        own = json.loads(patiently(lambda: backend.read(f"{path}/{RECORD}", MAX_RECORD_BYTES)))
        agrees = alike({**own, **{key: node[key] for key in later}}, node)
    except FileNotFoundError:
        return f"its {RECORD} is missing"
    except (NoFileError, ValueError, TypeError, RecursionError) as error:
        return f"its {RECORD} is no metadata: {getattr(error, 'strerror', None) or error}"
    except OSError as error:
        return f"{UNREADABLE}its {RECORD}, {error.strerror or error}"
    return "" if agrees else DISAGREES
