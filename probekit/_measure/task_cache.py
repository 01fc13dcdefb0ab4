"""The results of finished tasks, on disk, so that a measurement that is started again doesn't compute them again."""

from __future__ import annotations

import hashlib
import inspect
import json
import shutil
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

import google_crc32c
import numpy as np
import torch

from probekit._files import whole_file
from probekit._measure.tasks import Task, TaskResult
from probekit._results.files import as_store_errors, require_absent
from probekit._store.codec import checksum_bytes, is_sound_chunk
from probekit._store.layout import CHECKSUM_BYTES
from probekit._store.local import locked
from probekit._version import __version__
from probekit.errors import StoreError
from probekit.metrics import Metric, Variables

__all__ = ["TaskCache", "key_of"]


def key_of(metrics: Sequence[Metric], **others: Any) -> str:
    """A digest of what the results of a measurement depend on: the metrics, their code, and `others`."""
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


class TaskCache:
    """The folder beside a result that isn't finished: a file for the result of each finished task, with its checksum.

    Use it as a context manager: its end removes the folder, unless the measurement was stopped before its results were
    written and another one can use what is there.

    Args:
        out: where the results will stand.
        key: what the task results depend on; those of another key are thrown away. For None they can't be used later.

    Raises:
        StoreError: something stands at `out`, the folder can't be written, or another process writes into it.
    """

    def __init__(self, out: Path, key: str | None) -> None:
        self._out, self._key = out, key
        self._folder = out.with_name(f".{out.name}.parts")
        if out.exists() and self._folder.is_dir():  # a kill came between the result and the end of this
            with suppress(StoreError), locked(self._folder / "lock", "It is being written."):
                shutil.rmtree(self._folder, ignore_errors=True)
        require_absent(out)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack, as_store_errors(str(self._out)):
            self._folder.mkdir(parents=True, exist_ok=True)
            stack.callback(self._remove)
            refusal = f"Another process is measuring into {self._out}. Wait for it, or give another path."
            stack.enter_context(locked(self._folder / "lock", refusal))
            self._begin()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _begin(self) -> None:
        for left in self._folder.glob("*.partial"):
            left.unlink()
        named = self._folder / "key"
        if named.exists() and named.read_text() == self._key:
            return
        for old in self._folder.glob("*.piece"):
            old.unlink()
        with whole_file(named) as file:
            file.write((self._key or "").encode())

    def find(self, task: Task) -> TaskResult | None:
        """The result of a task, if it was finished."""
        try:
            data = self._path(task).read_bytes()
        except FileNotFoundError:
            return None
        if not is_sound_chunk(data):
            return None  # the task runs again
        found = torch.load(BytesIO(data[:-CHECKSUM_BYTES]), weights_only=True)
        variables, repeats = (
            {metric: _arrays(of) for metric, of in found[kind].items()} for kind in ("variables", "repeats")
        )
        return TaskResult(found["states"], variables, repeats)

    def keep(self, task: Task, result: TaskResult) -> None:
        """Have the result on the disk, whole or not at all."""
        variables = {metric: _tensors(of) for metric, of in result.variables.items()}
        repeats = {metric: _tensors(of) for metric, of in result.repeats.items()}
        packed = BytesIO()  # errors of a full disk that torch.save meets don't say what they are
        torch.save({"states": result.states, "variables": variables, "repeats": repeats}, packed)
        content = packed.getvalue()
        with as_store_errors(str(self._out)), whole_file(self._path(task)) as file:
            file.write(content)
            file.write(checksum_bytes(google_crc32c.value(content)))

    def _remove(self) -> None:
        if self._key is None or self._out.exists():
            shutil.rmtree(self._folder, ignore_errors=True)

    def _path(self, task: Task) -> Path:
        name = hashlib.blake2b(json.dumps(asdict(task)).encode(), digest_size=12).hexdigest()
        return self._folder / f"{name}.piece"


def _tensors(variables: Variables) -> dict[str, tuple[list[str], torch.Tensor]]:
    return {
        name: (list(dims), torch.from_numpy(np.require(array, requirements=["C", "W"])))
        for name, (dims, array) in variables.items()
    }


def _arrays(variables: dict[str, Any]) -> Variables:
    return {name: (tuple(dims), tensor.numpy()) for name, (dims, tensor) in variables.items()}
