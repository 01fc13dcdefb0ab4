"""Selectors, which pick sites by name, by module type, or by a rule of the caller's."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import TypeAlias

from torch import nn
from torch.fx import GraphModule

from probekit._probe.site_name import ENDING, ROOT, SiteName, split_name
from probekit.errors import SiteError, near

__all__ = [
    "Modules",
    "Rule",
    "RuleIndex",
    "Selector",
    "SiteIndex",
    "asks_for",
    "is_about",
    "match_names",
    "module_names",
    "no_match",
    "rules",
    "selected_modules",
    "selects",
]

Rule: TypeAlias = str | re.Pattern[str] | type[nn.Module] | Callable[[str, nn.Module], bool]
Selector: TypeAlias = Rule | Sequence[Rule]

_WHERE = "List them with probekit.sites(model, example), or `probekit sites` on the command line."
_NAMED = 8  # sites that an error names


@lru_cache(maxsize=1024)
def _glob(pattern: str) -> re.Pattern[str]:
    """`*` matches within one part of a dotted name, `**` over any number; all else is literal."""
    wild = {"**": ".*", "*": "[^.]*"}
    parts = re.split(r"(\*\*|\*)", pattern)
    return re.compile("".join(wild.get(part) or re.escape(part) for part in parts), re.DOTALL)


class Modules(dict[str, nn.Module]):
    """Every module of a model by its qualified name, the first of its names; the model itself is ``(root)``.

    Attributes:
        others: the other names of those that are registered in several places, by the first.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__((name or ROOT, module) for name, module in model.named_modules())
        self.others: dict[str, list[str]] = defaultdict(list)
        self._first: dict[str, str] = {}
        if sum(len([*_children(module)]) for module in self.values()) >= len(self):
            first = {id(module): name for name, module in self.items()}
            for name, module in _every_name(model, "", ()):
                if name and name != first[id(module)]:
                    self.others[first[id(module)]].append(name)
                    self._first[name] = first[id(module)]

    def first_of(self, name: str) -> str | None:
        """The first name of the module that has this one; None where there is none."""
        return name if name in self else self._first.get(name)

    def names_of(self, site: SiteName) -> list[SiteName]:
        """A site under every name of its module, the first of them first."""
        return [site, *(site._replace(module=name) for name in self.others.get(site.module, ()))]


