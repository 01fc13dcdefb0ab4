"""The example of a third-party package, and the page on writing metrics: both do what they say."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import processes

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "docs" / "examples" / "probekit-shape"
PAGE = ROOT / "docs" / "write-a-metric.md"

CLI = "from probekit.cli import main; main()"


def blocks(file: Path, language: str) -> list[str]:
    return re.findall(rf"^```{re.escape(language)}\n(.*?)^```", file.read_text(), re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the example is installed, as a wheel that was built of a copy of its folder."""
    folder = tmp_path_factory.mktemp("example")
    source, target = folder / "source", folder / "target"
    shutil.copytree(EXAMPLE, source, ignore=shutil.ignore_patterns("__pycache__", "build", "*.egg-info", ".*"))
    uv = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--offline", "--no-deps", "--no-build-isolation"]
    subprocess.run([*uv, "--target", target, source], check=True, timeout=120)
    return target


@pytest.mark.slow
def test_its_own_tests_pass(installed: Path, tmp_path: Path) -> None:
    shutil.copytree(EXAMPLE / "tests", tmp_path / "tests")
    code = "import sys, pytest; sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider', 'tests']))"
    done = processes.script(code, paths=(installed,), cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert int(re.findall(r"(\d+) passed", done.stdout)[0]) > 50


@pytest.mark.slow
def test_probekit_lists_its_metrics(installed: Path, tmp_path: Path) -> None:
    done = processes.script(CLI, "metrics", "--json", paths=(installed,), cwd=tmp_path)
    rows = {row["metric"]: row for row in json.loads(done.stdout)}
    assert {name: rows[name]["kind"] for name in ("bimodality", "moors")} == {
        "bimodality": "streaming",
        "moors": "column",
    }
    assert rows["bimodality"]["from"] == "probekit-shape 1.0"
    assert rows["bimodality"]["what it gives"].startswith("Sarle's bimodality coefficient of each class")


def test_its_readme_works(installed: Path, tmp_path: Path) -> None:
    [code] = blocks(EXAMPLE / "README.md", "python")
    done = processes.script(code, paths=(installed,), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for variable in ("bimodality", "moors"):
        assert re.search(rf"{variable} +\(label, node\)", done.stdout)


def test_the_page_on_writing_metrics_runs(tmp_path: Path) -> None:
    cells = blocks(PAGE, "{code-cell}")
    assert len(cells) > 4
    code = "\n".join(re.sub(r"^:.*\n", "", cell, flags=re.MULTILINE) for cell in cells)
    done = processes.script(code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_the_page_shows_files_that_there_are() -> None:
    shown = re.findall(r"^```\{literalinclude\} (.*)$", PAGE.read_text(), re.MULTILINE)
    assert shown
    assert all((PAGE.parent / each).is_file() for each in shown)
