"""The README does what it says."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import probekit as pk
from docs import readme_session
from docs.readme_metrics import with_table
from probekit.cli import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def commands(start=""):
    return [line for line in "\n".join(blocks("sh")).splitlines() if line.startswith(start)]


@pytest.mark.slow
def test_the_quickstart_prints_what_it_says(tmp_path):
    run = [sys.executable, "-W", "error", "-c", blocks("python")[0]]
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout == blocks("text")[0]
    assert (tmp_path / "medians.png").stat().st_size > 10_000


def test_the_metric_of_the_readme_works(tmp_path, monkeypatch):
    import torch

    monkeypatch.chdir(tmp_path)
    pk.capture(torch.nn.Identity(), (torch.arange(20.0).reshape(20, 1), torch.arange(20) % 2), "acts.zarr")
    made = {}
    exec(blocks("python")[2], made)
    m = pk.measure("acts.zarr", [made["upper_decile"]])
    assert abs(m["(root)"]["upper_decile"].sel(label=0).item() - 16.2) < 1e-6  # of 0, 2, …, 18


def test_the_commands_of_the_readme_work_as_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("nets.py").write_text(blocks("python")[1])
    for line in commands("probekit "):
        words = shlex.split(line)[1:]
        if words[0] == "run":
            words.append("--help")  # the study itself takes a minute
        with pytest.raises(SystemExit) as end:
            main(words)
        assert end.value.code == 0, line


def test_make_has_what_the_readme_makes_before_anything_else():
    assert [shlex.split(line, comments=True) for line in commands()[:2]] == [["make", "demo"], ["make", "test"]]
    for line in commands("make "):
        run = ["make", "--dry-run", *shlex.split(line, comments=True)[1:]]
        assert subprocess.run(run, cwd=ROOT, capture_output=True, check=False).returncode == 0, line


def test_the_table_of_metrics_is_the_registry():
    assert with_table(README) == README, "run `make readme`"


def test_the_session_is_shown_and_has_its_commands():
    assert "](docs/images/session.svg)" in README
    drawn = readme_session.PICTURE.read_text("utf-8")
    assert "@font-face" not in drawn  # nothing is loaded from elsewhere
    for command in readme_session.COMMANDS:
        said = re.sub(r"\s", "", f"$ {command}")
        assert re.sub(r"[\d.]+", "0", said) in readme_session.words(drawn), "run `make readme`"


@pytest.mark.slow
def test_the_session_is_what_the_commands_print():
    now = readme_session.picture(readme_session.session())
    assert readme_session.words(now) == readme_session.words(readme_session.PICTURE.read_text("utf-8")), (
        "run `make readme`"
    )
