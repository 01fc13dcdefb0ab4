"""Texts as a page that others get may show them: without the folders of the machine that it was written on."""

from __future__ import annotations

import os
import re
from pathlib import Path

__all__ = ["without_folders"]

# An absolute path of at least two parts, also behind imagefolder: or =, but no part of a URL or of a longer path.
_PATH = re.compile(r"""(?<![\w/.~…-])/(?!/)[^\s'"/:,]+(?:/[^\s'"/:,]+)+""")
_KEPT = 2  # last parts of a path from elsewhere


def without_folders(text: str) -> str:
    """The text with each absolute path in it written from the current folder, from ~, or by its last two parts.

    >>> without_folders("hf:/data/groups/ann/models/base")
    'hf:…/models/base'
    >>> without_folders("https://host/data/groups/ann")
    'https://host/data/groups/ann'
    """
    return _PATH.sub(lambda found: _brief(found[0]), text)


def _brief(path: str) -> str:
    for folder, written in ((os.getcwd(), ""), (str(Path.home()), "~/")):
        if path.startswith(folder.rstrip("/") + "/") and folder != "/":
            return written + path.removeprefix(folder.rstrip("/") + "/")
    parts = path.split("/")[1:]
    return path if len(parts) <= _KEPT else "/".join(["…", *parts[-_KEPT:]])