def _children(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    return ((name, child) for name, child in module._modules.items() if child is not None)


def _every_name(module: nn.Module, name: str, above: tuple[nn.Module, ...]) -> Iterator[tuple[str, nn.Module]]:
    yield name, module
    for key, child in _children(module):
        if child is not module and child not in above:
            yield from _every_name(child, f"{name}.{key}" if name else key, (*above, module))


def module_names(model: nn.Module) -> Modules:
    """The modules of `model` by name.

    Raises:
        SiteError: `model` is no module, or its modules don't run when it does.
    """
    if not isinstance(model, nn.Module):
        raise SiteError(
            f"{type(model).__name__} is not a torch.nn.Module. Give the model itself; for an exported program, give "
            "the model that was exported, or torch.export.unflatten(program)."
        )
    if isinstance(model, GraphModule) and _runs_no_module(model):
        raise SiteError(
            f"{type(model).__name__} is an exported program, which runs without its modules. Probe the model that "
            "was exported, or torch.export.unflatten(program)."
        )
    return Modules(model)


def _runs_no_module(model: GraphModule) -> bool:
    called = {node.target for node in model.graph.nodes if node.op == "call_module"}
    owners = {name for name, module in model.named_modules() if name and any(True for _ in module.parameters(False))}
    return bool(owners) and owners.isdisjoint(called)


def selects(rule: Rule, name: SiteName, modules: Modules | None) -> bool:
    """Whether `rule` picks the site `name`, under any name of its module (None where only names are known)."""
    if modules is None:
        return _selects(rule, name, None)
    module = modules.get(name.module)
    return any(_selects(rule, each, module) for each in modules.names_of(name))


class RuleIndex:
    """Rules by the modules that they name, so that a site is compared with a few of thousands."""

    def __init__(self, given: Iterable[Rule]) -> None:
        self._anywhere: list[Rule] = []
        self._named: dict[str, list[Rule]] = defaultdict(list)
        self._rules = list(given)
        for rule in self._rules:
            texts = _named_by(rule)
            if not texts:
                self._anywhere.append(rule)
            for text in texts:
                self._named[text].append(rule)

    def candidates(self, site: SiteName, modules: Modules) -> Iterator[Rule]:
        """The rules that may pick a site, under any name of its module."""
        yield from self._anywhere
        for text in _texts_of(site, modules):
            yield from self._named.get(text, ())

    def picks(self, site: SiteName, modules: Modules) -> bool:
        """Whether any of the rules picks a site."""
        return any(selects(rule, site, modules) for rule in self.candidates(site, modules))

    def leaves_out(self, site: SiteName, modules: Modules) -> bool:
        """Whether any of the rules is about a site, as those of an exclusion are."""
        return any(is_about(rule, site, modules) for rule in self.candidates(site, modules))

    def unmatched(self, sites: Iterable[SiteName], modules: Modules) -> Iterator[Rule]:
        """The rules that pick none of these sites, in their order."""
        met: set[int] = set()
        for site in sites:
            open_rules = (rule for rule in self.candidates(site, modules) if id(rule) not in met)
            met |= {id(rule) for rule in open_rules if selects(rule, site, modules)}
        yield from (rule for rule in self._rules if id(rule) not in met)


class SiteIndex:
    """Sites by the modules that they are of, so that a rule that names one is compared with a few of thousands."""

    def __init__(self, sites: Iterable[SiteName], modules: Modules | None = None) -> None:
        self._sites = list(sites)
        self._by_text: dict[str, list[SiteName]] = defaultdict(list)
        for site in self._sites:
            for text in _texts_of(site, modules):
                self._by_text[text].append(site)

    def candidates(self, rule: Rule) -> list[SiteName]:
        """The sites that a rule may pick."""
        texts = _named_by(rule)
        return list(dict.fromkeys(site for text in texts for site in self._by_text[text])) if texts else self._sites


def _named_by(rule: Rule) -> set[str]:
    """The module that a rule names in full, and the rule itself, as which a module may be called; else nothing."""
    module = split_name(rule)["module"] or "" if isinstance(rule, str) else "*"
    return set() if "*" in module else {module, str(rule)}


def _texts_of(site: SiteName, modules: Modules | None) -> Iterable[str]:
    """What a rule may name to be about a site: its module by each of its names, and the site itself."""
    names = (site,) if modules is None else modules.names_of(site)
    return dict.fromkeys(text for name in names for text in (name.module, str(name)))


def is_about(rule: Rule, name: SiteName, modules: Modules) -> bool:
    """Whether an option for what `rule` picks, or its exclusion, goes for the site `name`.

    A name in full may be any of the module's; a pattern has to pick the first, so that it leaves alone what other parts
    of the model share with those that it picks.
    """
    in_full = isinstance(rule, str) and "*" not in rule
    return selects(rule, name, modules) if in_full else _selects(rule, name, modules.get(name.module))


def _selects(rule: Rule, name: SiteName, module: nn.Module | None) -> bool:
    if isinstance(rule, str):
        parts = split_name(rule)
        return rule == str(name) or (
            _glob(parts["module"] or "").fullmatch(name.module) is not None
            and (parts["call"] in (None, "*") or parts["call"] == str(name.call))
            and (not name.op if parts["op"] is None else _glob(parts["op"]).fullmatch(name.op) is not None)
            and (parts["side"] or "") == name.side
            and (parts["leaf"] is None or _glob(parts["leaf"]).fullmatch(name.leaf) is not None)
        )
    if isinstance(rule, re.Pattern):
        return rule.fullmatch(str(name)) is not None
    if name.side or name.op:
        return False  # modules stand for their outputs; other sides and operations are asked for by name
    if module is None:
        raise SiteError(f"{rule!r} needs the model's modules; here sites are selected by name or regex.")
    return isinstance(module, rule) if isinstance(rule, type) else bool(rule(name.module, module))


def asks_for(rule: Rule, part: str, modules: Container[str] = ()) -> bool:
    """Whether `rule` can pick sites with a `part`: ``input`` or ``grad``, or ``op``.

    A module of the model, whose names `modules` are, may itself be called like ``k:input``.
    """
    if isinstance(rule, re.Pattern):
        return ("~" if part == "op" else f":{part}") in rule.pattern
    if not isinstance(rule, str):
        return False
    ends = (length for length in range(len(rule), 0, -1) if rule[:length] in modules)
    endings = (ENDING.fullmatch(rule[length:]) for length in ends)
    parts = next((found.groupdict() for found in endings if found), None) or split_name(rule)
    return parts["op"] is not None if part == "op" else parts["side"] == part


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
            base: Rule = split_name(rule)["module"] or "" if isinstance(rule, str) and rule not in modules else rule
            if isinstance(base, str) and "*" not in base:
                first = modules.first_of(base)
                found = set() if first is None else {first}
            else:
                found = {name for name in modules if selects(base, SiteName(name), modules)}
            if isinstance(rule, str):  # a module's own name may hold what else ends it, as in ModuleDict({"x[0]": …})
                starts = (rule[:end] for end, character in enumerate(rule) if character in "@~:[")
                found |= {name for name in (rule, *starts) if name in modules}
        if not found:
            raise no_match(rule, modules, type(model).__name__)
        picked |= found
    return {name: module for name, module in modules.items() if name in picked}


def match_names(names: Sequence[str], selector: Selector, *, where: str) -> list[str]:
    """The names that `selector` picks, in the order of `names`; `where` is what the error calls their owner."""
    parsed = {name: SiteName.parse(name) for name in names}
    index, picked = SiteIndex(parsed.values()), set[SiteName]()
    for rule in rules(selector):
        found = {site for site in index.candidates(rule) if selects(rule, site, None)}
        if not found:
            more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
            raise no_match(rule, parsed, where, f"There are {', '.join(names[:_NAMED])}{more}.")
        picked |= found
    return [name for name in names if parsed[name] in picked]


def no_match(rule: Rule, known: Mapping[str, object], where: str, which: str = _WHERE) -> SiteError:
    """The error of a rule that picks none of the `known` sites; `which` is the sentence that tells which there are."""
    asked = repr(rule.pattern if isinstance(rule, re.Pattern) else rule)
    hint = near(rule, known) if isinstance(rule, str) else ""
    return SiteError(f"No site matches {asked} in {where} ({len(known)} sites).{hint} {which}")
