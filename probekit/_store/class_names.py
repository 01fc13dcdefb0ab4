"""Classes by name or by code: what a user asks for, as places among the classes there are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from probekit._table import shown
from probekit.errors import DataError, near

__all__ = ["places_of"]

_SHOWN = 20  # classes that a message names


def places_of(asked: Any, codes: Iterable[Any], names: Sequence[str], argument: str) -> list[int]:
    """The places of the classes that are asked for, by name (a string) or by code, in the order of the question.

    A name that several classes bear stands for all of them.

    Args:
        asked: a name or a code, or several of them.
        codes: the code of each class.
        names: the name of each class.
        argument: the argument that `asked` is, for errors.

    Raises DataError for a class that there isn't.

    >>> places_of(["cat", 0], range(3), ["ant", "bee", "cat"], "classes")
    [2, 0]
    """
    known = list(codes)
    given = [asked] if isinstance(asked, str) else np.atleast_1d(np.asarray(asked, dtype=object)).tolist()
    found: list[int] = []
    for one in given:
        among: Sequence[Any] = names if isinstance(one, str) else known
        places = [place for place, each in enumerate(among) if each == one]
        if not places:
            if not known:
                raise DataError(f"{argument} asks for the class {one!r}, and there are none.", arguments=(argument,))
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            raise DataError(
                f"{argument} asks for the class {one!r}; there are {shown(list(map(repr, names[:_SHOWN])))}{more}, "
                f"with the codes {known[0]} to {known[-1]}.{near(str(one), names)}",
                arguments=(argument,),
            )
        found += places
    return list(dict.fromkeys(found))
