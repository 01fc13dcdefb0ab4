"""Where a store's bytes lie: a folder, or a bucket of an object store. A key is a path within the store."""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeAlias

import numpy as np
from filelock import FileLock, Timeout

from probekit._store.layout import RECORD
from probekit.errors import StoreError

__all__ = ["Folder", "GrowingFile", "Place", "place_of"]

Part: TypeAlias = np.ndarray[Any, Any] | bytes

LOCK = ".lock"
_BUFFER = 256 * 1024  # bytes that are worth a call of the system
_BLOCK = 512 * 1024  # bytes a call: of 2 MB Linux keeps them in huge pages, which it has to find or have cleared first
_NEW = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
_KEEP_SIZE = 1  # of fallocate(2): the file stays as long as it is

# Not os.posix_fallocate, which writes to every block itself where the file system can't do it.
_fallocate = getattr(ctypes.CDLL(None), "fallocate", None) if sys.platform == "linux" else None


class Place(Protocol):
    """What a store needs of the place where it lies. `write` puts a file there whole, or leaves what was there."""

    url: str
    parallel: int  # files that are worth writing at a time

    def exists(self) -> bool: ...
    def is_folder(self) -> bool: ...
    def neighbours(self) -> list[str]: ...
    def free(self) -> int | None: ...
    def lock(self) -> AbstractContextManager[object]: ...
    def create(self, files: Mapping[str, bytes]) -> None: ...
    def read(self, key: str) -> bytes: ...
    def size(self, key: str) -> int: ...
    def write(self, key: str, parts: Iterable[Part]) -> None: ...
    def commit(self, key: str, content: bytes) -> None: ...
    def make_room(self, keys: Iterable[str]) -> None: ...
    def used(self, key: str) -> int: ...
    def names(self, key: str) -> list[str]: ...
    def delete(self, key: str) -> None: ...
    def remove(self) -> None: ...


def place_of(path: str | Path, *, durable: bool = False) -> Place:
    """The place that `path` names: a folder, or a URL such as ``s3://bucket/acts.zarr``.

    Args:
        path: the store's.
        durable: have each file on the disk before the commit record that counts on it.

    Raises:
        StoreError: there is no package for such a URL, or `durable` is asked of a URL.
    """
    text = str(path)
    if isinstance(path, Path) or "://" not in text:
        return Folder(Path(path), durable)
    if durable:
        raise StoreError(f"durable=True is for folders; an object store such as {text} has what it has confirmed.")
    return Bucket(text)


