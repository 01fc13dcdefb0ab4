"""Names of sites, and their parts."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

__all__ = ["ENDING", "ROOT", "SiteName", "split_name"]

ROOT = "(root)"  # the name of the model itself, whose qualified name is empty

_END = r"(?:@(?P<call>\d+|\*))?(?:~(?P<op>[^:\[]*))?(?::(?P<side>input|grad))?(?P<leaf>\[.*)?"
ENDING = re.compile(_END, re.DOTALL)
_PARTS = re.compile(rf"(?P<module>.*?){_END}", re.DOTALL)


class SiteName(NamedTuple):
    """The parts of a site's name: ``cell@1:input[0]`` is the first input of the second call of module ``cell``.

    `call` is None for a module that runs once in a forward pass. `op` is a functional operation (not a module) in the
    body of the module's forward, such as ``relu_0``. `side` is ``input``, ``grad`` or empty for the output. `leaf` is
    empty where that is one tensor.
    """

    module: str
    call: int | None = None
    leaf: str = ""
    side: str = ""
    op: str = ""

    def __str__(self) -> str:
        call = "" if self.call is None else f"@{self.call}"
        return f"{self.module}{call}{self.op and f'~{self.op}'}{self.side and f':{self.side}'}{self.leaf}"

    @classmethod
    def parse(cls, name: str) -> SiteName:
        """The parts of `name`, as ``str()`` of a site's name gives it."""
        parts = split_name(name)
        call = None if parts["call"] is None else int(parts["call"])
        return cls(parts["module"] or "", call, parts["leaf"] or "", parts["side"] or "", parts["op"] or "")


@lru_cache(maxsize=2**16)  # a large model has thousands of sites, each of which may be named
def split_name(text: str) -> dict[str, str | None]:
    """The parts of a site's name or of a glob over such names; None for those that it lacks."""
    match = _PARTS.fullmatch(text)
    assert match is not None  # every part is optional, so every text matches
    return match.groupdict()
