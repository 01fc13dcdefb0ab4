"""Whether what lies on disk is what was written: every chunk of a store, read once; and dropping what isn't."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from probekit._bars import default
from probekit._store.backend import Backend, backend_of
from probekit._store.codec import Array, checksum_of
from probekit._store.integrity import DISAGREES, Damage, Verification, check_integrity
from probekit._store.layout import CLASS_NAME, MARKERS, POSITION, RECORD, SAMPLE, Json
from probekit._store.lazy_array import read_array
from probekit._store.leftovers import sweep
from probekit._store.record import CommitRecord, class_name_chunks, dump
from probekit._store.store import read_record
from probekit.errors import StoreError
from probekit.progress import Progress

__all__ = ["verify"]

_BLOCK_ROWS = 2**20  # tokens whose positions are read at a time


def verify(path: str | Path, *, repair: bool = False, progress: Progress | None = None) -> Verification:
    """Whether every chunk that a store has committed is there and is what was written, by its length and checksum.

    Each is read once, in memory for a few chunks a thread; so are the arrays' own metadata, which have to agree with
    the record. While a capture writes, it is the prefix that was committed at the beginning.

    Args:
        path: a store, or its URL.
        repair: drop what isn't sound: the store then ends before the first chunk row in which anything is damaged, and
            the same capture with ``resume=True`` completes it, bit-identical to before. Metadata are written anew from
            the record; so are the names of the classes, in which a blank is then ``_``.
        progress: wraps the iterable of what is checked; by default bars, see `probekit.options`.

    Raises:
        StoreError: there is no store, or its record itself can't be read; for a repair also, it is being written.

    Example:
        >>> pk.verify("acts.zarr")  # doctest: +SKIP
        acts.zarr: 60000 samples, 4 sites, 2 columns, 90 chunks, 184 MiB: all sound
    """
    shown = default(progress)
    backend = backend_of(path)
    if not repair:
        return check_integrity(backend, read_record(backend), shown)[0]
    read_record(backend)  # before a lock is put where there is no store
    with backend.lock():
        record = read_record(backend)
        found, checksums = check_integrity(backend, record, shown)
        if found and not found.remarks:
            return found
        _refuse_doubts(backend, record, found.damages)
        sweep(backend, record)
        return replace(found, kept=_repair(backend, record, found.damages, checksums))


def _refuse_doubts(backend: Backend, record: CommitRecord, damages: Collection[Damage]) -> None:
    """Raise StoreError where it isn't sure that what would be dropped or written over is the damage."""
    unread = next((damage for damage in damages if damage.unread), None)
    if unread:
        raise StoreError(
            f"{backend.url} was left as it is: {unread.array} couldn't be read ({unread.what}), and may be sound. "
            "Repair again when it can be read; if its disk is broken, remove that file first."
        )
    metadata = next((damage for damage in damages if damage.what == DISAGREES), None)
    if metadata and record.format == 1:
        raise StoreError(
            f"{backend.url} was left as it is: the {RECORD} of {metadata.array!r} and the commit record disagree. This "
            f"store is of version 1, whose record has no checksum, so either may be the damaged one. Compare the two "
            f"files, and remove {metadata.array}/{RECORD} if the record is right."
        )


