"""The command line, in the test's own folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import call

__all__ = ["call", "own_folder"]


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
