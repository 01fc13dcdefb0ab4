"""What `probekit new` makes is a package that installs, whose tests pass, and whose name is then known."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from probekit.errors import PluginError
from probekit.report import Outcome
from probekit.testing import ConformanceError, check_recipe
from tests import processes
from tests.cli.conftest import Call

CLI = "from probekit.cli import main; main()"
TESTS = (
    "import sys, pytest; sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider', '--import-mode=importlib', 'tests']))"
)


def made(call: Call, kind: str, name: str, tmp_path: Path) -> tuple[Path, Path]:
    """The package's folder, and where it is installed."""
    code, _, err = call("new", kind, name, "--into", tmp_path)
    assert (code, "pip install -e" in err) == (0, True)
    folder, target = tmp_path / f"probekit-{name}", tmp_path / "installed"
    uv = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--offline", "--no-deps", "--no-build-isolation"]
    subprocess.run([*uv, "--target", target, folder], check=True, timeout=120)
    return folder, target


@pytest.mark.slow
def test_a_new_metric_keeps_to_the_protocol_and_is_listed(call: Call, tmp_path: Path) -> None:
    folder, target = made(call, "metric", "spread", tmp_path)
    done = processes.script(TESTS, paths=(target,), cwd=folder)
    assert done.returncode == 0, done.stdout
    assert int(re.findall(r"(\d+) passed", done.stdout)[0]) > 10
    listed = json.loads(processes.script(CLI, "metrics", "--json", paths=(target,), cwd=tmp_path).stdout)
    assert {row["metric"]: row["from"] for row in listed}["spread"] == "probekit-spread 0.1"


@pytest.mark.slow
def test_a_new_recipe_is_a_command(call: Call, tmp_path: Path) -> None:
    folder, target = made(call, "recipe", "my-study", tmp_path)
    done = processes.script(TESTS, paths=(target,), cwd=folder)
    assert done.returncode == 0, done.stdout
    done = processes.script(CLI, "run", "my-study", "--epochs", "2", paths=(target,), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs/my-study/digits/report.html").is_file()
    assert "Class overlap" in done.stdout


@pytest.mark.parametrize(
    ("kind", "name", "fault"),
    [
        ("metric", "a-b", "use lower-case letters, digits and underscores"),
        ("metric", "class", "can't name a metric"),
        ("metric", "median", "probekit-torch 0.1.0 has a metric 'median' already"),
        ("recipe", "My", "use lower-case letters, digits and hyphens"),
        ("recipe", "relu-vs-sigmoid", "has a recipe 'relu-vs-sigmoid' already"),
    ],
)
def test_names_that_can_not_be(call: Call, tmp_path: Path, kind: str, name: str, fault: str) -> None:
    code, _, err = call("new", kind, name, "--into", tmp_path)
    assert (code, fault in " ".join(err.split())) == (1, True)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(call: Call, tmp_path: Path) -> None:
    assert call("new", "metric", "spread", "--into", tmp_path)[0] == 0
    code, _, err = call("new", "metric", "spread", "--into", tmp_path)
    assert (code, "exists already" in err) == (1, True)


class Recipe:
    """A recipe that returns what it is given."""

    def __init__(self, outcome: object) -> None:
        self.outcome = outcome

    def run(self, *, progress: object = None) -> object:
        return self.outcome


def test_what_a_recipe_returns_is_checked(tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    with pytest.raises(PluginError, match=r"has to return a probekit\.report\.Outcome"):
        check_recipe(Recipe(None))
    with pytest.raises(ConformanceError, match="there is no such file"):
        check_recipe(Recipe(Outcome(report, {})))
    report.write_text("<p>")
    with pytest.raises(ConformanceError, match="'Numbers' of the recipe is a dict"):
        check_recipe(Recipe(Outcome(report, {"Numbers": {}})))  # type: ignore[dict-item]
    outcome = Outcome(report, {"Numbers": pd.DataFrame()})
    assert check_recipe(Recipe(outcome)) is outcome
