"""Sites as a tree in HTML that folds where a module has modules."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from html import escape

from probekit._probe.site_name import SiteName
from probekit.errors import plain

__all__ = ["site_tree"]

_UNFOLDED = 30  # sites that are shown at once

Facts = Sequence[str]


@dataclass
class _Module:
    """The sites of one module, each by its whole name with what is known of it, and the modules below it."""

    sites: list[tuple[str, Facts]] = field(default_factory=list)
    below: dict[str, _Module] = field(default_factory=dict)

    @property
    def number(self) -> int:
        return len(self.sites) + sum(module.number for module in self.below.values())


def site_tree(sites: Iterable[tuple[str, Facts]]) -> str:
    """HTML of a list of sites, (name, what is known of it), nested as their modules are.

    >>> "<summary>" in site_tree([("relu", ["ReLU"])]), "<summary>" in site_tree([("a.b", []), ("a.c", [])])
    (False, True)
    """
    top = _Module()
    for name, facts in sites:
        module = top
        for part in SiteName.parse(name).module.split("."):
            module = module.below.setdefault(part, _Module())
        module.sites.append((name, facts))
    opened = " open" if top.number <= _UNFOLDED else ""
    return "\n".join(["<ul>", *(line for each in top.below.items() for line in _item(*each, opened)), "</ul>"])


def _item(part: str, module: _Module, opened: str) -> Iterator[str]:
    """The lines of a module and of what is below it; of one that has no module below it, those of its sites."""
    if not module.below:
        yield from (f"<li>{_site(*site)}</li>" for site in module.sites)
        return
    first, *others = module.sites or [("", ())]
    called = _site(*first) if first[0] else f"<code>{_text(part)}</code>"
    yield f"<li><details{opened}><summary>{called} ({module.number} sites)</summary><ul>"
    yield from (f"<li>{_site(*site)}</li>" for site in others)
    for each in module.below.items():
        yield from _item(*each, opened)
    yield "</ul></details></li>"


def _site(name: str, facts: Facts) -> str:
    return " · ".join([f"<code>{_text(name)}</code>", *map(_text, facts)])


def _text(text: str) -> str:
    return escape(plain(text))
