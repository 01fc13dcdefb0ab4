"""Paths as users write them, with ``~`` or as ``file://``, wherever the library and the command line take one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import probekit as pk
from probekit import load
from probekit.cli import main
from probekit.errors import DataError, ProbekitError
from probekit.report import Page

MODEL, X, LABELS = nn.ReLU(), torch.randn(12, 3), torch.arange(12) % 3
NETS = """
from torch import nn

def make_model():
    return nn.Linear(3, 2)
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder with a blank in its name, beside the working folder, which stays empty."""
    folder = tmp_path / "my home"
    (folder / "images" / "cat").mkdir(parents=True)
    Image.new("L", (8, 8)).save(folder / "images" / "cat" / "a.png")
    np.savez(folder / "mnist.npz", x_train=X.numpy(), y_train=LABELS.numpy(), x_test=X.numpy(), y_test=LABELS.numpy())
    (folder / "nets.py").write_text(NETS)
    save_file({"weight": torch.ones(2, 3), "bias": torch.zeros(2)}, folder / "w.safetensors")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("HOME", str(folder))
    return folder


def forms(name: str, home: Path) -> list[Any]:
    """What means the path `name` in the home folder."""
    url = (home / name).as_uri()
    assert "%20" in url
    return [f"~/{name}", Path(f"~/{name}"), url, url.replace("file://", "file://localhost"), Path(url)]


@pytest.mark.parametrize("form", range(5))
def test_stores_and_results_lie_where_a_path_says(form: int, home: Path) -> None:
    at = lambda name: forms(name, home)[form]
    pk.capture(MODEL, (X, LABELS), at("a.zarr"))
    assert pk.open(at("a.zarr")).sizes["sample"] == pk.info(at("a.zarr")).rows == pk.verify(at("a.zarr")).rows == 12
    assert pk.plan(MODEL, X, out=at("b.zarr")).bytes == 144
    pk.measure(at("a.zarr"), "mean", out=at("m.zarr"))
    pk.Watch(MODEL, (X, LABELS), "mean", every=1, out=at("w.zarr"))(0)
    Page("t").write(at("page.html"))
    for name in ("m.zarr", "w.zarr"):
        values = xr.open_datatree(home / name, engine="zarr")["(root)"]["mean"].values.reshape(3, 3)
        np.testing.assert_allclose(values, [X[code == LABELS].relu().double().mean(0) for code in range(3)], rtol=1e-6)
    assert {"a.zarr", "m.zarr", "w.zarr", "page.html"} <= {entry.name for entry in home.iterdir()}
    assert not list(Path.cwd().iterdir())


@pytest.mark.parametrize("form", range(5))
def test_models_and_data_are_loaded_from_where_a_path_says(form: int, home: Path) -> None:
    at = lambda name: forms(name, home)[form]
    assert len(load.dataset("mnist", data_dir=at(""))) == 12
    assert Page("t").figure(at("images/cat/a.png"), "c").html().count("data:image/png") == 1
    model = load.model(f"{home}/nets.py:make_model", weights=at("w.safetensors"))
    assert torch.equal(model(torch.ones(1, 3)), torch.full((1, 2), 3.0))
    assert load.ImageFolder(at("images")).classes == ["cat"]
    if not isinstance(at(""), Path):  # names are strings
        assert len(load.dataset(at("mnist.npz"))) == len(load.arrays(at("mnist.npz")).x_train) == 12
        assert load.dataset(f"imagefolder:{at('images')}").classes == ["cat"]
        assert isinstance(load.model(f"{at('nets.py')}:make_model"), nn.Linear)


@pytest.mark.parametrize("form", [0, 2])
def test_the_command_line_takes_them_too(form: int, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    at = lambda name: forms(name, home)[form]
    commands = [
        ("capture", f"{at('nets.py')}:make_model", at("mnist.npz"), at("c.zarr"), "--weights", at("w.safetensors")),
        ("info", at("c.zarr")),
        ("verify", at("c.zarr")),
        ("measure", at("c.zarr"), "-m", "mean", "--out", at("cm.zarr"), "--where", "label=1"),
        ("sites", f"{at('nets.py')}:make_model", "--data", at("mnist.npz")),
    ]
    for command in commands:
        with pytest.raises(SystemExit) as end:
            main(list(command))
        assert not end.value.code, capsys.readouterr().err
    assert (home / "c.zarr" / "zarr.json").exists()
    assert (home / "cm.zarr" / "zarr.json").exists()
    assert not list(Path.cwd().iterdir())


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("~nobody-is-called-this/a.zarr", "begins with the home folder of a user who isn't there"),
        ("file://elsewhere/a.zarr", "has to be a path, or a URL such as file:///data"),
        (Path("s3://bucket/a.zarr"), "'s3:/bucket/a.zarr', a URL that pathlib has taken a slash from. Give a string"),
    ],
)
def test_a_path_that_means_nothing_is_refused(path: Any, message: str, home: Path) -> None:
    for use in (
        lambda: pk.capture(MODEL, X, path),
        lambda: pk.open(path),
        lambda: pk.measure(xr.DataTree(), "mean", out=path),
        lambda: Page("t").write(path),
    ):
        with pytest.raises(ProbekitError, match=message):
            use()
    assert not list(Path.cwd().iterdir())


def test_results_are_not_written_to_other_urls(home: Path) -> None:
    with pytest.raises(DataError, match=r"path is 's3://bucket/page\.html'; it has to be a path"):
        Page("t").write("s3://bucket/page.html")
    with pytest.raises(ProbekitError, match=r"out is 's3://bucket/m\.zarr'; it has to be a path"):
        pk.measure(xr.DataTree(), "mean", out="s3://bucket/m.zarr")
    assert not list(Path.cwd().iterdir())