class Folder:
    """A folder. With `durable`, what `commit` puts there outlives a power loss, and so does all written before."""

    parallel = 1

    def __init__(self, path: Path, durable: bool = False) -> None:
        self.path = path
        self.url = str(path)
        self._durable = durable
        self._unsettled: set[str] = set()  # folders with entries that may not be on the disk yet

    def exists(self) -> bool:
        return self.path.exists() or self.path.is_symlink()

    def is_folder(self) -> bool:
        return self.path.is_dir()

    def neighbours(self) -> list[str]:
        """The names that lie beside the store."""
        return [entry.name for entry in self.path.parent.iterdir()] if self.path.parent.is_dir() else []

    def free(self) -> int | None:
        """Bytes that the place has left, None where there is no bound."""
        return shutil.disk_usage(next(parent for parent in self.path.absolute().parents if parent.exists())).free

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the store for writing; the system lets go of it when the process dies.

        Raises:
            StoreError: another process holds it, it can't be written, or it leads elsewhere.
        """
        self._refuse_links()
        file = self.path / LOCK
        try:
            with FileLock(file, timeout=0):
                try:
                    yield
                finally:
                    file.unlink(missing_ok=True)
        except Timeout as error:
            raise StoreError(
                f"{self.path} is being written by another process. Wait until it is done or stop it; what it committed "
                "stays, and resume=True (--resume) goes on from there."
            ) from error
        except OSError as error:
            if error.filename != str(file):
                raise
            raise StoreError(f"{self.path} can't be written: {error.strerror}.") from error

    def _refuse_links(self) -> None:
        """Raise StoreError where a folder of tiles leads out of the store: what is written there would land elsewhere.

        Tiles lie in ``group/array/c``; below that the writer makes folders of its own.
        """
        folders = [self.path]
        for _ in range(3):
            entries = [entry for folder in folders for entry in os.scandir(folder)]
            for entry in entries:
                if entry.is_symlink():
                    raise StoreError(
                        f"{entry.path} is a link, which no writer of a store makes, so nothing is written to "
                        f"{self.path}. Put what it leads to in its place."
                    )
            folders = [Path(entry.path) for entry in entries if entry.name != "c" and entry.is_dir()]

    def create(self, files: Mapping[str, bytes]) -> None:
        """Put a new store there, whole or not at all."""
        partial = self.path.with_name(f".{self.path.name}.{os.getpid()}.partial")
        try:
            partial.mkdir(parents=True)
            for key, content in files.items():
                (partial / key).parent.mkdir(parents=True, exist_ok=True)
                (partial / key).write_bytes(content)
            partial.rename(self.path)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def read(self, key: str) -> bytes:
        return (self.path / key).read_bytes()

    def size(self, key: str) -> int:
        return (self.path / key).stat().st_size

    def write(self, key: str, parts: Iterable[Part]) -> None:
        file = self.begin(key)
        try:
            for part in parts:
                file.write(part)
            file.end()
        except OSError:
            file.drop()
            raise

    def begin(self, key: str) -> GrowingFile:
        """A file to be written bit by bit."""
        return GrowingFile(self.path, key, self._durable, self._unsettled)

    def commit(self, key: str, content: bytes) -> None:
        """Write `key` after everything that was written before it is there to stay."""
        self._settle()
        self.write(key, [content])
        self._settle()

    def _settle(self) -> None:
        for folder in self._unsettled if self._durable else ():
            _sync(folder)
        self._unsettled.clear()

    def make_room(self, keys: Iterable[str]) -> None:
        """Make the folders that tiles will be written into, below which `write` makes more."""
        for key in keys:
            (self.path / key).mkdir(parents=True, exist_ok=True)

    def used(self, key: str) -> int:
        """Bytes of everything under `key`."""
        found = 0
        for folder, _, files in os.walk(self.path / key):
            for file in files:
                with suppress(FileNotFoundError):  # a writer renames what it has written
                    found += os.lstat(os.path.join(folder, file)).st_size
        return found

    def names(self, key: str) -> list[str]:
        """The names of the files in the folder `key`, none where there is no such folder."""
        folder = self.path / key
        return [file.name for file in folder.iterdir() if file.suffix != ".partial"] if folder.is_dir() else []

    def delete(self, key: str) -> None:
        """Remove the file or the folder `key`, where it exists."""
        target = self.path / key
        if target.is_dir():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)

    def remove(self) -> None:
        shutil.rmtree(self.path)


class GrowingFile:
    """A file of a folder that is written bit by bit under another name, and appears when it ends, whole.

    With `durable` it is on the disk then; `unsettled` gets the folders with entries that may not be.
    """

    def __init__(self, folder: Path, key: str, durable: bool, unsettled: set[str]) -> None:
        self._target = os.path.join(folder, key)
        self._partial = f"{self._target}.partial"
        self._durable, self._unsettled = durable, unsettled
        self._touched = {os.path.dirname(self._target)}
        try:
            descriptor = self._open()
        except FileNotFoundError:
            self._make_folders(os.path.join(folder, key.partition("/c/")[0], "c"))
            descriptor = self._open()
        self._file: BinaryIO = open(descriptor, "wb", buffering=_BUFFER)  # noqa: SIM115  # closed by `end` or `drop`

    def _open(self) -> int:
        """Open the file to write it, unless it is a link, which a store of unknown origin may hold."""
        return os.open(self._partial, _NEW, 0o666)

    def _make_folders(self, root: str) -> None:
        """Make the folders of a new row of tiles; where the array's own is missing, someone has removed the store."""
        folder = os.path.dirname(self._target)
        try:
            os.mkdir(folder)
        except FileNotFoundError:
            os.stat(root)
            os.makedirs(folder, exist_ok=True)
        while len(folder) > len(root):
            folder = os.path.dirname(folder)
            self._touched.add(folder)

    def reserve(self, length: int) -> None:
        """Have so many bytes found on the disk, where that can be: to write them then takes three quarters of the time.

        What there is no room for `write` will say.
        """
        if _fallocate is not None:
            _fallocate(self._file.fileno(), _KEEP_SIZE, ctypes.c_int64(0), ctypes.c_int64(length))

    def write(self, part: Part) -> None:
        content = memoryview(part) if isinstance(part, bytes) else part.data
        if content.nbytes <= _BLOCK:
            self._file.write(content)
            return
        content = np.frombuffer(content, np.uint8).data
        for start in range(0, len(content), _BLOCK):
            self._file.write(content[start : start + _BLOCK])

    def skip(self, length: int) -> None:
        """Leave so many bytes zero, without a byte of work or of the disk; something has to follow."""
        if length:
            self._file.truncate()  # gives back what was reserved
            self._file.seek(length, os.SEEK_CUR)

    def cut(self, length: int) -> bytes:
        """Keep the first `length` bytes, and say which they are."""
        self._file.truncate(length)
        self._file.seek(length)
        return Path(self._partial).read_bytes()

    def end(self) -> None:
        if self._durable:
            self._file.flush()
            os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self._partial, self._target)
        self._unsettled |= self._touched

    def drop(self) -> None:
        """Leave nothing of it."""
        for leave in (self._file.close, partial(os.unlink, self._partial)):
            with suppress(OSError):  # what is wrong has been said
                leave()


