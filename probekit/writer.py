"""Streaming into a store: chunk-rows are filled in memory, written by a thread, and committed one by one."""

from __future__ import annotations

import queue
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeAlias

import numpy as np

from probekit import layout
from probekit.errors import StoreError
from probekit.layout import ACTIVATION, Json, SiteSpec

__all__ = ["SLOTS", "Writer", "check_absent"]

SLOTS = 2  # one chunk-row is filled while the one before it is written

Array: TypeAlias = np.ndarray[Any, Any]


def check_absent(path: Path) -> None:
    """Raise StoreError where a new store can't be put at `path`."""
    if path.exists() or path.is_symlink():
        raise StoreError(
            f"{path} exists already and was left as it is. Choose another path, or pass overwrite=True (--overwrite) "
            "to replace it."
        )


class _Slot:
    """The buffers of one chunk-row, by path in the store. Reused for a writer's whole life: fresh pages are slow."""

    def __init__(self, sites: Mapping[str, SiteSpec], columns: Mapping[str, np.dtype[Any]], rows: int) -> None:
        self.arrays: dict[str, Array] = {
            path: np.empty((rows, *spec.shape), spec.dtype) for path, spec in sites.items()
        }
        # Strings as objects: a fixed width would cut the longer ones that a later batch may bring.
        self.arrays |= {name: np.empty(rows, object if dtype.kind == "U" else dtype) for name, dtype in columns.items()}
        self.filled = 0


