from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from probekit import plugins
from tests import processes

MAIN = "from probekit.cli import main; main()"


def test_a_recipes_parameters_are_its_options(call):
    code, out, _ = call("run", "relu-vs-sigmoid", "--help")
    assert code == 0
    for option in ("--dataset", "--depths", "--epochs", "--seeds", "--batch-size", "--data-dir"):
        assert option in out
    assert "progress" not in out


RECIPE = '''
"""Draws a figure where there is no folder."""

def run(*, out: str = "none/fig1.png", progress=None):
    open(out, "w")
'''


def test_an_error_of_the_system_is_one_paragraph(distribution: Callable[..., Path], tmp_path: Path) -> None:
    folder = distribution("drawing", plugins.RECIPES, {"draw": "drawing"}, {"drawing": RECIPE})
    done = processes.script(MAIN, "run", "draw", paths=(folder,), cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "Error: No such file or directory: none/fig1.png.\n"


PATHS = """
from pathlib import Path
from typing import Annotated
import pandas as pd
from probekit.report import Outcome

def run(
    *,
    out: Annotated[Path, "Where."] = Path("runs"),
    other: Path | None = None,
    more: tuple[Path, ...] = (),
    progress=None,
):
    return Outcome(out, {"paths": pd.DataFrame({"path": [str(each) for each in (other, *more)]})})
"""


def test_paths_of_a_recipe_may_begin_at_home(
    distribution: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = distribution("pathful", plugins.RECIPES, {"paths": "pathful"}, {"pathful": PATHS})
    monkeypatch.setenv("HOME", "/home/ada")
    options = ["--out=~/runs", "--other=file:///data/a", "--more=~/b,c"]
    done = processes.script(MAIN, "run", "paths", *options, paths=(folder,), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [text in done.stdout for text in ("/data/a", "/home/ada/b", "c")] == [True] * 3
    assert "Report: /home/ada/runs" in done.stderr
