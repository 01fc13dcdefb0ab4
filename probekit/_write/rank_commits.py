"""Several processes that write one store: each its own chunk rows, the first of them the commit record.

A process that has written a chunk row puts a marker beside the chunks. The first one publishes the longest prefix of
chunk rows that have markers, so that readers see whole rows only, whoever is ahead.

The rows of a token site are as many as the samples have tokens, so a chunk of them may have rows of several chunk rows.
Each process knows beforehand where its own lie. It writes the chunks that have no others; of a chunk that it shares, it
leaves its rows as a fragment, and the first process puts the fragments together as it publishes their chunk rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from probekit._data.sampler import ChunkSampler
from probekit._store.backend import Backend
from probekit._store.codec import Array, ChunkCodec, checksum_of, vouched
from probekit._store.layout import CHECKSUM_BYTES, FRAGMENTS, MARKERS, ROW, SAMPLES, ArraySpec, Layout, columns_of
from probekit._store.markers import Marker
from probekit._store.record import Checksums, CommitRecord
from probekit._write.commits import Commit, RecordFile, Start, first_samples
from probekit.errors import StoreError

__all__ = ["RankCommits", "TokenRows", "done_chunks", "fragment_folders", "token_rows"]

TokenRows = Mapping[int, Mapping[str, range]]  # by chunk row, then by the path of a token site's activation


class RankCommits:
    """Commits of one of several processes; `close` ends the work of all, in the first one.

    `rows` says where the tokens of this process's chunk rows go.
    """

    offset = 0
    compares = False
    short_rows = False  # only the data set's last chunk row may be short

    def __init__(self, backend: Backend, start: Start, sampler: ChunkSampler, rows: TokenRows) -> None:
        self._backend, self._sampler, self._rows = backend, sampler, rows
        self._layout = start.layout
        self._file = RecordFile(backend, start)
        self.committed = dict.fromkeys(start.lengths, 0)
        self._capture = start.attrs.get("capture")
        self._published = dict(start.lengths)
        self._written: dict[str, bytes] = {}

    @property
    def kept(self) -> str:
        return first_samples(self._published[SAMPLES])

    def begin(self) -> None:
        """Nothing: the first process has laid the store out."""

    def token_rows(self, chunk_row: int) -> Mapping[str, range]:
        return _by_dimension(self._rows.get(chunk_row, {}))

    def key(self, spec: ArraySpec, number: int, across: int, rows: range) -> str:
        return _fragment(spec, across, rows) if _is_fragment(spec, rows) else spec.key(number, across)

    def wrote(self, chunk_row: int, checksums: Checksums) -> None:
        for path, of_chunks in checksums.items():
            self._written[path] = self._written.get(path, b"") + of_chunks

    def settle(self, commit: Commit) -> None:
        self.committed = dict(commit.lengths)
        chunk_row = (commit.lengths[SAMPLES] - 1) // self._sampler.chunk_rows
        marker = Marker(commit.class_names, self._written, self._rows.get(chunk_row, {}))
        marker.write(self._backend, self._capture, chunk_row)
        self._written = {}
        if self._sampler.rank == 0:
            self._publish_prefix()

    def finish(self, *, complete: bool) -> None:
        """Nothing: the others may still write."""

    def give_up(self) -> None:
        """Nothing: chunk rows without markers are written again."""

    def close(self) -> None:
        """Publish everything as complete, after all processes have ended well.

        Raises:
            StoreError: chunk rows are missing.
        """
        self._publish_prefix()
        if self._published[SAMPLES] < self._sampler.total:
            raise StoreError(
                f"{self._backend.url} has only {self._published[SAMPLES]} of {self._sampler.total} samples."
            )
        self._vouch_for_rest()
        self._file.close(self._file.at(self._published, complete=True))
        self._backend.delete(MARKERS)

    def _vouch_for_rest(self) -> None:
        """Vouch for the last chunks also where a capture that was killed had published them, and this one has not."""
        for dim, arrays in self._layout.arrays.items():
            number, rest = divmod(self._published[dim], self._layout.rows_in_chunk(dim))
            for spec in arrays if rest else ():
                if not self._file.vouches(spec.path, number, spec.across):
                    contents = (self._read(ChunkCodec(spec), spec.key(number, each)) for each in range(spec.across))
                    self._file.wrote(number, {spec.path: b"".join(checksum_of([content]) for content in contents)})

    def _publish_prefix(self) -> None:
        names, lengths, joined = self._file.class_names, dict(self._published), list[str]()
        while lengths[SAMPLES] < self._sampler.total:
            chunk_row = lengths[SAMPLES] // self._sampler.chunk_rows
            marker = Marker.read(self._backend, self._capture, chunk_row)
            if marker is None:
                break
            joined += self._count_on(chunk_row, marker)
            names = max(names, marker.class_names, key=len)
            ends = {dim: rows.stop for dim, rows in _by_dimension(marker.token_rows).items()}
            lengths |= {SAMPLES: self._sampler.rows(chunk_row).stop, **ends}
        if lengths != self._published:
            self._file.write_names(names)
            self._file.publish(lengths)
            self._published = lengths
            for key in joined:
                self._backend.delete(key)

    def _count_on(self, chunk_row: int, marker: Marker) -> list[str]:
        """Vouch for the chunks of a chunk row from the next commit on; the fragments that are in chunks now."""
        of_samples = {spec.path: marker.checksums[spec.path] for spec in self._layout.arrays[SAMPLES]}
        self._file.wrote(chunk_row, of_samples)
        joined = []
        for dim, rows in _by_dimension(marker.token_rows).items():
            for spec in self._layout.arrays[dim]:
                for chunk, checksums in zip(_chunks(spec, rows), _each(spec, marker.checksums[spec.path]), strict=True):
                    if _is_fragment(spec, chunk):
                        joined += [_fragment(spec, across, chunk) for across in range(spec.across)]
                        checksums = self._join(chunk_row, spec, chunk, checksums)
                    self._file.wrote(chunk.start // spec.chunk[0], {spec.path: checksums})
        return joined

    def _join(self, chunk_row: int, spec: ArraySpec, rows: range, checksums: bytes) -> bytes:
        """Put the fragments that have these `rows` into their chunks, behind the rows that are there; the checksums."""
        codec, found = ChunkCodec(spec), b""
        number, before = divmod(rows.start, spec.chunk[0])
        for across in range(spec.across):
            chunk = self._taken(chunk_row, codec, _fragment(spec, across, rows), vouched(checksums, across))
            key = spec.key(number, across)
            if before:
                chunk[:before] = codec.decode(self._read(codec, key))[:before]
            contents = codec.encode(chunk)
            self._backend.write(key, contents)
            found += checksum_of(contents)
        return found

    def _taken(self, chunk_row: int, codec: ChunkCodec, key: str, checksum: bytes | None) -> Array:
        """The rows of a fragment, as a chunk that can be written to."""
        try:
            return codec.decode(self._backend.read(key, codec.lengths[1]), checksum).astype(codec.dtype)
        except (OSError, ValueError) as error:
            self._backend.delete(f"{MARKERS}/{chunk_row}")
            first = self._sampler.rows(chunk_row)
            raise StoreError(
                f"Its {key}, which another process has written, is damaged or missing ({error}); the samples "
                f"{first.start} to {first.stop - 1} have to be captured again"
            ) from error

    def _read(self, codec: ChunkCodec, key: str) -> bytes:
        """A chunk, which is sound."""
        try:
            data = self._backend.read(key, codec.lengths[1])
            codec.check(data)
        except (OSError, ValueError) as error:
            raise StoreError(
                f"Its {key} is damaged or missing ({error}). `probekit verify {self._backend.url} --repair` drops what "
                "is damaged."
            ) from error
        return data


def _is_fragment(spec: ArraySpec, rows: range) -> bool:
    """Whether these rows of one of an array's chunks are the tokens of a chunk row that fill only a part of it."""
    return spec.dims[0] == ROW and len(rows) < spec.chunk[0]