def _repair(backend: Backend, record: CommitRecord, damages: Collection[Damage], checksums: Mapping[str, bytes]) -> int:
    """Make the store end before what is damaged; the number of samples that it has then.

    `checksums` are those of the chunks that are there.
    """
    if record.overwritten:
        record = replace(record, checksums=checksums).with_attributes(record.attributes)
    attributes = dict(record.attributes)
    lengths = _sound_lengths(backend, record, damages)
    kept = lengths[SAMPLE]
    repaired = record
    if kept < record.rows:
        attributes |= {"rows": kept, "complete": 0}
        if kept < attributes.get("start", 0):  # what was put after other samples can't begin among them
            attributes |= {"start": 0, "inputs": None}
            attributes.pop("expected_rows", None)
        of_arrays = {
            path: lengths[SAMPLE if spec.dims[0] == SAMPLE else path.rpartition("/")[0]]
            for path, spec in record.arrays.items()
            if path != CLASS_NAME
        }
        repaired = record.with_attributes(attributes).at(of_arrays)
    nodes = repaired.nodes
    try:
        backend.make_room(f"{path}/c" for path, node in nodes.items() if node["node_type"] == "array")
        if any(damage.array == CLASS_NAME and damage.rows for damage in damages):
            found = b""
            for key, parts in class_name_chunks(_names_of(nodes["label"]["attributes"])):
                backend.write(key, parts)
                found += checksum_of(parts)
            repaired = replace(repaired, checksums={**repaired.checksums, CLASS_NAME: found}).with_attributes(
                attributes
            )
        for path, node in nodes.items():
            backend.write(f"{path}/{RECORD}", [dump(node)])
        backend.commit(RECORD, repaired.dump())
        for key in _dropped(record, damages):
            backend.delete(key)  # a folder that stands there would be in the way of a new chunk
        if kept < record.rows:
            for name in backend.names(MARKERS):  # of what other processes wrote behind
                if not name.isdigit() or int(name) >= kept // record.rows_per_chunk:
                    backend.delete(f"{MARKERS}/{name}")
    except OSError as error:
        what = f"{error.strerror}: {error.filename}" if error.filename else str(error)
        raise StoreError(
            f"{backend.url} can't be repaired: {what}. Move what is there out of the way, if it isn't probekit's, "
            "and repair again."
        ) from error
    return kept


def _dropped(record: CommitRecord, damages: Collection[Damage]) -> Iterator[str]:
    """The paths of the chunks that are damaged or lie beside one, but for the names of the classes."""
    arrays = record.arrays
    for damage in damages:
        spec = arrays.get(damage.array)
        if spec is not None and damage.array != CLASS_NAME:
            for row in range(damage.start // spec.chunk[0], math.ceil(damage.stop / spec.chunk[0])):
                yield from (spec.key(row, across) for across in range(spec.across))


def _names_of(flags: Json) -> list[str]:
    codes, names = flags["flag_values"], str(flags.get("flag_meanings", "")).split()
    return names if len(names) == len(codes) else list(map(str, codes))


def _sound_lengths(backend: Backend, record: CommitRecord, damages: Collection[Damage]) -> dict[str, int]:
    """The rows before any damage: of the samples, in whole chunk rows, and of each group whose rows are tokens."""
    sound = {path: record.length(path) for path in record.arrays}
    for damage in damages:
        if damage.rows:
            sound[damage.array] = min(sound[damage.array], damage.start)
    specs = record.arrays
    kept = min(sound[path] for path, spec in specs.items() if spec.dims[0] == SAMPLE)
    starts = {}
    for path in (path for path in specs if path.endswith(f"/{POSITION}")):
        group = path.rpartition("/")[0]
        tokens = min(length for other, length in sound.items() if other.startswith(f"{group}/"))
        starts[group] = _starts(backend, record, path, tokens)
        if tokens < record.length(path):
            kept = min(kept, max(0, len(starts[group]) - 1))  # the last sample may have more tokens
    if kept == record.rows:
        return {SAMPLE: kept, **{group: record.length(f"{group}/{POSITION}") for group in starts}}
    kept -= kept % record.rows_per_chunk
    return {SAMPLE: kept, **{group: int(of_group[kept]) if kept else 0 for group, of_group in starts.items()}}


def _starts(backend: Backend, record: CommitRecord, path: str, tokens: int) -> Array:
    """Where each sample begins among the first so many `tokens`: each has one of position 0."""
    blocks = (slice(first, min(first + _BLOCK_ROWS, tokens)) for first in range(0, tokens, _BLOCK_ROWS))
    found = [rows.start + np.flatnonzero(read_array(backend, record, path, rows) == 0) for rows in blocks]
    return np.concatenate([np.zeros(0, np.int64), *found])
