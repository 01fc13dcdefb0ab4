"""The commit record behind what `zarr.consolidate_metadata` has written over it.

That function puts each node's own metadata into the root ``zarr.json``. Before a capture is complete they are not what
is committed: arrays have the length that is expected, or none where it isn't known, and no classes are named. The
attributes stay, among them the number of committed samples. The rest follows from the chunks.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import count

import numpy as np

from probekit._store.backend import Backend
from probekit._store.codec import Array, ChunkCodec
from probekit._store.layout import CLASS_NAME, FORMAT, MAX_RECORD_BYTES, POSITION, RECORD, SAMPLE, ArraySpec, Json
from probekit._store.lazy_array import read_array
from probekit._store.record import CHUNK_CHECKSUMS, SEAL, CommitRecord
from probekit._store.validation import check_record
from probekit.errors import StoreError

__all__ = ["alike", "is_suspect", "restored"]

_SAMPLE_ID = "sample_id"


def restored(backend: Backend, content: bytes) -> CommitRecord:
    """The commit record over which zarr has written the `content` of a root ``zarr.json``.

    Raises:
        ValueError, LookupError, TypeError, AttributeError, RecursionError, OSError: zarr didn't write it.
        StoreError: zarr did, and what it wrote over can't be found any more.
    """
    found = json.loads(content)
    written = CommitRecord(found["attributes"], found["consolidated_metadata"]["metadata"], overwritten=True)
    if not 1 <= written.format <= FORMAT:
        raise ValueError(f"the format is {written.format}")
    if {SEAL, CHUNK_CHECKSUMS} & found["consolidated_metadata"].keys():
        raise ValueError("zarr would have left its checksums out")
    record = _at_committed_samples(written)
    _check(record)  # before anything is read where it says
    own = {path: json.loads(backend.read(f"{path}/{RECORD}", MAX_RECORD_BYTES)) for path in record.nodes}
    if not all(alike(node, written.nodes[path]) for path, node in own.items()):
        raise ValueError("the nodes' metadata are not their own")
    record = _at_committed_samples(replace(written, nodes=own))  # with their keys in the order in which they were
    try:
        return _with_tokens(backend, _with_class_names(backend, record))
    except (ValueError, OSError, StoreError) as error:
        raise StoreError(
            f"zarr.consolidate_metadata has written over the commit record of {backend.url}, which wasn't complete, "
            f"and the record can't be restored: {str(error).rstrip('.')}. Put its {RECORD} back from a copy, or "
            "capture it again with overwrite=True.",
            arguments=("overwrite",),
        ) from error


def is_suspect(record: CommitRecord) -> bool:
    """Whether a record that is sound may yet be what zarr wrote: it has samples, and no class or no token of them."""
    empty = [path for path in record.arrays if path.endswith(f"/{POSITION}") or path == CLASS_NAME]
    return not record.complete and record.rows > 0 and any(not record.length(path) for path in empty)


def alike(one: Json, other: Json) -> bool:
    """Whether the metadata of a node say the same, but for what zarr adds to groups."""
    return _plain(one) == _plain(other)


def _plain(node: Json) -> Json:
    return {key: value for key, value in node.items() if key != "consolidated_metadata"}


def _check(record: CommitRecord) -> None:
    check_record({"attributes": record.attributes, "consolidated_metadata": {"metadata": record.nodes}}, {})


def _at_committed_samples(written: CommitRecord) -> CommitRecord:
    """The record as far as the attributes tell: without classes and tokens, and without sites that are being added."""
    rows, samples = written.rows, [path for path, spec in written.arrays.items() if spec.dims[0] == SAMPLE]
    added = {path.partition("/")[0] for path in samples if written.complete and not written.length(path)}
    nodes = {path: _plain(node) for path, node in written.nodes.items() if path.partition("/")[0] not in added}
    planned = {written.length(path) for path in samples if path in nodes}
    possible = {rows} if written.complete else {0, written.expected_rows, *range(min([rows, *planned]), rows + 1)}
    if not planned <= possible:
        raise ValueError(f"there are {rows} samples, and arrays of {planned}")
    kept = CommitRecord(written.attributes, nodes, overwritten=True).named(())
    return kept.at({path: rows if spec.dims[0] == SAMPLE else 0 for path, spec in kept.arrays.items()})


def _with_class_names(backend: Backend, record: CommitRecord) -> CommitRecord:
    spec = record.arrays.get(CLASS_NAME)
    if spec is None:
        return record
    names = [str(name) for chunk in _chunks(backend, spec) for name in chunk.tolist()]
    classes = int(read_array(backend, record, "label").max(initial=-1)) + 1
    if classes > len(names):
        raise ValueError(f"the names of its {classes} classes are missing")
    while len(names) > classes and not names[-1]:  # with which the last chunk is filled up
        names.pop()
    return record.named(names)


def _with_tokens(backend: Backend, record: CommitRecord) -> CommitRecord:
    """The record with the rows of every site of tokens up to where those of the first uncommitted sample begin."""
    groups = [path.rpartition("/")[0] for path in record.arrays if path.endswith(f"/{POSITION}")]
    ids = read_array(backend, record, _SAMPLE_ID).tolist() if groups else []
    lengths = {group: _tokens(backend, record.arrays, group, ids) for group in groups}
    of_arrays = {path: path.rpartition("/")[0] for path in record.arrays}
    return record.at({path: lengths[group] for path, group in of_arrays.items() if group in lengths})


def _tokens(backend: Backend, arrays: dict[str, ArraySpec], group: str, ids: list[object]) -> int:
    """The number of rows that a site of tokens has of the samples with these `ids`, each of which has one at least."""
    starts: list[int] = []
    theirs: list[object] = []
    total = 0
    columns = (_chunks(backend, arrays[f"{group}/{name}"]) for name in (POSITION, _SAMPLE_ID))
    for positions, samples in zip(*columns, strict=False):
        begun = np.flatnonzero(positions == 0)  # also of the zeros with which the last chunk is filled up
        starts += (total + begun).tolist()
        theirs += samples[begun].tolist()
        total += len(positions)
        if len(starts) > len(ids):
            break
    if theirs[: len(ids)] != ids:
        raise ValueError(f"the rows of {group!r} are not those of its {len(ids)} samples")
    return [*starts, total][len(ids)]


def _chunks(backend: Backend, spec: ArraySpec) -> Iterator[Array]:
    """The chunks of an array of one dim, as far as there are any."""
    codec = ChunkCodec(spec)
    for number in count():
        try:
            yield codec.decode(backend.read(spec.key(number, 0), codec.lengths[1]))
        except FileNotFoundError:
            return
