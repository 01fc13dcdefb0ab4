"""Where a store's bytes lie: the protocol of a backend, and the backend that a path or a URL names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from zarr.abc.store import Store

from probekit._files import Content, PartialFile, is_url, local_path
from probekit._store.local import LocalBackend
from probekit._store.object_store import ObjectStoreBackend
from probekit.errors import StoreError

__all__ = ["Backend", "backend_of"]


class Backend(Protocol):
    """The operations that a store needs of the place where its bytes lie. A key is a path within the store.

    A backend raises FileNotFoundError for a key that isn't there, and for all else that goes wrong an OSError or a
    StoreError.
    """

    url: str  # by which users know the store
    parallel: int  # how many files are worth writing at a time

    @property
    def begin(self) -> Callable[[str], PartialFile] | None:
        """Begins a file, by its key, that is written bit by bit; None where the backend puts whole files only."""

    def exists(self) -> bool:
        """Whether a store, or anything else, is there."""

    def is_folder(self) -> bool:
        """Whether there is a folder, of a store or not."""

    def neighbours(self) -> list[str]:
        """The names beside the store."""

    def left_beside(self) -> list[str]:
        """The names beside the store that writers of it left when they were killed."""

    def free(self) -> int | None:
        """Bytes that can still be written, None where there is no limit."""

    def lock(self) -> AbstractContextManager[object]:
        """Keep other writers away, as far as the backend can."""

    def create(self, files: Mapping[str, bytes]) -> None:
        """Put a new store there, whole or not at all."""

    def read(self, key: str, most: int) -> bytes:
        """What a file holds; NoFileError where it isn't one, or has more than `most` bytes."""

    def size(self, key: str) -> int: ...

    def write(self, key: str, contents: Iterable[Content]) -> None:
        """Put a file there whole, or leave what was there."""

    def commit(self, key: str, content: bytes) -> None:
        """`write` a file after everything that was written before it is there to stay."""

    def make_room(self, keys: Iterable[str]) -> None:
        """Make the folders that files will be written into."""

    def used(self, key: str) -> int:
        """Bytes of everything under a key."""

    def names(self, key: str) -> list[str]:
        """The names of what a folder holds, none where there is no such folder; ``""`` is the store's own."""

    def delete(self, key: str) -> None:
        """Remove a file or a folder, where it exists."""

    def for_zarr(self) -> Store:
        """The store as zarr reads it."""


def backend_of(path: str | Path, *, durable: bool = False) -> Backend:
    """The backend that `path` names: a folder, also as ``~/acts.zarr``, or a URL such as ``s3://bucket/acts.zarr``.

    Args:
        path: the store's.
        durable: have each file on the disk before the commit record that counts on it.

    Raises:
        StoreError: it is no path, there is no package for such a URL, or `durable` is asked of a URL.
    """
    if not isinstance(path, str) or not is_url(path) or path.startswith("file:"):
        return LocalBackend(local_path(path, "the path of a store", StoreError), durable)
    if durable:
        raise StoreError(
            f"durable=True is for folders; an object store such as {path} has what it has confirmed.",
            arguments=("durable",),
        )
    return ObjectStoreBackend(path)