class Writer:
    """A new store that samples are appended to.

    Args:
        path: where the store will stand; nothing may be there yet.
        sites: what each sample has.
        chunk_rows: samples in a chunk-row, the unit that is committed.
        rows: the number of samples to come, where it is known.
        columns: the dtype of each column of the samples: ``sample_id``, ``label`` where there are labels, any more.
        attrs: attributes of the root group, JSON values.

    It holds ``SLOTS * chunk_rows`` samples in memory. Use it as a context manager: its end commits the samples handed
    over so far, also when the block raises.

    Raises:
        StoreError: the path is taken, site names clash, or the disk refuses.
    """

    def __init__(
        self,
        path: Path,
        sites: Sequence[SiteSpec],
        *,
        chunk_rows: int,
        rows: int | None,
        columns: Mapping[str, np.dtype[Any]],
        attrs: Json,
    ) -> None:
        check_absent(path)
        layout.check_columns(columns)
        self.path = path
        self.committed = 0
        self._chunk_rows = chunk_rows
        self._expected = rows
        self._known_names: Sequence[str] = ()
        self._class_names: list[str] = []
        self._attrs = {**attrs, "chunk_rows": chunk_rows} | ({} if rows is None else {"expected_rows": rows})
        self._columns = dict(columns)
        groups = layout.group_names([spec.name for spec in sites], columns)
        self._paths = {f"{groups[spec.name]}/{ACTIVATION}": spec for spec in sites}
        self._failure: BaseException | None = None
        try:
            self._create(sites)
        except OSError as error:
            raise StoreError(f"{path} can't be created: {error.strerror or error}.") from error
        self._targets = {name: layout.open_for_writing(path / name) for name in (*self._paths, *self._columns)}
        self._free: queue.SimpleQueue[_Slot] = queue.SimpleQueue()
        self._full: queue.SimpleQueue[_Slot | None] = queue.SimpleQueue()
        for _ in range(SLOTS):
            self._free.put(_Slot(self._paths, self._columns, chunk_rows))
        self._filling: list[_Slot] = []
        self._thread = threading.Thread(target=self._drain, name="probekit-writer", daemon=True)
        self._thread.start()

    def reserve(self, rows: int) -> list[dict[str, Array]]:
        """Room for the next `rows` samples: by site, an array to fill; two such mappings where a chunk-row ends inside.

        Waits for the disk only while every buffer is full.

        Raises:
            StoreError: writing has failed, or the batch is larger than a chunk-row.
        """
        if rows > self._chunk_rows:
            raise StoreError(
                f"A batch of {rows} samples is larger than a chunk-row of {self._chunk_rows}, whose size the first "
                "batch set. Give batches of one size."
            )
        first = self._slot(0)
        head = min(rows, self._chunk_rows - first.filled)
        spans = [self._rows(first, first.filled, first.filled + head)]
        return spans if head == rows else [*spans, self._rows(self._slot(1), 0, rows - head)]

    def advance(self, columns: Mapping[str, Array], class_names: Sequence[str] = ()) -> None:
        """Take the reserved samples as filled.

        `columns` holds their values in each column, `class_names` the names of the classes as far as they are known;
        classes beyond are named by their code.
        """
        self._known_names = class_names
        done, rows = 0, len(columns["sample_id"])
        while done < rows:
            slot = self._slot(0)
            stop = min(self._chunk_rows, slot.filled + rows - done)
            count = stop - slot.filled
            for name in self._columns:
                slot.arrays[name][slot.filled : stop] = columns[name][done : done + count]
            slot.filled, done = stop, done + count
            if stop == self._chunk_rows:
                self._full.put(self._filling.pop(0))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._filling and self._filling[0].filled:
            self._full.put(self._filling[0])
        self._full.put(None)
        self._thread.join()
        if self._failure is None:
            self._attempt(lambda: self._finish(complete=kind is None))
        if kind is None:
            self._raise_failure()

    def _rows(self, slot: _Slot, start: int, stop: int) -> dict[str, Array]:
        return {spec.name: slot.arrays[path][start:stop] for path, spec in self._paths.items()}

    def _slot(self, index: int) -> _Slot:
        while len(self._filling) <= index:
            slot = self._free.get()
            self._raise_failure()
            slot.filled = 0
            self._filling.append(slot)
        return self._filling[index]

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise StoreError(
                f"Writing {self.path} failed: {getattr(self._failure, 'strerror', None) or self._failure}. "
                f"Its first {self.committed} samples are committed and can be read."
            ) from self._failure

    def _attempt(self, work: Callable[[], None]) -> None:
        """Do `work`; keep what it raises for the main thread, which raises it at its next call."""
        try:
            work()
        except BaseException as error:
            self._failure = error

    def _drain(self) -> None:
        while (slot := self._full.get()) is not None:
            if self._failure is None:
                self._attempt(partial(self._write, slot))
            self._free.put(slot)

    def _write(self, slot: _Slot) -> None:
        start, stop = self.committed, self.committed + slot.filled
        for name, target in self._targets.items():
            if target.shape[0] < stop:
                target.resize((stop, *target.shape[1:]))
            target[start:stop] = slot.arrays[name][: slot.filled]
        if "label" in self._columns:
            self._name_classes(self._known_names, int(slot.arrays["label"][: slot.filled].max()) + 1)
        self._commit(stop, complete=False)

    def _name_classes(self, known: Sequence[str], count: int) -> None:
        names = [*known, *map(str, range(len(known), count))]
        if len(names) > len(self._class_names):
            self._class_names = names
            layout.write_class_names(self.path, names)

    def _commit(self, rows: int, *, complete: bool) -> None:
        layout.replace(self.path / "zarr.json", self._record(rows, complete=complete))
        self.committed = rows

    def _record(self, rows: int, *, complete: bool) -> Json:
        return layout.record(
            self._nodes,
            rows=rows,
            columns=self._columns,
            class_names=self._class_names,
            attrs={**self._attrs, "complete": int(complete)},
        )

    def _finish(self, *, complete: bool) -> None:
        # Readers that ignore the record see each array's own metadata, which now has to agree with it.
        for target in self._targets.values():
            if target.shape[0] != self.committed:
                target.resize((self.committed, *target.shape[1:]))
        self._commit(self.committed, complete=complete)

    def _create(self, sites: Sequence[SiteSpec]) -> None:
        folder = self.path.with_name(f".{self.path.name}.partial")
        try:
            self._nodes = layout.create(
                folder, sites, self._columns, chunk_rows=self._chunk_rows, rows=self._expected or 0
            )
            layout.replace(folder / "zarr.json", self._record(0, complete=False))
            folder.rename(self.path)  # the store is there whole or not at all
        finally:
            shutil.rmtree(folder, ignore_errors=True)
