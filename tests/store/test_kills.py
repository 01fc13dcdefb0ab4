"""Processes that are killed before each of their file operations in turn: the old state or the new one, and no rest."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import xarray as xr

import probekit as pk
from tests import processes
from tests.models import mlp, samples
from tests.stores import contents, files, opened

X, Y = samples()
OPERATIONS = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


def capture(out: Path, seed: int = 0, rows: slice = slice(50), **options: Any) -> None:
    chosen = {
        "sites": ["1", "2"],
        "batch_size": 10,
        "memory": 2 * 20 * 33 * 4,
        "class_names": ["a", "b", "c", "d"],
    } | options
    with warnings.catch_warnings(action="ignore"):
        pk.capture(mlp(30, seed=seed), (X[rows], Y[rows]), out, **chosen)


def watch(out: Path, **options: Any) -> None:
    watching = pk.Watch(mlp(8), (X, Y), ["mean", "std"], sites="1", every=1, out=out, **options)
    for step in range(3):
        watching(step)


# What a process does to the store at `out`, and what makes of whatever it has left the same as if it had ended.


def create(out: Path) -> None:
    capture(out)


def finish_create(out: Path) -> None:
    capture(out, resume=True)


def overwrite(out: Path) -> None:
    capture(out, 1, slice(30), sites=["0"], overwrite=True)


def finish_overwrite(out: Path) -> None:
    new = "0" in opened(out).children
    capture(out, 1, slice(30), sites=["0"], overwrite=not new, resume=new)


def append_samples(out: Path) -> None:
    capture(out, rows=slice(50, 95), append="samples")


def finish_append_samples(out: Path) -> None:
    begun = pk.info(out).rows > 50 or not pk.info(out).complete
    capture(out, rows=slice(50, 95), resume=begun, append=None if begun else "samples")


def append_sites(out: Path) -> None:
    capture(out, sites="0", append="sites")


def finish_append_sites(out: Path) -> None:
    if "0" not in opened(out).children:
        append_sites(out)
    else:
        capture(out, sites=["1", "2", "0"], resume=True)  # sweeps


def repair(out: Path) -> None:
    pk.verify(out, repair=True)


def finish_repair(out: Path) -> None:
    repair(out)
    capture(out, resume=True)


def measure(out: Path) -> None:
    pk.measure(out.with_name("store"), ["mean", "median"], out=out)


def finish_measure(out: Path) -> None:
    if not out.exists():
        measure(out)
    else:
        with pytest.raises(pk.errors.StoreError, match="exists already"):
            measure(out)


def watching(out: Path) -> None:
    watch(out)


def finish_watching(out: Path) -> None:
    watch(out, resume=out.exists())


ACTIONS: dict[str, tuple[Callable[[Path], None], Callable[[Path], None]]] = {
    "create": (create, finish_create),
    "overwrite": (overwrite, finish_overwrite),
    "append samples": (append_samples, finish_append_samples),
    "append sites": (append_sites, finish_append_sites),
    "repair": (repair, finish_repair),
    "measure": (measure, finish_measure),
    "watch": (watching, finish_watching),
}


def killed(action: Callable[[Path], None], out: Path, number: int) -> None:
    """Do it until just before the file operation of this number in the folder of `out`."""
    numbers, folder = itertools.count(), str(out.parent)

    def kill(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in OPERATIONS or (event == "open" and not (arguments[2] or 0) & WRITING):
            return
        relative = not str(arguments[0]).startswith("/")  # as rmtree names what it removes
        if (relative or str(arguments[0]).startswith(folder)) and next(numbers) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(kill)
    action(out)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder in which an action begins."""
    folders: dict[str, Path] = {}

    def prepare(kind: str) -> Path:
        if kind not in folders:
            folders[kind] = folder = tmp_path_factory.mktemp(kind.replace(" ", "_"))
            if kind == "measure":
                capture(folder / "store")
            elif kind not in ("create", "watch"):
                capture(folder / "out")
            if kind == "repair":
                (folder / "out/2/activation/c/1/0").unlink()
        return folders[kind]

    return prepare


def ended(kind: str, folder: Path) -> dict[str, bytes]:
    """All that there is when nobody is killed."""
    finish = ACTIONS[kind][1]
    if kind != "repair":
        ACTIONS[kind][0](folder / "out")
    finish(folder / "out")
    return state(folder)


def state(folder: Path) -> dict[str, bytes]:
    out = folder / "out"
    found = contents(out) if (out / "1/activation").exists() or (out / "0/activation").exists() else files(out)
    return {name: content for name, content in found.items() if name != "zarr.json"} | {
        ",".join(sorted(os.listdir(folder))): b""
    }


def moments(folder: Path, kind: str, step: int, tmp_path: Path) -> Iterator[tuple[int, Path]]:
    for number in itertools.count(0, step):
        copy = Path(shutil.copytree(folder, tmp_path / f"{number}"))
        status = processes.run(killed, ACTIONS[kind][0], copy / "out", number).status
        if status == 0:
            return
        assert status == -signal.SIGKILL
        yield number, copy


@pytest.mark.parametrize(
    "step", [31, pytest.param(13, marks=pytest.mark.slow), pytest.param(1, marks=pytest.mark.long)]
)
@pytest.mark.parametrize("kind", ACTIONS)
def test_a_kill_before_any_file_operation(
    kind: str, step: int, prepared: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = prepared(kind)
    expected = ended(kind, Path(shutil.copytree(folder, tmp_path / "whole")))
    seen = 0
    for _, copy in moments(folder, kind, step, tmp_path):
        out, seen = copy / "out", seen + 1
        if out.exists() and kind in ("measure", "watch"):
            xr.open_datatree(out, engine="zarr").load()
        elif out.exists() and kind != "repair":
            assert pk.verify(out)
            opened(out).load()
        ACTIONS[kind][1](out)
        assert state(copy) == expected
        shutil.rmtree(copy)
    assert seen
