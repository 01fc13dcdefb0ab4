"""Debian's Chromium, headless: where it isn't installed, what needs it is skipped, unless CHROMIUM says that it is."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

__all__ = ["Visit", "chromium", "visited"]


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser of playwright's, which downloads none."""
    path = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if path is None:
        pytest.skip("There is no chromium here: apt-get install chromium, or CHROMIUM=path.")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


class Visit:
    """A page in a browser, with what it asked for and what it complained of."""

    def __init__(self, page: Any, path: Path, ready: str) -> None:
        self.page, self.path = page, path
        self.requests: list[str] = []
        self.complaints: list[str] = []
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("console", lambda said: said.type in ("error", "warning") and self.complaints.append(said.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.goto(path.as_uri())
        page.wait_for_selector(ready)

    def text(self, name: str) -> str:
        """The text of an element of the explorer."""
        return str(self.page.inner_text(f"#explorer-{name}"))

    def rows(self, name: str) -> list[list[str]]:
        """The cells of one of its tables, with the head first."""
        found: list[list[str]] = self.page.eval_on_selector_all(
            f"#explorer-{name} tr", "rows => rows.map(row => [...row.cells].map(cell => cell.textContent))"
        )
        return found

    def settled(self) -> None:
        """Wait until what was chosen is there, and painted."""
        self.page.evaluate(
            "() => new Promise(done => setTimeout(() => requestAnimationFrame(() => requestAnimationFrame(done)), 50))"
        )

    def choose(self, node: int) -> None:
        self.page.fill("#explorer-node", str(node))
        self.page.keyboard.press("Enter")
        self.settled()


@contextmanager
def visited(
    browser: Any,
    path: Path,
    *,
    width: int = 1280,
    scheme: str = "light",
    ready: str = "#explorer[data-ready]",
    **options: Any,
) -> Iterator[Visit]:
    """A visit to a page in a window of its own, once it has what a selector says."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, **options)
    try:
        yield Visit(context.new_page(), path, ready)
    finally:
        context.close()
