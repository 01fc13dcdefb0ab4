"""Files that are there whole or not at all: written under another name, and renamed when they are done."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias
from urllib.parse import urlsplit
from urllib.request import url2pathname

import numpy as np

from probekit.errors import DataError, ProbekitError, check_kind

__all__ = [
    "PARTIAL",
    "Content",
    "NoFileError",
    "PartialFile",
    "is_url",
    "leftovers",
    "local_path",
    "open_regular",
    "read_regular",
    "sweep",
    "whole_file",
    "whole_folder",
]

Content: TypeAlias = np.ndarray[Any, Any] | bytes  # of a file, or of a stretch of it

_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
_READ = os.O_RDONLY | _NO_LINK | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)  # a pipe isn't waited for
PARTIAL = ".partial"  # ends the name of what is to be renamed
_RANDOM_BYTES = 6
_BUFFER = 256 * 1024  # bytes that are worth a call of the system
_BLOCK = 512 * 1024  # bytes a call: of 2 MB Linux keeps them in huge pages, which it has to find or have cleared first
_NEW = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _NO_LINK | getattr(os, "O_BINARY", 0)
_KEEP_SIZE = 1  # of fallocate(2): the file stays as long as it is

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

_URL_AS_PATH = re.compile(r"[a-z][a-z0-9+.-]+:/(?!/)")

# Not os.posix_fallocate, which writes to every block itself where the file system can't do it.
_fallocate = getattr(ctypes.CDLL(None), "fallocate", None) if sys.platform == "linux" else None


class PartialFile:
    """A file that is written bit by bit under another name, and appears at `path` when it ends, whole.

    Args:
        path: where it appears.
        partial: the name until then; it mustn't be a link, which a store of unknown origin may hold.
        durable: have it on the disk before it appears.
        appeared: called when it has.
    """

    def __init__(
        self, path: str, partial: str, *, durable: bool = False, appeared: Callable[[], None] | None = None
    ) -> None:
        self._path, self._partial = path, partial
        self._durable, self._appeared = durable, appeared
        descriptor = os.open(partial, _NEW, 0o666)
        self.stream: BinaryIO = open(descriptor, "wb", buffering=_BUFFER)  # noqa: SIM115  # closed by `end` or `drop`

    def reserve(self, length: int) -> None:
        """Have so many bytes found on the disk, where that can be: to write them then takes three quarters of the time.

        Where there is no room, `write` says so.
        """
        if _fallocate is not None:
            _fallocate(self.stream.fileno(), _KEEP_SIZE, ctypes.c_int64(0), ctypes.c_int64(length))

    def write(self, content: Content) -> None:
        view = memoryview(content) if isinstance(content, bytes) else content.data
        if view.nbytes <= _BLOCK:
            self.stream.write(view)
            return
        view = np.frombuffer(view, np.uint8).data
        for start in range(0, len(view), _BLOCK):
            self.stream.write(view[start : start + _BLOCK])

    def skip(self, length: int) -> None:
        """Leave so many bytes zero, without a byte of work or of the disk; something has to follow."""
        if length:
            self.stream.truncate()  # gives back what was reserved
            self.stream.seek(length, os.SEEK_CUR)

    def cut(self, length: int) -> bytes:
        """Keep the first `length` bytes, and say which they are."""
        self.stream.truncate(length)
        self.stream.seek(length)
        return Path(self._partial).read_bytes()

    def end(self) -> None:
        if self._durable:
            self.stream.flush()
            os.fsync(self.stream.fileno())
        self.stream.close()
        os.replace(self._partial, self._path)
        if self._appeared is not None:
            self._appeared()

    def drop(self) -> None:
        """Leave nothing of it."""
        for leave in (self.stream.close, partial(os.unlink, self._partial)):
            with suppress(OSError):  # what is wrong has been said
                leave()


def local_path(path: str | os.PathLike[str], name: str, error: type[ProbekitError] = DataError) -> Path:
    """The path that a user's `path` means: ``~`` is the home folder, and ``file:///data/a`` the path ``/data/a``.

    Args:
        path: what the user gave as the argument `name`.
        error: the kind that is raised.

    Raises:
        ProbekitError: it is no path, another URL, or of a home folder that there isn't.

    >>> str(local_path("file:///data/my%20store.zarr", "out"))
    '/data/my store.zarr'
    """
    check_kind(name, path, (str, os.PathLike), "a path", error)
    text = os.fspath(path)
    if is_url(text) or text.startswith("file:"):
        parts = urlsplit(text)
        if parts.scheme != "file" or parts.netloc not in ("", "localhost"):
            raise error(f"{name} is {text!r}; it has to be a path, or a URL such as file:///data.", arguments=(name,))
        return Path(url2pathname(parts.path))
    if _URL_AS_PATH.match(text) and not Path(text).parents[-2].exists():
        raise error(f"{name} is {text!r}, a URL that pathlib has taken a slash from. Give a string.", arguments=(name,))
    try:
        return Path(text).expanduser()
    except RuntimeError as fault:
        raise error(f"{text!r} begins with the home folder of a user who isn't there.", arguments=(name,)) from fault


def is_url(text: str) -> bool:
    """Whether a path of a user's is a URL, such as ``s3://bucket/acts.zarr``."""
    return "://" in text


