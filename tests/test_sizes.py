"""Sizes as people write them."""

from __future__ import annotations

import pytest

from probekit._sizes import format_size, parse_size
from probekit.errors import ProbekitError


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("256MiB", 256 * 2**20),
        ("1GiB", 2**30),
        ("1.5 kb", 1536),
        (" 2 T ", 2**41),
        ("17", 17),
        ("17 B", 17),
        ("17 bytes", 17),
        (4096, 4096),
    ],
)
def test_a_size_is_read(text: str | int, count: int) -> None:
    assert parse_size(text) == count


@pytest.mark.parametrize("text", ["", "much", "-1MiB", "1 XiB", "MiB"])
def test_what_is_no_size_is_said(text: str) -> None:
    with pytest.raises(ProbekitError, match=f"'{text}' is not a size"):
        parse_size(text)


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 bytes"), (1023, "1023 bytes"), (1536, "1.5 KiB"), (2**30, "1 GiB"), (2**42, "4 TiB")]
)
def test_a_size_is_written(count: int, text: str) -> None:
    assert format_size(count) == text