def _fragment(spec: ArraySpec, across: int, rows: range) -> str:
    """The key of a fragment, which no two chunk rows share."""
    return f"{FRAGMENTS}/{spec.path}/{rows.start}.{across}"


def _chunks(spec: ArraySpec, rows: range) -> Iterator[range]:
    """Those of the `rows` that lie in each of an array's chunks."""
    first = rows.start
    while first < rows.stop:
        stop = min(rows.stop, first - first % spec.chunk[0] + spec.chunk[0])
        yield range(first, stop)
        first = stop


def _each(spec: ArraySpec, checksums: bytes) -> Iterator[bytes]:
    """The checksums of an array's chunks, those with the same rows together."""
    length = spec.across * CHECKSUM_BYTES
    return (checksums[at : at + length] for at in range(0, len(checksums), length))


def _by_dimension(rows: Mapping[str, range]) -> dict[str, range]:
    """The rows of token sites by row dimension; a site's activation and its columns have one each."""
    return {dim: of_site for path, of_site in rows.items() for dim in (path, columns_of(path))}


def fragment_folders(layout: Layout) -> list[str]:
    """The folders that fragments lie in."""
    paths = [spec.path for dim, arrays in layout.arrays.items() if dim != SAMPLES for spec in arrays]
    return [f"{FRAGMENTS}/{path}" for path in paths]