def _sync(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Bucket:
    """A place that fsspec knows by its URL, such as ``s3://bucket/acts.zarr``.

    What holds: an object is put there whole or not at all, and replaced whole; it is there to stay, for every reader,
    when that is done. So rows are committed as in a folder: a stopped or killed capture leaves a whole prefix, and is
    gone on with to the same bits.

    What doesn't: there is no lock, so two writers on one store, which ruin it, are the user's to avoid. A new store
    appears with its record, the last of its objects; a store that is removed is gone with its record, the first, and
    what a kill in the middle leaves of the others takes room until it is removed by hand or written over.
    """

    parallel = 8  # each waits for the network most of the time

    def __init__(self, url: str) -> None:
        self.url = url
        try:
            self._files, self._root = import_module("fsspec").core.url_to_fs(url, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise StoreError(
                f"{url} can't be reached: {error}. Install what it needs, such as: pip install 'probekit[s3]'"
            ) from error

    @contextmanager
    def _reached(self) -> Iterator[None]:
        """Turn what its client raises, of kinds of its own, into StoreError; but for what isn't there."""
        try:
            yield
        except FileNotFoundError:
            raise
        except Exception as error:
            raise StoreError(f"{self.url} can't be reached: {type(error).__name__}: {error}") from error

    def exists(self) -> bool:
        try:
            self.size(RECORD)
        except FileNotFoundError:
            return False
        return True

    def is_folder(self) -> bool:
        with self._reached():
            return bool(self._files.isdir(self._root))

    def neighbours(self) -> list[str]:
        folder = self._root.rpartition("/")[0]
        with self._reached():
            listed = self._files.ls(folder, detail=False) if self._files.exists(folder) else []
        return [name.rstrip("/").rpartition("/")[2] for name in listed]

    def free(self) -> int | None:
        return None

    def lock(self) -> AbstractContextManager[object]:
        return nullcontext()

    def create(self, files: Mapping[str, bytes]) -> None:
        with ThreadPoolExecutor(self.parallel, "probekit-create") as pool:
            list(pool.map(lambda key: self.write(key, [files[key]]), files.keys() - {RECORD}))
        self.write(RECORD, [files[RECORD]])  # last: with it the store is there

    def read(self, key: str) -> bytes:
        with self._reached():
            return bytes(self._files.cat_file(f"{self._root}/{key}"))

    def size(self, key: str) -> int:
        with self._reached():
            return int(self._files.info(f"{self._root}/{key}")["size"])

    def write(self, key: str, parts: Iterable[Part]) -> None:
        with self._reached():
            whole = b"".join(part if isinstance(part, bytes) else part.data for part in parts)
            self._files.pipe_file(f"{self._root}/{key}", whole)

    def commit(self, key: str, content: bytes) -> None:
        self.write(key, [content])

    def make_room(self, keys: Iterable[str]) -> None:
        """Nothing: objects need no folders."""

    def used(self, key: str) -> int:
        with self._reached():
            return int(self._files.du(f"{self._root}/{key}"))

    def names(self, key: str) -> list[str]:
        folder = f"{self._root}/{key}"
        listed = self._files.ls(folder, detail=False) if self._files.isdir(folder) else []
        return [name.rpartition("/")[2] for name in listed]

    def delete(self, key: str) -> None:
        """Remove the object or all objects under `key`, where there are any."""
        with self._reached():
            found = self._files.find(f"{self._root}/{key}".rstrip("/"))
            if found:  # one by one: a recursive removal could take the bucket too
                self._files.rm(found)

    def remove(self) -> None:
        self.delete(RECORD)  # first: without it there is no store
        self.delete("")
