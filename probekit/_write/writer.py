"""Streaming into a store: batches fill row buffers, which a thread writes and commits one chunk row at a time."""

from __future__ import annotations

import math
import queue
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

import numpy as np

from probekit._store.backend import Backend
from probekit._store.codec import Array, ChunkCodec, checksum_of, vouched
from probekit._store.layout import POSITION, SAMPLES, columns_of
from probekit._tokens import Tokens
from probekit._write.chunk_buffers import RowBuffer, RowDimension
from probekit._write.commit_thread import ChunkRow, CommitThread
from probekit._write.commits import Commit, Commits, Start
from probekit._write.transfer import Transfer, no_wait
from probekit.errors import StoreError

try:
    import resource
except ImportError:  # not on Windows
    resource = None  # type: ignore[assignment]

__all__ = ["ROW_BUFFERS", "Writer"]

ROW_BUFFERS = 2  # one is filled while the one before it is written
_OPEN_FILES = 64  # chunks of a row that are filled in their files
_OTHER_FILES = 64  # what the process has open beside them


class Writer:
    """A store that samples are appended to.

    Args:
        backend: where the store lies, which is laid out.
        start: where to begin.
        commits: how written rows are committed.
        transfer: where the memory comes from, and what copies into it.

    For each batch, call `begin`, then `put` for each site or `append` for those whose rows are tokens, and `end` with
    the columns, which the model itself may have given. Uncompressed activations from a CPU go to files in a folder at
    once; all else waits in `ROW_BUFFERS` row buffers in memory. Use it as a context manager: its end commits the
    batches that ended, also when the block raises.

    Raises:
        StoreError: the disk refuses, or what is to be continued is damaged.
    """

    def __init__(self, backend: Backend, start: Start, commits: Commits, transfer: Transfer) -> None:
        self._backend, self._start, self._transfer = backend, start, transfer
        self.commits = commits
        self._class_names = start.class_names
        layout = start.layout
        self._paths = {site.name: layout.activation(site).path for site in layout.sites}
        self._known = {self._paths[site.name]: site.token_columns for site in layout.sites}
        self._masks = {site.name: layout.mask(site).path for site in layout.sites if site.masked}
        self._tokens: dict[str, list[tuple[Array, Array]]] = {
            self._paths[site.name]: [] for site in layout.sites if site.tokens
        }  # of the batch: the samples and the positions of the rows that each token site gave
        self._skip = 0  # the batch's first samples that are in the store already
        self._spans: list[tuple[RowBuffer, slice, int]] = []  # where its samples go, and which of them
        self._dimensions: dict[str, RowDimension] = {}
        self._snapshots: dict[str, queue.SimpleQueue[RowBuffer]] = {}
        for dim, arrays in layout.arrays.items():
            codecs = list(map(ChunkCodec, arrays))
            in_files = self._in_files(dim, codecs)
            self._dimensions[dim] = RowDimension(
                codecs, layout.rows_in_chunk(dim), start.lengths[dim], transfer, ROW_BUFFERS, in_files
            )
            if dim != SAMPLES:
                self._snapshots[dim] = queue.SimpleQueue()
                self._snapshots[dim].put(RowBuffer(codecs, transfer))
        self._thread = CommitThread(backend, commits)
        self._torn = False  # within a change that Ctrl-C may cut in two; then what isn't handed over doesn't count
        self._stack = ExitStack()

    def _in_files(self, dim: str, codecs: Sequence[ChunkCodec]) -> list[ChunkCodec]:
        """The arrays whose chunks are filled in their files."""
        if dim != SAMPLES or self._backend.begin is None or not self._transfer.immediate:
            return []  # chunks of tokens are committed before they are full, and continue in memory
        chosen = [codec for codec in codecs if codec.plain and codec.spec.path in self._paths.values()]
        return chosen if sum(codec.spec.across for codec in chosen) <= _open_files() else []

    @property
    def committed(self) -> int:
        """Samples that are there to stay."""
        return self.commits.committed[SAMPLES]

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.callback(self._drop)
            self._make_room()
            for dimension in self._dimensions.values():
                if dimension.filled:
                    self._read_back(dimension)
            stack.enter_context(self._thread)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stack:
            if not self._torn and (kind is None or self.commits.short_rows):
                self._hand_over_rest()
            self._thread.end()
            self._thread.finish(complete=kind is None)
        if kind is None:
            self._thread.raise_failure()

    def _make_room(self) -> None:
        """Make the folders of the chunks, which a writer that was killed at its beginning may not have made."""
        arrays = [path for path, node in self._start.nodes.items() if node["node_type"] == "array"]
        try:
            self.commits.begin()
            self._backend.make_room(f"{path}/c" for path in arrays)
        except OSError as error:
            raise StoreError(f"{self._backend.url} can't be written: {error.strerror or error}.") from error

    def _drop(self) -> None:
        """Leave nothing of chunks that weren't handed over."""
        for dimension in self._dimensions.values():
            for buffer in dimension.filling:
                buffer.drop()

    # A batch

    def begin(self, samples: int, *, at: int) -> None:
        """A batch of so many `samples` comes, whose first is number `at` of the store; what is there is left out.

        Waits for the disk only while every buffer is full.

        Raises:
            StoreError: writing has failed, or the batch is larger than a chunk row.
        """
        rows = self._dimensions[SAMPLES]
        if not rows.filled:
            # Where several processes write, the next batch may belong to another chunk row.
            rows.first = max(rows.first, at - at % rows.rows_per_chunk)
            for dim, tokens in self.commits.token_rows(rows.first // rows.rows_per_chunk).items():
                self._dimensions[dim].begin_at(tokens.start)
        skip = rows.first + rows.filled - at
        count = samples - skip
        if count > rows.rows_per_chunk:
            raise StoreError(
                f"A batch of {count} samples is larger than a chunk row of {rows.rows_per_chunk}, whose size the first "
                "batch set. Give batches of one size."
            )
        self._skip = skip
        self._tokens = {path: [] for path in self._tokens}
        head = min(count, rows.rows_per_chunk - rows.filled)
        self._spans = [(self._buffer(rows, 0), slice(rows.filled, rows.filled + head), skip)]
        if head < count:
            self._spans.append((self._buffer(rows, 1), slice(0, count - head), skip + head))

    def put(self, site: str, activation: Any) -> None:
        """Take the batch's activation at a site, in a form that the transfer copies from."""
        path = self._paths[site]
        for buffer, span, source in self._spans:
            self._copy(self._dimensions[SAMPLES], path, buffer, span, _rows(activation, source, span))

    def put_mask(self, site: str, mask: Array) -> None:
        """Take which of the batch's positions at a site are real tokens, (sample, position), where the store has it."""
        if site in self._masks:
            for buffer, span, source in self._spans:
                buffer.chunks[self._masks[site]][0][span] = _rows(mask, source, span)

    def append(self, site: str, activation: Any, samples: Array, positions: Array) -> None:
        """Take the batch's tokens at a site; `samples` and `positions` say which they are, sample by sample."""
        path = self._paths[site]
        rows, there = self._dimensions[path], int(np.count_nonzero(samples < self._skip))
        self._tokens[path].append((samples[there:], positions[there:]))
        for buffer, span, source in self._next(rows, len(samples) - there):
            self._copy(rows, path, buffer, span, _rows(activation, there + source, span))

    def _copy(self, rows: RowDimension, path: str, buffer: RowBuffer, span: slice, activation: Any) -> None:
        try:
            for target, nodes in rows.targets(path, buffer, span):
                self._transfer.copy(target, activation[nodes] if nodes else activation)
        except OSError as error:
            self._thread.fail(error)

    def end(self, columns: Mapping[str, Array], class_names: Sequence[str] = (), tokens: Tokens | None = None) -> None:
        """Everything of the batch is there.

        `columns` are those of its samples, with the checksums of their inputs; `class_names` are the names of the
        classes as far as they are known, and others are their codes. `tokens` has what is known of its tokens.
        """
        if "label" in columns and len(columns["label"]):
            self._name_classes(class_names, int(columns["label"].max()) + 1)
        for path in self._tokens:
            self._append_columns(path, columns, tokens)
        self._torn = True
        rows = self._dimensions[SAMPLES]
        for buffer, span, source in self._spans:
            count = span.stop - span.start
            for name in self._start.layout.sample_columns:
                buffer.chunks[name][0][span] = columns[name][source : source + count]
            if self._fill(rows, count):
                self._commit_at({SAMPLES: rows.first, **self._token_lengths(source + count)})
        for dim, length in self._token_lengths(len(columns["sample_id"])).items():
            self._dimensions[dim].length = length
        rows.length = rows.first + rows.filled
        self._torn = False

    def _append_columns(self, path: str, columns: Mapping[str, Array], tokens: Tokens | None) -> None:
        """Fill the columns of the rows that the batch gave at the token site whose activation lies at `path`."""
        group, rows = path.rpartition("/")[0], self._dimensions[columns_of(path)]
        for samples, positions in self._tokens[path]:
            known = {} if tokens is None or not self._known[path] else tokens.at(samples, positions)
            repeated = {name: columns[name][samples] for name in self._start.layout.repeated}
            values = repeated | {POSITION: positions} | {name: known[name] for name in self._known[path]}
            for buffer, span, source in self._next(rows, len(samples)):
                for name, of_rows in values.items():
                    buffer.chunks[f"{group}/{name}"][0][span] = of_rows[source : source + span.stop - span.start]

    def _next(self, rows: RowDimension, count: int) -> Iterator[tuple[RowBuffer, slice, int]]:
        """Where the next `count` rows go, and from which of them on; each has to be filled before the next comes."""
        done = 0
        while done < count:
            buffer = self._buffer(rows, 0)
            span = slice(rows.filled, min(rows.rows_per_chunk, rows.filled + count - done))
            yield buffer, span, done
            done += span.stop - span.start
            self._torn = True
            self._fill(rows, span.stop - span.start)
            self._torn = False

    def _token_lengths(self, samples: int) -> dict[str, int]:
        """Rows of each token site, and of its columns, when the first so many `samples` of the batch count."""
        lengths = {}
        for path, given in self._tokens.items():
            new = sum(int(np.count_nonzero(each < samples)) for each, _ in given)
            lengths[path] = lengths[columns_of(path)] = self._dimensions[path].length + new
        return lengths

    def _name_classes(self, known: Sequence[str], count: int) -> None:
        if max(len(known), count) > len(self._class_names):
            self._class_names = (*known, *map(str, range(len(known), count)))

    def _buffer(self, rows: RowDimension, index: int) -> RowBuffer:
        """The buffer that is being filled, or the one after it."""
        while len(rows.filling) <= index:
            buffer = rows.free.get()
            self._thread.raise_failure()
            rows.filling.append(buffer)
            if self._backend.begin is not None:
                chunk_row = rows.first // rows.rows_per_chunk + index
                # Of samples, whose chunks alone are filled in files.
                expected = self._start.attrs.get("expected_rows", math.inf) - chunk_row * rows.rows_per_chunk
                try:
                    buffer.begin(self._backend.begin, chunk_row, min(rows.rows_per_chunk, expected))
                except OSError as error:
                    self._thread.fail(error)
        return rows.filling[index]

    def _fill(self, rows: RowDimension, count: int) -> bool:
        """Count rows as filled; a chunk row that is full goes to the thread. Whether there was one."""
        rows.filled += count
        full = rows.filled == rows.rows_per_chunk
        if full:
            buffer = rows.filling.pop(0)
            self._thread.put(
                ChunkRow(rows, buffer, rows.first, rows.filled, rows.others, self._transfer.fence(), rows.free)
            )
            rows.first, rows.filled, rows.others = rows.first + rows.rows_per_chunk, 0, 0
        return full

    def _commit_at(self, lengths: dict[str, int]) -> None:
        """Commit these lengths, after the tokens in chunks that aren't full: those are written as they are now."""
        for dim, free in self._snapshots.items():
            rows = self._dimensions[dim]
            if lengths[dim] > rows.first:
                self._transfer.fence()()
                snapshot = free.get()
                for path, chunks in rows.filling[0].chunks.items():
                    for ours, theirs in zip(snapshot.chunks[path], chunks, strict=True):
                        ours[: rows.filled] = theirs[: rows.filled]
                count = lengths[dim] - rows.first
                self._thread.put(ChunkRow(rows, snapshot, rows.first, count, rows.others, no_wait, free))
        self._thread.put(Commit(lengths, self._class_names))

    def _hand_over_rest(self) -> None:
        """Commit the batches that ended and lie in chunks that aren't full."""
        rows = self._dimensions[SAMPLES]
        if self._thread.failure is None and rows.length > rows.first and rows.length != self.committed:
            buffer, count = rows.filling.pop(0), rows.length - rows.first
            self._thread.put(ChunkRow(rows, buffer, rows.first, count, 0, self._transfer.fence(), rows.free))
            self._commit_at({dim: each.length for dim, each in self._dimensions.items()})

    def _read_back(self, rows: RowDimension) -> None:
        """Fill the first buffer with the committed rows of chunks that aren't full."""
        buffer = self._buffer(rows, 0)
        number, checksums = rows.first // rows.rows_per_chunk, dict.fromkeys(rows.codecs, b"")
        for path, codec in rows.codecs.items():
            for across in range(codec.spec.across):
                key = codec.spec.key(number, across)
                checksum = vouched(self._start.checksums.get(path, b""), number * codec.spec.across + across)
                try:
                    data = self._backend.read(key, codec.lengths[1])
                    buffer.refill(path, across, codec.decode(data, checksum)[: rows.filled])
                except (OSError, ValueError) as error:
                    raise StoreError(
                        f"{self._backend.url} can't be resumed: its {key} is damaged or missing ({error}). "
                        f"`probekit verify {self._backend.url} --repair` drops what is damaged."
                    ) from error
                checksums[path] += checksum_of([data])
        self.commits.wrote(number, checksums)  # where no more rows come, these chunks stay


def _open_files() -> int:
    """The chunks of a row that can be filled in their files: two rows are, of the files that the system allows."""
    if resource is None:
        return _OPEN_FILES
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _OPEN_FILES if allowed == resource.RLIM_INFINITY else min(_OPEN_FILES, (allowed - _OTHER_FILES) // 2)


def _rows(activation: Any, first: int, span: slice) -> Any:
    """As many rows of an activation as `span` has, from the `first` on; itself where that is all, which is quicker."""
    count = span.stop - span.start
    return activation if count == activation.shape[0] else activation[first : first + count]
