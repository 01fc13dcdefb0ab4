"""What a measurement has finished, on disk, so that none of it is computed again when it is started again."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from filelock import FileLock, Timeout

from probekit._measure.tasks import Piece, Task
from probekit._results.assemble import as_store_errors, require_absent
from probekit._version import __version__
from probekit.errors import StoreError
from probekit.metrics import Metric, Variables

__all__ = ["Parts", "key_of"]


def key_of(metrics: Sequence[Metric], **others: Any) -> str:
    """A digest of what the pieces of a measurement depend on: the metrics, their code, and `others`."""
    described = [(m.name, m.version, dict(m.parameters), _source(m)) for m in metrics]
    text = json.dumps([__version__, described, others], default=repr, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _source(metric: Metric) -> str:
    """The source of a metric's own module, whose change may change its numbers; without one, what is never the same."""
    written = inspect.unwrap(metric) if callable(metric) else type(metric)
    try:
        return inspect.getsource(inspect.getmodule(written) or written)
    except (OSError, TypeError):  # typed in at a prompt, where a name may soon mean something else
        return uuid4().hex


class Parts:
    """The folder beside a result that isn't finished, with a file for each finished task.

    Args:
        out: where the result will stand.
        key: what the pieces depend on; those of another key are thrown away. For None, they are of no use later.

    Raises:
        StoreError: something stands at `out`, the folder can't be written, or another process writes into it.
    """

    def __init__(self, out: Path, key: str | None) -> None:
        require_absent(out)
        self._out, self._key = out, key
        self._folder = out.with_name(f".{out.name}.parts")
        with as_store_errors(str(out)):
            self._folder.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(self._folder / "lock", timeout=0)
        try:
            self._lock.acquire()
        except Timeout as error:
            raise StoreError(f"Another process is measuring into {out}. Wait for it, or give another path.") from error
        with as_store_errors(str(out)):
            self._begin()

    def _begin(self) -> None:
        named = self._folder / "key"
        if named.exists() and named.read_text() == self._key:
            return
        for old in self._folder.glob("*.piece"):
            old.unlink()
        named.write_text(self._key or "")

    def find(self, task: Task) -> Piece | None:
        """The piece of a task, if it was finished."""
        try:
            found = torch.load(self._path(task), weights_only=True)
        except FileNotFoundError:
            return None
        variables = {metric: _arrays(of) for metric, of in found["variables"].items()}
        return Piece(found["states"], variables)

    def keep(self, task: Task, piece: Piece) -> None:
        """Have the piece on the disk, whole or not at all."""
        variables = {metric: _tensors(of) for metric, of in piece.variables.items()}
        path = self._path(task)
        partial = path.with_suffix(".partial")
        with as_store_errors(str(self._out)):
            with open(partial, "wb") as file:
                torch.save({"states": piece.states, "variables": variables}, file)
            os.replace(partial, path)

    def close(self) -> None:
        """Let others measure. The pieces go where the result stands, or nothing can be made of them."""
        self._lock.release()
        if self._key is None or self._out.exists():
            shutil.rmtree(self._folder, ignore_errors=True)

    def _path(self, task: Task) -> Path:
        name = hashlib.blake2b(json.dumps(asdict(task)).encode(), digest_size=12).hexdigest()
        return self._folder / f"{name}.piece"


def _tensors(variables: Variables) -> dict[str, tuple[list[str], torch.Tensor]]:
    return {name: (list(dims), torch.from_numpy(array.copy())) for name, (dims, array) in variables.items()}


def _arrays(variables: dict[str, Any]) -> Variables:
    return {name: (tuple(dims), tensor.numpy()) for name, (dims, tensor) in variables.items()}
