"""Sizes of memory and lengths of time, as people write and read them."""

from __future__ import annotations

import re

from probekit.errors import ProbekitError

__all__ = ["Size", "format_size", "format_time", "parse_size"]


class Size(int):
    """A number of bytes, which reads with the unit that suits it.

    >>> str(Size(2048)), Size(2048) + 1
    ('2 KiB', 2049)
    """

    def __str__(self) -> str:
        return format_size(self)


def parse_size(size: str | int) -> int:
    """Bytes of a size such as ``"256MiB"``, ``"1.5 GB"`` or a number of bytes; units count in powers of 1024.

    >>> parse_size("256MiB")
    268435456
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B|bytes)?\s*", str(size), re.IGNORECASE)
    if found is None:
        raise ProbekitError(
            f"{size!r} is not a size. Write it as '256MiB', '1GiB', or in bytes.", arguments=("memory",)
        )
    return int(float(found[1]) * 1024 ** " KMGT".index(found[2].upper() or " "))


def format_size(count: float) -> str:
    """A number of bytes with the unit that suits it.

    >>> format_size(268435456)
    '256 MiB'
    """
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.4g} {unit}"
        count /= 1024
    return f"{count:.4g} TiB"


def format_time(seconds: float) -> str:
    """A length of time with the unit that suits it.

    >>> format_time(5400)
    '1.5 h'
    """
    if seconds < 100:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.2g} min" if seconds < 5400 else f"{seconds / 3600:.2g} h"
