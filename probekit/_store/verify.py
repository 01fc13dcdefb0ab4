"""Whether what lies on disk is what was written: every tile of a store, read once; and dropping what isn't."""

from __future__ import annotations

import json
import math
import os
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TypeVar

import numpy as np

from probekit._sizes import format_size
from probekit._store.backend import Place, place_of
from probekit._store.codec import CHECKSUM_BYTES, Array, is_sound
from probekit._store.layout import ACTIVATION, CLASS_NAME, POSITION, RECORD, SAMPLE, ArraySpec, Json
from probekit._store.lazy_array import read_array
from probekit._store.record import class_name_tiles, dump
from probekit._store.store import read_record
from probekit._store.validation import MAX_TILE_BYTES, arrays_of
from probekit.errors import StoreError
from probekit.progress import Progress, silent

__all__ = ["Damage", "Verification", "verify"]

T = TypeVar("T")
R = TypeVar("R")

_JOB_TILES = 32  # tiles that a thread checks at a time
_BLOCK_ROWS = 2**20  # tokens whose positions are held at a time


@dataclass(frozen=True)
class Damage:
    """What is wrong with the rows from `start` to before `stop` of a site, or of a column; with no rows, its metadata.

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


@dataclass(frozen=True)
class Verification:
    """What was checked of a store, and what was found; true where nothing is wrong.

    Attributes:
        rows: the samples that were committed.
        kept: the samples that are committed after a repair; None where nothing was repaired.
        sites, columns, tiles, bytes: how much was checked.
    """

    path: str
    rows: int
    kept: int | None
    sites: int
    columns: int
    tiles: int
    bytes: int
    damages: tuple[Damage, ...]

    columns_of_cells = ("name", "rows", "what is wrong", "array")

    def __bool__(self) -> bool:
        return not self.damages

    def rows_of_cells(self) -> list[tuple[str, str, str, str]]:
        """The cells under `columns_of_cells`, one tuple a damage."""
        return [(damage.name, damage.rows, damage.what, damage.array) for damage in self.damages]

    def summary(self) -> str:
        """One line: what was checked, what is wrong, what was kept."""
        state = f"{len(self.damages)} damaged" if self.damages else "all sound"
        if self.kept is not None:
            state += f"; repaired, {self.kept} samples kept"
        if self.kept is not None and self.kept < self.rows:
            state += ": the same capture with resume=True (--resume) makes the others again"
        return (
            f"{self.path}: {self.rows} samples, {self.sites} sites, {self.columns} columns, {self.tiles} tiles, "
            f"{format_size(self.bytes)}: {state}"
        )

    def __repr__(self) -> str:
        return "\n".join([self.summary(), *("  ".join(filter(None, cells)) for cells in self.rows_of_cells())])


def verify(path: str | Path, *, repair: bool = False, progress: Progress = silent) -> Verification:
    """Whether every tile that a store has committed is there and is what was written, by its length and checksum.

    Each is read once, in memory for a few tiles a thread; so are the arrays' own metadata, which have to agree with the
    record. While a capture writes, it is the prefix that was committed at the beginning.

    Args:
        path: a store, or its URL.
        repair: drop what isn't sound: the store then ends before the first chunk-row in which anything is damaged, and
            the same capture with ``resume=True`` completes it to the same bits again. Metadata are written anew from
            the record; so are the names of the classes, in which a blank is then ``_``.
        progress: wraps the iterable of what is checked.

    Raises:
        StoreError: there is no store, or its record itself can't be read; for a repair also, it is being written.

    Example:
        >>> pk.verify("acts.zarr")  # doctest: +SKIP
        acts.zarr: 60000 samples, 4 sites, 2 columns, 90 tiles, 184 MiB: all sound
    """
    place = place_of(path)
    if not repair:
        return _check(place, read_record(place), progress)
    read_record(place)  # before a lock is put where there is no store
    with place.lock():
        record = read_record(place)
        found = _check(place, record, progress)
        return found if found else replace(found, kept=_repair(place, record, found.damages))


def _check(place: Place, record: Json, progress: Progress) -> Verification:
    arrays, nodes = arrays_of(record), record["consolidated_metadata"]["metadata"]
    jobs = [job for path, spec in arrays.items() for job in _jobs(place, spec, nodes[path]["shape"][0])]
    checked = _on_threads(_Job.check, jobs, max(place.parallel, os.cpu_count() or 1))
    faults: dict[str, list[tuple[int, str]]] = {path: [] for path in nodes}
    size = 0
    for job, found in zip(jobs, progress(checked, "verify", len(jobs)), strict=True):
        faults[job.spec.path] += found[0]
        size += found[1]
    damages: list[Damage] = []
    for path, node in nodes.items():
        name = _name(path, nodes)
        if path in arrays:
            damages += _ranges(name, arrays[path], node["shape"][0], faults[path])
        what = _metadata_fault(place, path, node, bool(record["attributes"]["complete"]))
        damages += [Damage(name, path, 0, 0, what)] if what else []
    return Verification(
        path=place.url,
        rows=record["attributes"]["rows"],
        kept=None,
        sites=sum(node["node_type"] == "group" for node in nodes.values()),
        columns=sum("/" not in path for path in arrays),
        tiles=sum(len(job) for job in jobs),
        bytes=size,
        damages=tuple(damages),
    )


def _name(path: str, nodes: Mapping[str, Json]) -> str:
    """What users call a node: the site, the column, or the site and its column."""
    group, _, name = path.rpartition("/")
    owner = nodes[group or path]
    if owner["node_type"] == "array":
        return name
    site = str(owner["attributes"]["site"])
    return site if not group or name == ACTIVATION else f"{site}: {name}"


# The tiles


@dataclass(frozen=True)
class _Job:
    """Some rows of tiles of one array."""

    place: Place
    spec: ArraySpec
    rows: range

    def __len__(self) -> int:
        return len(self.rows) * self.spec.across

    def check(self) -> tuple[list[tuple[int, str]], int]:
        """The rows of tiles that aren't sound, each with what is wrong, and the bytes that were read."""
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
            length = self.place.size(key)
            if not least <= length <= most:
                return f"wrong length: {length} bytes" + (f" of {least}" if least == most else ""), 0
            data = self.place.read(key)
        except FileNotFoundError:
            return "missing", 0
        except OSError as error:
            return f"unreadable: {error.strerror or error}", 0
        return "" if is_sound(data) else "wrong checksum", len(data)


