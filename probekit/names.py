"""Names of sites, and the selectors that pick sites by name, by module type, or by a rule of the caller's."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

from torch import nn

from probekit.errors import SiteError, near

__all__ = ["ROOT", "Selector", "SiteName", "match_names", "module_names", "selected_modules", "selects"]

ROOT = "(root)"  # the name of the model itself, whose qualified name is empty

Rule: TypeAlias = str | re.Pattern[str] | type[nn.Module] | Callable[[str, nn.Module], bool]
Selector: TypeAlias = Rule | Sequence[Rule]

_PARTS = re.compile(r"(?P<module>.*?)(?:@(?P<call>\d+|\*))?(?P<leaf>\[.*)?", re.DOTALL)


@dataclass(frozen=True)
class SiteName:
    """The parts of a site's name: ``cell@1[hidden]`` is leaf ``[hidden]`` of the second call of module ``cell``.

    `call` is None for a module that runs once in a forward pass; `leaf` is empty where the output is one tensor.
    """

    module: str
    call: int | None = None
    leaf: str = ""

    def __str__(self) -> str:
        return f"{self.module}{'' if self.call is None else f'@{self.call}'}{self.leaf}"

    @classmethod
    def parse(cls, name: str) -> SiteName:
        """The parts of `name`, as ``str()`` of a site's name gives it."""
        module, call, leaf = _split(name)
        return cls(module, None if call is None else int(call), leaf or "")


def _split(text: str) -> tuple[str, str | None, str | None]:
    match = _PARTS.fullmatch(text)
    assert match is not None  # every part is optional, so every text matches
    return match["module"], match["call"], match["leaf"]


@lru_cache(maxsize=1024)
def _glob(pattern: str) -> re.Pattern[str]:
    """`*` matches within one part of a dotted name, `**` over any number; all else is literal."""
    wild = {"**": ".*", "*": "[^.]*"}
    parts = re.split(r"(\*\*|\*)", pattern)
    return re.compile("".join(wild.get(part) or re.escape(part) for part in parts), re.DOTALL)


def module_names(model: nn.Module) -> dict[str, nn.Module]:
    """Every module of `model` by its qualified name, a shared one once; the model itself is ``(root)``."""
    return {name or ROOT: module for name, module in model.named_modules()}


def selects(rule: Rule, name: SiteName, module: nn.Module | None) -> bool:
    """Whether `rule` picks the site `name`, an output of `module` (None where only names are known)."""
    if isinstance(rule, str):
        base, call, leaf = _split(rule)
        return rule == str(name) or (
            _glob(base).fullmatch(name.module) is not None
            and (call in (None, "*") or call == str(name.call))
            and (leaf is None or _glob(leaf).fullmatch(name.leaf) is not None)
        )
    if isinstance(rule, re.Pattern):
        return rule.fullmatch(str(name)) is not None
    if module is None:
        raise SiteError(f"{rule!r} needs the model's modules; here sites are selected by name or regex.")
    return isinstance(module, rule) if isinstance(rule, type) else bool(rule(name.module, module))


def rules(selector: Selector) -> list[Rule]:
    """The rules of a selector, one or many, checked to be rules."""
    found = list(selector) if isinstance(selector, Iterable) and not isinstance(selector, str) else [selector]
    for rule in found:
        if not (isinstance(rule, str | re.Pattern) or callable(rule)):
            raise SiteError(
                f"{rule!r} is not a selector. Give a glob such as 'layers.*', a compiled regex, a module type, "
                "a callable (name, module) -> bool, or a list of these."
            )
    if not found:
        raise SiteError("The selector is an empty list: name at least one site, or '**' for all of them.")
    return found


def selected_modules(model: nn.Module, selector: Selector) -> dict[str, nn.Module]:
    """The modules whose sites `selector` may pick, in the model's order; an error for a rule that picks none.

    A regex can ask for a call or a leaf, which are known only once the model has run, so for a regex every module
    whose name can begin a match stays a candidate until then.
    """
    modules = module_names(model)
    picked: set[str] = set()
    for rule in rules(selector):
        if isinstance(rule, re.Pattern):
            found = set(modules)
        else:
            base: Rule = _split(rule)[0] if isinstance(rule, str) and rule not in modules else rule
            found = {name for name, module in modules.items() if selects(base, SiteName(name), module)}
        if not found:
            raise no_match(rule, modules, type(model).__name__, "probekit.sites(model, example)")
        picked |= found
    return {name: module for name, module in modules.items() if name in picked}


def match_names(names: Sequence[str], selector: Selector, *, where: str) -> list[str]:
    """The names that `selector` picks, in the order of `names`; `where` is what the error calls their owner."""
    parsed = {name: SiteName.parse(name) for name in names}
    picked: set[str] = set()
    for rule in rules(selector):
        found = {name for name, site in parsed.items() if selects(rule, site, None)}
        if not found:
            raise no_match(rule, parsed, where, f"probekit info {where}")
        picked |= found
    return [name for name in names if name in picked]


def no_match(rule: Rule, known: Mapping[str, object], where: str, lister: str) -> SiteError:
    asked = repr(rule.pattern if isinstance(rule, re.Pattern) else rule)
    hint = near(rule, known) if isinstance(rule, str) else ""
    return SiteError(f"No site matches {asked} in {where} ({len(known)} sites).{hint} List them with {lister}.")
