"""What the shell offers when a word is completed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from torch import nn

import probekit as pk
from probekit import plugins
from probekit.cli import completion
from probekit.plot.kinds import KINDS

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("completion")
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    names = ["ant", "bée", "big cat"]
    columns = {"split": ["a", "b"] * 15}
    data = (torch.zeros(30, 4), torch.arange(30) % 3)
    pk.capture(model, data, folder / "acts.zarr", class_names=names, columns=columns)
    (folder / "plain").mkdir()
    (folder / "nets.py").touch()
    (folder / "notes.md").touch()
    return folder


def offered(folder: Path, line: str) -> list[str]:
    """What bash is offered at the end of a line."""
    words = line.split(" ")
    environment = {
        "_PROBEKIT_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
        "PYTHONPATH": str(ROOT),
    }
    code = (
        "import sys; sys.argv = ['probekit']\n"
        "from probekit.cli import main\n"
        "try: main(prog_name='probekit')\n"
        "finally: assert 'torch' not in sys.modules\n"
    )
    run = [sys.executable, "-c", code]
    done = subprocess.run(
        run, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    return [word for word in done.stdout.splitlines() if word]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("probekit exp", ["export"]),
        ("probekit measure acts.zarr -m med", ["median"]),
        ("probekit measure ac", ["acts.zarr"]),
        ("probekit info p", ["plain/"]),
        ("probekit measure acts.zarr --sites ", ["0", "1", "(root)"]),
        ("probekit plot acts.zarr --sites (", ["(root)"]),
        ("probekit plot acts.zarr by-", ["by-class", "by-step", "by-position"]),
        ("probekit top acts.zarr --class b", ["bée", "big cat"]),
        ("probekit measure acts.zarr --where sp", ["split="]),
        ("probekit sites ne", ["nets.py"]),
        ("probekit sites torchvision:resnet1", [f"torchvision:resnet{n}" for n in (101, 152, 18)]),
        ("probekit capture nets.py dig", ["digits"]),
        ("probekit run class", ["class-selectivity"]),
        ("probekit measure nowhere.zarr --sites ", []),
        ("probekit top plain --class ", []),
    ],
)
def test_the_shell_is_offered(folder: Path, line: str, expected: list[str]) -> None:
    assert offered(folder, line) == expected


def test_metrics_are_those_that_are_installed() -> None:
    assert completion.metrics("") == list(plugins.find(plugins.METRICS))


def test_kinds_of_figures_are_those_that_are_drawn() -> None:
    assert completion.kinds("") == list(KINDS)


def test_models_are_those_that_the_libraries_know() -> None:
    assert completion.models("torchvision:") == [
        f"torchvision:{name}" for name in sorted(torchvision.models.list_models())
    ]
    assert completion.models("timm:") == [f"timm:{name}" for name in sorted(timm.list_models())]


def test_models_in_the_cache_are_offered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models--openai-community--gpt2").mkdir()
    (tmp_path / "datasets--imdb").mkdir()
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert completion.models("hf:") == ["hf:openai-community/gpt2"]
    assert completion.models("open_clip:") == []
