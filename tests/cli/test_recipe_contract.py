"""A recipe that breaks the contract is told what is wrong with it, and costs the others nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from probekit import plugins
from tests import processes

GOOD = '''
"""Writes a table of two levels."""

from pathlib import Path
from typing import Annotated, Literal
import pandas as pd
from probekit.report import Outcome

def run(*, kind: Annotated[Literal["a", "b"], "Which."] = "a", count: int = 2, out: Path = Path("runs"), progress=None):
    columns = pd.MultiIndex.from_tuples([("relu", "first"), ("relu", "last")])
    frame = pd.DataFrame([[1, 2.5]] * count, columns=columns, index=pd.Index(range(count), name="layer"))
    return Outcome(out / f"{kind}.html", {"By layer": frame})
'''
BROKEN = {
    "bare": ("def run(*, depth=3, progress=None): pass", "depth has no annotation, such as `depth: Annotated"),
    "many": ("def run(*, progress=None, **rest: int): pass", "'**rest: int' isn't one option"),
    "blind": ("def run(*, depth: int = 3): pass", "it has no parameter progress"),
    "unknown": (
        "from __future__ import annotations\ndef run(*, depth: Depth = 3, progress=None): pass",
        "annotations of run() of the recipe 'unknown' can't be read: name 'Depth' is not defined",
    ),
    "odd": ("def run(*, depth: set[int] = (), progress=None): pass", "option depth of the type set[int], which a"),
    "two": ("def run(*, depth: int | str = 3, progress=None): pass", "option depth of the type int | str, which a"),
    "none": ("run = None", "has no function run(...)"),
    "broken": ("raise RuntimeError('not now')", "raised RuntimeError: not now"),
}
MAIN = "from probekit.cli import main; main()"
EACH = """
import contextlib, io, json, sys
from probekit.cli import main

found = {}
for name in sys.argv[1:]:
    sys.argv = ["probekit", "run", name, "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.redirect_stderr(printed):
        try:
            main()
        except SystemExit as stop:
            found[name] = stop.code, " ".join(printed.getvalue().split())
print(json.dumps(found))
"""


@pytest.fixture
def folder(distribution: Callable[..., Path]) -> Path:
    modules = {"good": GOOD, **{name: code for name, (code, _) in BROKEN.items()}}
    modules = {f"{name}_recipe": code for name, code in modules.items()}
    entries = {name.removesuffix("_recipe"): name for name in modules}
    return distribution("recipes-of-all-kinds", plugins.RECIPES, entries, modules)


def test_each_broken_recipe_is_told_what_to_mend_and_the_others_work(folder: Path, tmp_path: Path) -> None:
    def called(*arguments: str) -> Any:
        done = processes.script(MAIN, *arguments, paths=(folder,), cwd=tmp_path)
        return done.returncode, " ".join((done.stdout + done.stderr).split())

    code, text = called("run", "--help")
    assert (code, all(name in text for name in ("good", *BROKEN))) == (0, True)
    found = json.loads(processes.script(EACH, *BROKEN, paths=(folder,), cwd=tmp_path).stdout)
    assert {*found} == {*BROKEN}
    for name, (_, fault) in BROKEN.items():
        code, text = found[name]
        assert code == 1
        assert text.startswith("Error: ")
        assert fault in text
    code, text = called("recipes")
    assert (code, "Writes a table of two levels." in text) == (0, True)
    assert text.count("It is left out.") >= 4
    code, text = called("run", "good", "--kind", "b", "--count", "1")
    assert (code, "Report: runs/b.html" in text) == (0, True)
    assert "relu first" in text
    assert "layer" in text


def test_what_a_recipe_returns_is_looked_at(distribution: Callable[..., Path], tmp_path: Path) -> None:
    code = "def run(*, progress=None):\n    return {'accuracy': 1}"
    folder = distribution("forgetful", plugins.RECIPES, {"forgets": "forgets"}, {"forgets": code})
    done = processes.script(MAIN, "run", "forgets", paths=(folder,), cwd=tmp_path)
    assert done.returncode == 1
    assert "returned a dict; it has to return a probekit.report.Outcome" in " ".join(done.stderr.split())
