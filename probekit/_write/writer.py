"""Streaming into a store: tiles are filled, put in their places by a thread, and committed a row of them at a time."""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Self

import numpy as np

from probekit._store.backend import Folder, Place
from probekit._store.codec import Array, TileCodec
from probekit._store.layout import MARKERS, POSITION, RECORD, SAMPLES, Json, Layout, columns_of
from probekit._store.record import class_name_tiles, dump, record_of
from probekit._write.chunk_buffers import Buffers, Rows, Slot, Wait, no_wait
from probekit.errors import StoreError

__all__ = ["SLOTS", "Commit", "Start", "Writer"]

SLOTS = 2  # rows of tiles: one is filled while the one before it is written
_OPEN_FILES = 64  # tiles of a row that are filled in their files; systems allow a process 256 files or more


@dataclass(frozen=True)
class Start:
    """Where writing begins.

    Attributes:
        nodes: the metadata of all of the store's nodes but the root, by their paths.
        attrs: attributes of the root group, JSON values.
        lengths: the committed length of each row dimension; what lies in tiles only begun is read back.
        class_names: of the classes named so far.
    """

    nodes: Mapping[str, Json]
    attrs: Json
    lengths: Mapping[str, int]
    class_names: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Write:
    """A row of tiles to be written, once `wait` returns, and where its buffers go then."""

    rows: Rows
    slot: Slot
    first: int
    filled: int
    wait: Wait
    free: queue.SimpleQueue[Slot]


@dataclass(frozen=True)
class Commit:
    """The lengths that are true when everything before has been written, and the names of the classes."""

    lengths: dict[str, int]
    class_names: tuple[str, ...]


