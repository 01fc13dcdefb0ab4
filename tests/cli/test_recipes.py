from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from probekit import plugins


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


def test_an_error_of_the_system_is_one_paragraph(
    python: Callable[..., Any], distribution: Callable[..., Path], tmp_path: Path
) -> None:
    folder = distribution("drawing", plugins.RECIPES, {"draw": "drawing"}, {"drawing": RECIPE})
    done = python("from probekit.cli import main; main()", "run", "draw", paths=(folder,), cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "Error: No such file or directory: none/fig1.png.\n"
