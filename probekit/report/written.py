"""Pages that were written: what a file says of itself."""

from __future__ import annotations

from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

__all__ = ["GENERATOR", "WrittenPage", "page_at"]

GENERATOR = "probekit"  # begins what a page says of who wrote it
_HEAD = 8192  # bytes in which a page says so: they stand before its styles


@dataclass(frozen=True)
class WrittenPage:
    """A page on disk: its title, the version of probekit that wrote it, its size."""

    path: str
    title: str
    version: str
    bytes: int


class _Head(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.title = self.generator = ""
        self._in_title = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self._in_title = tag == "title"
        if tag == "meta" and given.get("name") == "generator":
            self.generator = given.get("content") or ""

    def handle_endtag(self, tag: str) -> None:
        self._in_title = False

    def handle_data(self, data: str) -> None:
        if self._in_title:
            self.title += data


def page_at(path: str | Path) -> WrittenPage | None:
    """The page of probekit's that a file is; None for any other."""
    file = Path(path)
    if not file.is_file():
        return None
    with open(file, "rb") as stream:
        head = _Head()
        head.feed(stream.read(_HEAD).decode("utf-8", "replace"))
    program, _, version = head.generator.partition(" ")
    return WrittenPage(str(path), head.title, version, file.stat().st_size) if program == GENERATOR else None