class NoFileError(OSError):
    """Something stands where a file should, and is none: a link, a device, a folder, or a file of another size."""


def open_regular(path: str | os.PathLike[str]) -> BufferedReader:
    """A file to be read, of a folder of unknown origin: opening never waits, and leads to nothing but a file.

    Raises:
        NoFileError: there is a link, a device or another thing.
        OSError: there is nothing, or it can't be read.
    """
    try:
        descriptor = os.open(path, _READ)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise NoFileError(errno.ELOOP, "it is a link", os.fspath(path)) from error
        if error.errno in (errno.ENXIO, errno.ENOTDIR):  # a socket; a file where a folder should be
            raise NoFileError(error.errno, "it is no file", os.fspath(path)) from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise NoFileError(errno.EINVAL, "it is no file", os.fspath(path))
    return open(descriptor, "rb")


def read_regular(path: str | os.PathLike[str], most: int) -> bytes:
    """What a file of a folder of unknown origin holds.

    Raises:
        NoFileError: there is a link, a device or another thing, or a file of more than `most` bytes.
        OSError: there is nothing, or it can't be read.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise NoFileError(errno.EFBIG, f"wrong length: {size} bytes, more than {most}", os.fspath(path))
        return file.read(size + 1)


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A stream whose bytes appear at `path` when the block ends; where it raises, what was there stays.

    What a process that was killed has left of such a file is removed.
    """
    target = Path(path)
    sweep(target.parent, f"{target.name}.")
    file = PartialFile(os.fspath(path), f"{os.fspath(path)}.{_random()}{PARTIAL}")
    try:
        _hold(file.stream.fileno())
        yield file.stream
        file.end()
    except BaseException:
        file.drop()
        raise


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder that appears at `path` when the block ends; where it raises, there is nothing.

    What a process that was killed has left of such a folder is removed.

    Raises:
        OSError: something stands at `path`.
    """
    sweep(path.parent, f".{path.name}.")
    partial = path.with_name(f".{path.name}.{_random()}{PARTIAL}")
    try:
        partial.mkdir(parents=True)  # which an interrupt may follow at once
        descriptor = os.open(partial, os.O_RDONLY)
        try:
            _hold(descriptor)
            yield partial
            partial.rename(path)
        finally:
            os.close(descriptor)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def leftovers(folder: Path, prefix: str) -> list[Path]:
    """What lies in a folder under a name that begins so and was to be renamed, and whose writer has died."""
    if not folder.is_dir():
        return []
    found = [entry for entry in folder.iterdir() if entry.name.startswith(prefix) and _is_partial(entry.name)]
    return [entry for entry in found if not _is_held(entry)]


def sweep(folder: Path, prefix: str) -> None:
    """Remove the `leftovers`."""
    for entry in leftovers(folder, prefix):
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)


def _hold(descriptor: int) -> None:
    """Show others that what is open has a living writer, where the file system lets them see it; until it is closed."""
    if fcntl is not None:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_held(path: Path) -> bool:
    """Whether the writer of a file or a folder lives, or can't be known to have died."""
    if fcntl is None or path.is_symlink():
        return True
    try:
        descriptor = os.open(path, os.O_RDONLY | _NO_LINK)
    except OSError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def _is_partial(name: str) -> bool:
    """Whether a name ends as those of files and folders that are to be renamed."""
    return re.search(rf"\.[0-9a-f]{{{2 * _RANDOM_BYTES}}}{re.escape(PARTIAL)}$", name) is not None


def _random() -> str:
    return os.urandom(_RANDOM_BYTES).hex()