def _lengths(spec: ArraySpec) -> tuple[int, int]:
    """The least and the most bytes that a tile of an array may have."""
    if spec.dtype.kind == "U":
        return CHECKSUM_BYTES + 1, MAX_TILE_BYTES
    plain = math.prod(spec.tile) * spec.dtype.itemsize + CHECKSUM_BYTES
    return (plain, plain) if spec.compression is None else (CHECKSUM_BYTES + 1, plain + 2**16)


def _jobs(place: Place, spec: ArraySpec, length: int) -> list[_Job]:
    rows, step = math.ceil(length / spec.tile[0]), max(1, _JOB_TILES // spec.across)
    return [_Job(place, spec, range(first, min(first + step, rows))) for first in range(0, rows, step)]


def _on_threads(function: Callable[[T], R], items: Iterable[T], threads: int) -> Iterator[R]:
    """What `function` gives for each of `items`, in their order, a few of them at a time."""
    with ThreadPoolExecutor(threads, "probekit-verify") as pool:
        running: deque[Future[R]] = deque()
        for item in items:
            running.append(pool.submit(function, item))
            if len(running) > 2 * threads:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()


def _ranges(name: str, spec: ArraySpec, length: int, faults: Collection[tuple[int, str]]) -> Iterator[Damage]:
    """The faults of an array, those of neighbouring rows of tiles in one."""
    for what in dict.fromkeys(what for _, what in faults):
        rows = sorted({row for row, fault in faults if fault == what})
        for _, run in groupby(enumerate(rows), lambda each: each[1] - each[0]):
            of_run = [row for _, row in run]
            start, stop = of_run[0] * spec.tile[0], min(length, (of_run[-1] + 1) * spec.tile[0])
            yield Damage(name, spec.path, start, stop, what)


def _metadata_fault(place: Place, path: str, node: Json, complete: bool) -> str:
    """What is wrong with the metadata that lie beside a node's tiles; empty for nothing.

    Until a capture is complete, they are ahead of the record in the number of rows, and behind it in class names.
    """
    later = set() if complete or node["node_type"] == "group" else {"shape", "attributes"}
    try:
        own = json.loads(place.read(f"{path}/{RECORD}"))
        agrees = {**own, **{key: node[key] for key in later}} == node
    except FileNotFoundError:
        return f"its {RECORD} is missing"
    except (OSError, ValueError, TypeError, RecursionError) as error:
        return f"its {RECORD} is unreadable: {getattr(error, 'strerror', None) or error}"
    return "" if agrees else f"its {RECORD} disagrees with the record"


# The repair


def _repair(place: Place, record: Json, damages: Collection[Damage]) -> int:
    """Make the store end before what is damaged; the number of samples that it has then."""
    nodes, attributes = dict(record["consolidated_metadata"]["metadata"]), dict(record["attributes"])
    lengths = _sound_lengths(place, record, damages)
    kept = lengths[SAMPLE]
    if kept < attributes["rows"]:
        attributes |= {"rows": kept, "complete": 0}
        if kept < attributes.get("start", 0):  # what was put after other samples can't begin among them
            attributes |= {"start": 0, "inputs": None}
            attributes.pop("expected_rows", None)
        for path, spec in arrays_of(record).items():
            if path != CLASS_NAME:
                length = lengths[SAMPLE if spec.dims[0] == SAMPLE else path.rpartition("/")[0]]
                nodes[path] = {**nodes[path], "shape": [length, *spec.shape]}
    try:
        place.make_room(f"{path}/c" for path, node in nodes.items() if node["node_type"] == "array")
        if any(damage.array == CLASS_NAME and damage.rows for damage in damages):
            for key, parts in class_name_tiles(_names_of(nodes["label"]["attributes"])):
                place.write(key, parts)
        for path, node in nodes.items():
            place.write(f"{path}/{RECORD}", [dump(node)])
        consolidated = {**record["consolidated_metadata"], "metadata": nodes}
        place.commit(RECORD, dump({**record, "attributes": attributes, "consolidated_metadata": consolidated}))
        for key in _dropped(record, damages):
            place.delete(key)  # a folder that stands there would be in the way of a new tile
    except OSError as error:
        what = f"{error.strerror}: {error.filename}" if error.filename else str(error)
        raise StoreError(
            f"{place.url} can't be repaired: {what}. Move what stands there out of the way, if it isn't probekit's, "
            "and repair again."
        ) from error
    return kept


def _dropped(record: Json, damages: Collection[Damage]) -> Iterator[str]:
    """The paths of the tiles that are damaged or lie beside one, but for the names of the classes."""
    arrays = arrays_of(record)
    for damage in damages:
        spec = arrays.get(damage.array)
        if spec is not None and damage.array != CLASS_NAME:
            for row in range(damage.start // spec.tile[0], math.ceil(damage.stop / spec.tile[0])):
                yield from (spec.key(row, across) for across in range(spec.across))


def _names_of(flags: Json) -> list[str]:
    codes, names = flags["flag_values"], str(flags.get("flag_meanings", "")).split()
    return names if len(names) == len(codes) else list(map(str, codes))


def _sound_lengths(place: Place, record: Json, damages: Collection[Damage]) -> dict[str, int]:
    """The rows before any damage: of the samples, in whole chunk-rows, and of each group whose rows are tokens."""
    nodes, total = record["consolidated_metadata"]["metadata"], record["attributes"]["rows"]
    sound = {path: node["shape"][0] for path, node in nodes.items() if node["node_type"] == "array"}
    for damage in damages:
        if damage.rows:
            sound[damage.array] = min(sound[damage.array], damage.start)
    specs = arrays_of(record)
    kept = min(sound[path] for path, spec in specs.items() if spec.dims[0] == SAMPLE)
    starts = {}
    for path in (path for path in specs if path.endswith(f"/{POSITION}")):
        group = path.rpartition("/")[0]
        tokens = min(length for other, length in sound.items() if other.startswith(f"{group}/"))
        starts[group] = _starts(place.url, path, nodes[path], tokens)
        if tokens < nodes[path]["shape"][0]:
            kept = min(kept, max(0, len(starts[group]) - 1))  # the last sample may have more tokens
    if kept == total:
        return {SAMPLE: kept, **{group: nodes[f"{group}/{POSITION}"]["shape"][0] for group in starts}}
    kept -= kept % record["attributes"]["chunk_rows"]
    return {SAMPLE: kept, **{group: int(of_group[kept]) if kept else 0 for group, of_group in starts.items()}}


def _starts(url: str, path: str, node: Json, tokens: int) -> Array:
    """Where each sample begins among the first so many `tokens`: each has one of position 0."""
    blocks = (slice(first, min(first + _BLOCK_ROWS, tokens)) for first in range(0, tokens, _BLOCK_ROWS))
    found = [rows.start + np.flatnonzero(read_array(url, path, node, rows) == 0) for rows in blocks]
    return np.concatenate([np.zeros(0, np.int64), *found])
