"""Write the studies of the docs as notebooks: `make notebooks`. The pages are the only source."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

__all__ = ["STUDIES", "notebook", "write"]

DOCS = Path(__file__).parent
STUDIES = ("cnn-on-images", "tokens-of-a-transformer", "watch", "probe-and-autoencoder")

_FRONT = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)
_CELL = re.compile(r"^```\{code-cell\}\n(?::.*\n)*([\s\S]*?)^```$", re.MULTILINE)
_ROLE = re.compile(r"\{\w+\}`([^`<]+?)(?: <[^>]+>)?`")
_LINK = re.compile(r"\[([^]]+)\]\((?!https?:)[^)]+\)")  # to another page, which a notebook doesn't have beside it
_BEGIN = """\
import os
import tempfile

os.chdir(tempfile.mkdtemp())  # what this notebook writes goes to a new folder"""


def notebook(page: str) -> dict[str, object]:
    """The notebook of a page in Markdown, without outputs."""
    cells = [_cell(number, kind, text) for number, (kind, text) in enumerate(_parts(_FRONT.sub("", page)))]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}


def _parts(page: str) -> Iterator[tuple[str, str]]:
    """Kind and text of each cell; the first code moves to a folder of its own."""
    end, begun = 0, False
    for found in _CELL.finditer(page):
        if text := page[end : found.start()].strip():
            yield "markdown", _plain(text)
        if not begun:
            yield "code", _BEGIN
            begun = True
        yield "code", found[1].strip()
        end = found.end()
    if text := page[end:].strip():
        yield "markdown", _plain(text)


def _plain(text: str) -> str:
    """The text without what only the docs know: roles, and links between pages."""
    return _LINK.sub(r"\1", _ROLE.sub(r"\1", text))


def _cell(number: int, kind: str, text: str) -> dict[str, object]:
    cell: dict[str, object] = {"cell_type": kind, "id": f"cell-{number}", "metadata": {}, "source": text}
    return cell | ({"execution_count": None, "outputs": []} if kind == "code" else {})


def write(folder: Path) -> list[Path]:
    """Write the notebook of each study into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{name}.ipynb" for name in STUDIES]
    for file in files:
        page = (DOCS / f"{file.stem}.md").read_text("utf-8")
        file.write_text(json.dumps(notebook(page), indent=1, ensure_ascii=False) + "\n", "utf-8")
    return files


if __name__ == "__main__":
    print("\n".join(map(str, write(Path(sys.argv[1])))))
