"""What a page on disk says of itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from probekit._version import __version__
from probekit.report import Page
from probekit.report.written import page_at
from tests.cli.conftest import call  # noqa: F401  # a fixture


def test_a_page_is_known_by_its_head(tmp_path: Path) -> None:
    written = Page("What <b>ants</b> & bees tell").text("x" * 20_000).write(tmp_path / "page.html")
    page = page_at(written)
    assert page is not None
    assert (page.title, page.version, page.bytes) == (
        "What <b>ants</b> & bees tell",
        __version__,
        written.stat().st_size,
    )


@pytest.mark.parametrize(
    "content", [b"", b"<html><title>mine</title>", b"\xff\xfe\x00" * 9000, b"<meta name=generator>"]
)
def test_any_other_file_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "other.html").write_bytes(content)
    assert page_at(tmp_path / "other.html") is None
    assert page_at(tmp_path) is None


def test_info_shows_it(call, tmp_path: Path) -> None:  # noqa: F811
    Page("Ants").write(tmp_path / "page.html")
    code, out, _ = call("info", tmp_path / "page.html")
    assert code == 0
    assert "Ants" in out
    assert "KiB" in out
    code, out, _ = call("info", tmp_path / "page.html", "--json")
    assert json.loads(out)["title"] == "Ants"
    (tmp_path / "notes.txt").write_text("mine")
    code, _, err = call("info", tmp_path / "notes.txt")
    assert (code, "it is a file" in err) == (1, True)
