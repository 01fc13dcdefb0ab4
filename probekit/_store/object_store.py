"""Stores in object stores that fsspec knows, such as S3."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib import import_module

from zarr.abc.store import Store
from zarr.storage import FsspecStore

from probekit._files import Content, NoFileError
from probekit._store.layout import RECORD
from probekit.errors import StoreError, install_command

__all__ = ["ObjectStoreBackend"]


class ObjectStoreBackend:
    """An object store that fsspec knows by a URL such as ``s3://bucket/acts.zarr``.

    It promises this: an object is put there whole or not at all, and replaced whole; when that is done it stays, for
    every reader. So rows are committed as in a folder: a stopped or killed capture leaves a whole prefix, and resumes
    to bit-identical results.

    It doesn't promise this: there is no lock, so users must keep two writers off one store, which would ruin it. A new
    store appears with its record, the last of its objects. A store that is removed disappears with its record, the
    first; a kill in the middle leaves other objects, which take room until they are removed by hand or overwritten.
    """

    parallel = 8  # each waits for the network most of the time
    begin = None

    def __init__(self, url: str) -> None:
        self.url = url
        try:
            self._files, self._root = import_module("fsspec").core.url_to_fs(url, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise StoreError(
                f"{url} can't be reached: {error}. Install what it needs, such as: {install_command('s3')}."
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

    def left_beside(self) -> list[str]:
        return []  # nothing is put there under another name

    def free(self) -> int | None:
        return None

    def lock(self) -> AbstractContextManager[object]:
        return nullcontext()

    def create(self, files: Mapping[str, bytes]) -> None:
        with ThreadPoolExecutor(self.parallel, "probekit-create") as pool:
            list(pool.map(lambda key: self.write(key, [files[key]]), files.keys() - {RECORD}))
        self.write(RECORD, [files[RECORD]])  # last: with it the store is there

    def read(self, key: str, most: int) -> bytes:
        size = self.size(key)
        if size > most:
            raise NoFileError(errno.EFBIG, f"wrong length: {size} bytes, more than {most}", key)
        with self._reached():
            return bytes(self._files.cat_file(f"{self._root}/{key}"))

    def size(self, key: str) -> int:
        with self._reached():
            return int(self._files.info(f"{self._root}/{key}")["size"])

    def write(self, key: str, contents: Iterable[Content]) -> None:
        with self._reached():
            whole = b"".join(each if isinstance(each, bytes) else each.data for each in contents)
            self._files.pipe_file(f"{self._root}/{key}", whole)

    def commit(self, key: str, content: bytes) -> None:
        self.write(key, [content])

    def make_room(self, keys: Iterable[str]) -> None:
        """Nothing: objects need no folders."""

    def used(self, key: str) -> int:
        with self._reached():
            return int(self._files.du(f"{self._root}/{key}"))

    def names(self, key: str) -> list[str]:
        folder = f"{self._root}/{key}".rstrip("/")
        with self._reached():
            listed = self._files.ls(folder, detail=False) if self._files.isdir(folder) else []
        return [name.rpartition("/")[2] for name in listed]

    def delete(self, key: str) -> None:
        """Remove the object or all objects under `key`, where there are any."""
        with self._reached():
            found = self._files.find(f"{self._root}/{key}".rstrip("/"))
            if found:  # one by one: a recursive removal could take the bucket too
                self._files.rm(found)

    def for_zarr(self) -> Store:
        return FsspecStore.from_url(self.url, read_only=True)