def done_chunks(record: CommitRecord, markers: Mapping[int, Marker], sampler: ChunkSampler) -> set[int]:
    """The chunk rows that need no capture: those within the committed samples, and those that have markers."""
    count = -(-sampler.total // sampler.chunk_rows)
    whole = {chunk_row for chunk_row in range(count) if sampler.rows(chunk_row).stop <= record.rows}
    return whole | markers.keys()


def token_rows(
    record: CommitRecord,
    markers: Mapping[int, Marker],
    sampler: ChunkSampler,
    counts: Mapping[int, Mapping[str, int]],
) -> TokenRows:
    """Where the tokens of each chunk row go that isn't done, when the chunk rows have so many of them.

    `counts` has those of the chunk rows that aren't done, by the paths of the activations of token sites.

    Raises:
        StoreError: what is committed, or marked, doesn't fit the counts.
    """
    paths = {path for of_chunk_row in counts.values() for path in of_chunk_row}
    if paths and record.rows % sampler.chunk_rows and record.rows < sampler.total:
        raise StoreError(
            f"A store with a row for each token was stopped within a chunk row, after {record.rows} samples, by a "
            "capture in one process. Let one process complete it, without a ChunkSampler.",
            arguments=("resume",),
        )
    ends = {path: record.length(path) for path in paths}
    found: dict[int, dict[str, range]] = {}
    for chunk_row in range(record.rows // sampler.chunk_rows, -(-sampler.total // sampler.chunk_rows)):
        if chunk_row in markers:
            rows = dict(markers[chunk_row].token_rows)
            if any(rows[path].start != ends[path] for path in paths):
                raise _other_counts(chunk_row, sampler)
        else:
            rows = {path: range(end, end + counts[chunk_row][path]) for path, end in ends.items()}
            found[chunk_row] = rows
        ends = {path: rows[path].stop for path in paths}
    return found


def _other_counts(chunk_row: int, sampler: ChunkSampler) -> StoreError:
    first = sampler.rows(chunk_row).start
    return StoreError(
        f"The samples before number {first} had another number of tokens when sample {first} was captured, so the "
        "rows that are there don't follow those that would come. Give the same data and the same mask= as before; or "
        "overwrite=True, to begin anew.",
        arguments=("mask", "overwrite"),
    )
