"""What shows itself in a notebook: whole, escaped, and in the notebook's own colours."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import probekit as pk
from probekit._probe.site_tree import site_tree

HOSTILE = "<script>alert('x')</script>\x1b[31m"
VOID = ("br", "hr", "img", "input", "meta")


class Nesting(HTMLParser):
    """Fails where an element isn't closed in its turn; counts elements, and collects what a reader sees."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.text = ""
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.seen.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What has an HTML form, of a model with hostile names of modules and classes."""
    folder = tmp_path_factory.mktemp("html")
    torch.manual_seed(0)
    model = nn.Sequential()
    model.add_module(HOSTILE, nn.Sequential(nn.Linear(4, 3), nn.ReLU()))
    model.add_module("head", nn.Linear(3, 2))
    data, classes = (torch.randn(60, 4), torch.arange(60) % 2), {"class_names": [HOSTILE, "b&b"]}
    pk.capture(model, data, folder / "a.zarr", **classes)
    results = pk.measure(folder / "a.zarr", ["mean", "auroc"])
    best = pk.top(results)
    return {
        "sites": pk.sites(model, torch.ones(1, 4)),
        "plan": pk.plan(model, data, **classes),
        "info": pk.info(folder / "a.zarr"),
        "verify": pk.verify(folder / "a.zarr"),
        "summary": pk.summary(results),
        "top": best,
        "samples": best.samples(folder / "a.zarr", n=2),
    }


NAMES = pytest.mark.parametrize("name", ["sites", "plan", "info", "verify", "summary", "top", "samples"])


@NAMES
def test_it_is_whole_and_escaped(shown: dict[str, Any], name: str) -> None:
    html = shown[name]._repr_html_()
    found = Nesting(html)
    assert not {"script", "style", "img"} & {*found.seen}
    assert "\x1b" not in html
    if name not in ("verify",):
        assert "<script>alert('x')</script>" in found.text


@NAMES
def test_colours_are_the_notebooks(shown: dict[str, Any], name: str) -> None:
    assert not re.search(r"colou?r|background|#[0-9a-f]{3,6}\b|rgb", shown[name]._repr_html_(), re.IGNORECASE)


def test_what_is_known_of_a_store_prints_as_a_table(shown: dict[str, Any]) -> None:
    first, header, *rows = str(shown["info"]).splitlines()
    assert re.fullmatch(r".*a\.zarr: 60 samples, complete, [\d.]+ KiB", first)
    assert header.split() == ["site", "type", "dims", "shape", "dtype", "chunk", "on", "disk"]
    assert len(rows) == len(shown["info"].sites) == 5


def test_sites_are_nested_as_modules_are() -> None:
    model = nn.Sequential()
    model.add_module("block", nn.Sequential(nn.Linear(4, 3), nn.ReLU()))
    model.add_module("head", nn.Linear(3, 2))
    html = pk.sites(model, torch.ones(1, 4), select=["**", "**:input"])._repr_html_()
    tree = Nesting(html[: html.rindex("<details>")])
    assert tree.seen.count("details") == 1
    assert tree.seen.count("summary") == 1
    assert next(line for line in tree.text.splitlines() if "block" in line).endswith("(6 sites)")
    for name in ("block:input", "block.0", "block.1:input", "head", "(root)"):
        assert name in tree.text


@pytest.mark.parametrize(("count", "opened"), [(10, True), (100, False)])
def test_large_trees_begin_folded(count: int, opened: bool) -> None:
    html = site_tree((f"layers.{n}.relu", ["ReLU"]) for n in range(count))
    assert ("<details open>" in html) == opened
    assert html.count("<li><code>layers.") == count
    Nesting(html)


def test_a_store_of_hundreds_of_classes_stays_short(tmp_path: Path) -> None:
    pk.capture(nn.Identity(), (torch.zeros(300, 2), torch.arange(300)), tmp_path / "a.zarr")
    assert Nesting(pk.info(tmp_path / "a.zarr")._repr_html_()).text.count("\n") < 200
    assert "280 more" in pk.info(tmp_path / "a.zarr")._repr_html_()
