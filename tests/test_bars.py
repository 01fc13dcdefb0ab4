"""Progress bars: where someone watches, and nowhere else."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any

import pytest
import torch

import probekit as pk
from probekit import _bars
from probekit._bars import Bars, beside_bars, default
from probekit.errors import DataError
from probekit.progress import silent

ROOT = Path(__file__).parents[1]
SLOW = """
import time
import probekit as pk
from probekit._bars import Bars
with pk.options(progress={progress}):
    from probekit._bars import default
    for _ in default(None)(range(4), "count\\x1b[2J sheep", 4):
        time.sleep(0.3)
print("done")
"""


def on_a_terminal(code: str, **environment: str) -> str:
    """What a program prints on stderr, where that is a terminal."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    run = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=theirs,
        cwd=ROOT,
        env={**os.environ, **environment},
    )
    os.close(theirs)
    found = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # the terminal's other end is closed
            break
        if not part:
            break
        found += part
    os.close(ours)
    out, _ = run.communicate(timeout=60)
    assert out == b"done\n"
    return found.decode()


def test_a_terminal_shows_rate_and_time_left() -> None:
    shown = on_a_terminal(SLOW.format(progress=True))
    assert "count\N{REPLACEMENT CHARACTER}[2J sheep" in shown
    assert "3/4" in shown
    assert "/s]" in shown or "s/" in shown
    assert "<00:0" in shown


def test_it_can_be_turned_off_and_ranks_but_the_first_are_quiet() -> None:
    assert on_a_terminal(SLOW.format(progress=False)) == ""
    assert on_a_terminal(SLOW.format(progress=True), RANK="1") == ""


def test_what_is_quick_has_no_bar() -> None:
    assert "quick" not in on_a_terminal(SLOW.format(progress=True).replace("0.3", "0.001"))


def test_pipes_stay_quiet() -> None:
    done = subprocess.run([sys.executable, "-c", SLOW.format(progress=True)], cwd=ROOT, capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"done\n", b"")


def test_a_notebook_has_bars_although_its_stderr_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_bars, "_in_notebook", lambda: True)
    monkeypatch.setattr(_bars, "find_spec", lambda name: None)  # without ipywidgets
    monkeypatch.setattr(_bars, "_DELAY", 0)
    outer = Bars()
    for _ in outer(range(2), "outer"):
        assert list(outer(iter("ab"), "inner", 2)) == ["a", "b"]
        with beside_bars():
            print("between", file=sys.stderr)
    told = capsys.readouterr().err
    assert "inner:" in told
    assert "outer:" in told
    assert "\nbetween\n" in told.replace("\r", "\n")
    assert outer.used


def test_options_last_until_they_are_set_again_or_for_a_block() -> None:
    assert isinstance(default(None), Bars)
    with pk.options(progress=False):
        assert default(None) is silent
        with pk.options(progress=True):
            assert isinstance(default(None), Bars)
        assert default(None) is silent
    assert isinstance(default(None), Bars)
    before = pk.options(progress=False)
    assert default(None) is silent
    with before:
        pass
    assert isinstance(default(None), Bars)


def test_a_progress_of_ones_own_stays() -> None:
    def own(items: Any, /, description: str, total: int | None = None) -> Any:
        return iter(items)

    with pk.options(progress=False):
        assert default(own) is own


def test_what_is_no_bool_is_refused() -> None:
    with pytest.raises(DataError, match="progress is a str, 'off'; it has to be True or False"):
        pk.options(progress="off")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="progress"):
        default("bar")  # type: ignore[arg-type]


def test_a_capture_says_its_size(tmp_path: Path) -> None:
    said = []

    def note(items: Any, /, description: str, total: int | None = None) -> Any:
        said.append((description, total))
        return iter(items)

    pk.capture(torch.nn.Identity(), torch.zeros(600, 128), tmp_path / "a.zarr", progress=note)
    assert said == [("capture a.zarr (300 KiB)", 3)]