class Writer:
    """A store that samples are appended to.

    Args:
        place: where the store lies; `probekit._store.record.create` has laid it out.
        layout: its arrays.
        start: where to begin.
        buffers: where the memory comes from, and what copies into it.

    For each batch, call `begin`, then `put` for each site or `append` for those whose rows are tokens, and `end` with
    the columns, which the model itself may have given. What a folder takes as it is, uncompressed and from a CPU, goes
    to its file at once; of all else it holds `SLOTS` rows of tiles in memory. Use it as a context manager: its end
    commits the batches that ended, also when the block raises.

    Raises:
        StoreError: another writer holds the store, or the disk refuses.
    """

    def __init__(self, place: Place, layout: Layout, start: Start, buffers: Buffers) -> None:
        self.place = place
        self._layout = layout
        self._nodes = start.nodes
        self.attrs = start.attrs
        self._buffers = buffers
        self._committed = dict(start.lengths)
        self._class_names, self._written_names = start.class_names, start.class_names
        self._paths = {site.name: layout.activation(site).path for site in layout.sites}
        self._tokens: dict[str, list[tuple[Array, Array]]] = {
            self._paths[site.name]: [] for site in layout.sites if site.tokens
        }  # of the batch: the samples and the positions of the rows that each token site gave
        self._skip = 0  # its first samples that are in the store already
        self._spans: list[tuple[Slot, slice, int]] = []  # where its samples go, and which of them
        codecs = {dim: list(map(TileCodec, arrays)) for dim, arrays in layout.arrays.items()}
        self._rows = {
            dim: Rows(each, layout.in_tile(dim), start.lengths[dim], buffers, SLOTS, self._grown(dim, each))
            for dim, each in codecs.items()
        }
        self._snapshots: dict[str, queue.SimpleQueue[Slot]] = {}
        for dim, rows in self._rows.items():
            if dim != SAMPLES:
                self._snapshots[dim] = queue.SimpleQueue()
                self._snapshots[dim].put(Slot(list(rows.codecs.values()), buffers))
        self._failure: BaseException | None = None
        self._jobs: queue.SimpleQueue[_Write | Commit | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="probekit-writer", daemon=True)
        self._ended = threading.Event()  # the thread; its own join, once interrupted, takes it for ended
        self._torn = False  # within a change that Ctrl-C may cut in two; then what isn't handed over doesn't count
        self._held = ExitStack()

    def _grown(self, dim: str, codecs: Sequence[TileCodec]) -> list[TileCodec]:
        """The arrays whose tiles are filled in their files."""
        if dim != SAMPLES or not isinstance(self.place, Folder) or not self._buffers.immediate:
            return []  # tokens are committed in tiles only begun, which go on in memory
        grown = [codec for codec in codecs if codec.plain and codec.spec.path in self._paths.values()]
        return grown if sum(codec.spec.across for codec in grown) <= _OPEN_FILES else []

    @property
    def committed(self) -> int:
        """Samples that are there to stay."""
        return self._committed[SAMPLES]

    @property
    def offset(self) -> int:
        """The number in the store of the data's first sample."""
        return int(self.attrs["start"])

    @property
    def compares(self) -> bool:
        """Whether samples of the data are in the store already."""
        return self.committed > self.offset

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.callback(self._drop)
            self._make_room()
            self._pool = stack.enter_context(ThreadPoolExecutor(self.place.parallel, "probekit-write"))
            for rows in self._rows.values():
                if rows.filled:
                    self._read_back(rows)
            stack.callback(self._end_thread)
            self._thread.start()
            self._held = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._held:
            if not self._torn:
                self._hand_over_rest(complete=kind is None)
            self._end_thread()
            if self._failure is None:
                self._attempt(lambda: self._finish(complete=kind is None))
        if kind is None:
            self._raise_failure()

    def _make_room(self) -> None:
        """Make the folders of the tiles, which a writer that was killed at its beginning may not have made."""
        try:
            self.place.make_room(f"{path}/c" for path, node in self._nodes.items() if node["node_type"] == "array")
        except OSError as error:
            raise StoreError(f"{self.place.url} can't be written: {error.strerror or error}.") from error

    def _end_thread(self) -> None:
        """Have the thread do what it was given and end; also if Ctrl-C comes meanwhile, since then the lock goes."""
        self._jobs.put(None)
        if self._thread.ident is None:
            return
        try:
            self._ended.wait()
        finally:
            self._ended.wait()
            self._thread.join()

    def _drop(self) -> None:
        """Leave nothing of tiles that weren't handed over."""
        for rows in self._rows.values():
            for slot in rows.held:
                slot.drop()

    # A batch

    def begin(self, samples: int, *, at: int) -> None:
        """A batch of so many `samples` comes, whose first is number `at` of the store; what is there is left out.

        Waits for the disk only while every buffer is full.

        Raises:
            StoreError: writing has failed, or the batch is larger than a row of tiles.
        """
        rows = self._rows[SAMPLES]
        if not rows.filled:
            rows.first = max(rows.first, at - at % rows.in_tile)  # of another chunk-row, where several processes write
        skip = rows.first + rows.filled - at
        count = samples - skip
        if count > rows.in_tile:
            raise StoreError(
                f"A batch of {count} samples is larger than a chunk-row of {rows.in_tile}, whose size the first "
                "batch set. Give batches of one size."
            )
        self._skip = skip
        self._tokens = {path: [] for path in self._tokens}
        head = min(count, rows.in_tile - rows.filled)
        self._spans = [(self._hold(rows, 0), slice(rows.filled, rows.filled + head), skip)]
        if head < count:
            self._spans.append((self._hold(rows, 1), slice(0, count - head), skip + head))

    def put(self, site: str, activation: Any) -> None:
        """Take the batch's activation at a site, in a form that the buffers copy from."""
        path = self._paths[site]
        for slot, span, source in self._spans:
            self._copy(self._rows[SAMPLES], path, slot, span, _from(activation, source, span))

    def append(self, site: str, activation: Any, samples: Array, positions: Array) -> None:
        """Take the batch's tokens at a site; `samples` and `positions` say which they are, sample by sample."""
        path = self._paths[site]
        rows, there = self._rows[path], int(np.count_nonzero(samples < self._skip))
        self._tokens[path].append((samples[there:], positions[there:]))
        for slot, span, source in self._next(rows, len(samples) - there):
            self._copy(rows, path, slot, span, _from(activation, there + source, span))

    def _copy(self, rows: Rows, path: str, slot: Slot, span: slice, activation: Any) -> None:
        try:
            for target, part in rows.pieces(path, slot, span):
                self._buffers.copy(target, activation[part] if part else activation)
        except OSError as error:
            self._fail(error)

    def end(self, columns: Mapping[str, Array], class_names: Sequence[str] = ()) -> None:
        """Everything of the batch is there.

        `columns` are those of its samples; `class_names` are the names of the classes as far as they are known, and
        others are their codes.
        """
        if "label" in columns and len(columns["label"]):
            self._name_classes(class_names, int(columns["label"].max()) + 1)
        for path in self._tokens:
            self._append_columns(path, columns)
        self._torn = True
        rows = self._rows[SAMPLES]
        for slot, span, source in self._spans:
            count = span.stop - span.start
            for name in self._layout.sample_columns:
                slot.tiles[name][0][span] = columns[name][source : source + count]
            if self._move(rows, count):
                self._commit_at({SAMPLES: rows.first, **self._token_lengths(source + count)})
        for dim, length in self._token_lengths(len(columns["sample_id"])).items():
            self._rows[dim].length = length
        rows.length = rows.first + rows.filled
        self._torn = False

    def _append_columns(self, path: str, columns: Mapping[str, Array]) -> None:
        """Fill the columns of the rows that the batch gave at the token site whose activation lies at `path`."""
        group, rows = path.rpartition("/")[0], self._rows[columns_of(path)]
        for samples, positions in self._tokens[path]:
            values = {name: column[samples] for name, column in columns.items()} | {POSITION: positions}
            for slot, span, source in self._next(rows, len(samples)):
                for name, of_rows in values.items():
                    slot.tiles[f"{group}/{name}"][0][span] = of_rows[source : source + span.stop - span.start]

    def _next(self, rows: Rows, count: int) -> Iterator[tuple[Slot, slice, int]]:
        """Where the next `count` rows go, and from which of them on; each has to be filled before the next comes."""
        done = 0
        while done < count:
            slot = self._hold(rows, 0)
            span = slice(rows.filled, min(rows.in_tile, rows.filled + count - done))
            yield slot, span, done
            done += span.stop - span.start
            self._torn = True
            self._move(rows, span.stop - span.start)
            self._torn = False

    def _token_lengths(self, samples: int) -> dict[str, int]:
        """Rows of each token site, and of its columns, when the first so many `samples` of the batch count."""
        lengths = {}
        for path, given in self._tokens.items():
            new = sum(int(np.count_nonzero(each < samples)) for each, _ in given)
            lengths[path] = lengths[columns_of(path)] = self._rows[path].length + new
        return lengths

    def _name_classes(self, known: Sequence[str], count: int) -> None:
        if max(len(known), count) > len(self._class_names):
            self._class_names = (*known, *map(str, range(len(known), count)))

    def _hold(self, rows: Rows, index: int) -> Slot:
        while len(rows.held) <= index:
            slot = rows.free.get()
            self._raise_failure()
            rows.held.append(slot)
            if isinstance(self.place, Folder):
                row = rows.first // rows.in_tile + index
                # Of samples, whose tiles alone grow in files.
                expected = self.attrs.get("expected_rows", math.inf) - row * rows.in_tile
                try:
                    slot.begin(self.place, row, min(rows.in_tile, expected))
                except OSError as error:
                    self._fail(error)
        return rows.held[index]

    def _move(self, rows: Rows, count: int) -> bool:
        """Count rows as filled; a row of tiles that is full goes to the thread. Whether there was one."""
        rows.filled += count
        full = rows.filled == rows.in_tile
        if full:
            slot = rows.held.pop(0)
            self._jobs.put(_Write(rows, slot, rows.first, rows.filled, self._buffers.fence(), rows.free))
            rows.first, rows.filled = rows.first + rows.in_tile, 0
        return full

    def _commit_at(self, lengths: dict[str, int]) -> None:
        """Commit these lengths, after the tokens that lie in tiles only begun: those are written as they are now."""
        for dim, free in self._snapshots.items():
            rows = self._rows[dim]
            if lengths[dim] > rows.first:
                self._buffers.fence()()
                snapshot = free.get()
                for path, tiles in rows.held[0].tiles.items():
                    for ours, theirs in zip(snapshot.tiles[path], tiles, strict=True):
                        ours[: rows.filled] = theirs[: rows.filled]
                self._jobs.put(_Write(rows, snapshot, rows.first, lengths[dim] - rows.first, no_wait, free))
        self._jobs.put(Commit(lengths, self._class_names))

    def _hand_over_rest(self, *, complete: bool) -> None:
        """Commit the batches that ended and lie in tiles only begun; `complete` says whether all are there."""
        rows = self._rows[SAMPLES]
        if self._failure is None and rows.length > rows.first and rows.length != self.committed:
            slot, count = rows.held.pop(0), rows.length - rows.first
            self._jobs.put(_Write(rows, slot, rows.first, count, self._buffers.fence(), rows.free))
            self._commit_at({dim: each.length for dim, each in self._rows.items()})

    # The thread

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            if self._failure is None:
                self._attempt(partial(self._do, job))
            if isinstance(job, _Write):
                if self._failure is not None:
                    job.slot.drop()
                job.free.put(job.slot)
        self._ended.set()

    def _do(self, job: _Write | Commit) -> None:
        if isinstance(job, _Write):
            self._write(job)
        else:
            self._settle(job)

    def _settle(self, commit: Commit) -> None:
        self._write_names(commit.class_names)
        self._publish(commit.lengths)
        self._committed = dict(commit.lengths)

    def _write(self, job: _Write) -> None:
        job.wait()
        job.slot.finish(job.filled)
        files = []
        for path, tiles in job.slot.tiles.items():
            codec = job.rows.codecs[path]
            for across, tile in enumerate(tiles):
                tile[job.filled :] = "" if codec.dtype == object else 0  # whatever was there before isn't written
                files.append((codec.spec.key(job.first // job.rows.in_tile, across), codec.encode(tile)))
        if self.place.parallel == 1:
            for key, parts in files:
                self.place.write(key, parts)
        else:
            list(self._pool.map(self.place.write, *zip(*files, strict=True)))

    def _write_names(self, names: tuple[str, ...]) -> None:
        if names != self._written_names:
            for key, parts in class_name_tiles(names):
                self.place.write(key, parts)
            self._written_names = names

    def _publish(self, lengths: Mapping[str, int]) -> None:
        """Replace the commit record: from now on readers see these lengths."""
        self.place.commit(RECORD, dump(self._record(lengths, complete=False)))

    def _record(self, lengths: Mapping[str, int], *, complete: bool) -> Json:
        attrs = {**self.attrs, "complete": int(complete)}
        return record_of(self._layout, self._nodes, lengths, self._written_names, attrs)

    def _finish(self, *, complete: bool) -> None:
        self._close(self._record(self._committed, complete=complete))
        if complete:
            self.place.delete(MARKERS)

    def _close(self, record: Json) -> None:
        # Readers that ignore the record see each array's own metadata, which now has to agree with it.
        for path, node in record["consolidated_metadata"]["metadata"].items():
            if node["node_type"] == "array":
                self.place.write(f"{path}/{RECORD}", [dump(node)])
        self.place.commit(RECORD, dump(record))

    # Failures

    def _attempt(self, work: Callable[[], None]) -> None:
        """Do `work`; keep what it raises for the main thread, which raises it at its next call."""
        try:
            work()
        except BaseException as error:
            self._failure = error

    def _fail(self, error: OSError) -> None:
        """Raise what the disk refused to the main thread."""
        self._failure = error
        self._raise_failure()

    def _raise_failure(self) -> None:
        if isinstance(self._failure, KeyboardInterrupt):
            raise self._failure
        if self._failure is not None:
            raise StoreError(
                f"Writing {self.place.url} failed: {getattr(self._failure, 'strerror', None) or self._failure}. "
                f"Its first {self.committed} samples are committed and can be read; resume=True (--resume) goes on "
                "from there."
            ) from self._failure

    def _read_back(self, rows: Rows) -> None:
        """Fill the first slot with the rows that lie in tiles only begun."""
        slot = self._hold(rows, 0)
        for path, codec in rows.codecs.items():
            for across in range(codec.spec.across):
                key = codec.spec.key(rows.first // rows.in_tile, across)
                try:
                    slot.refill(path, across, codec.decode(self.place.read(key))[: rows.filled])
                except (OSError, ValueError) as error:
                    raise StoreError(
                        f"{self.place.url} can't be gone on with: its {key} is damaged or missing ({error}). "
                        f"`probekit verify {self.place.url} --repair` drops what isn't sound."
                    ) from error


def _from(activation: Any, first: int, span: slice) -> Any:
    """As many rows of an activation as `span` has, from the `first` on; itself where that is all, which is quicker."""
    count = span.stop - span.start
    return activation if count == activation.shape[0] else activation[first : first + count]
