"""What a reader of a comparison has to know: what isn't comparable, a sentence each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from probekit._compare.members import Member

__all__ = ["incomparable"]

_NAMED = 4  # sites that a sentence names
_FEW_CLASSES = 3  # by whose pairs rsa can't tell much


def incomparable(members: Sequence[Member], common: Sequence[Member]) -> list[str]:
    """What the stores don't have in common; `common` are they with their common samples alone."""
    first, first_common = members[0], common[0]
    found = [*_samples(members, common), *_pairs(first_common)]
    for other, other_common in zip(members[1:], common[1:], strict=True):
        found += [*_sites(first, other), *_data(first, other)]
        found += [*_classes(first, other), *_labels(first_common, other_common)]
        for site in (site for site in first.chosen if site in other.chosen):
            found += _at_site(site, first, other)
    return found


def _samples(members: Sequence[Member], common: Sequence[Member]) -> Iterator[str]:
    count = common[0].samples
    if any(member.samples > count for member in members):
        have = ", ".join(f"{member.name} has {member.samples:,}" for member in members)
        yield f"The stores have {count:,} samples in common, and only these are compared: {have}."
    for member, cut in zip(members, common, strict=True):
        lost = {name: source.rows - cut.sources[name].rows for name, source in member.sources.items() if source.tokens}
        if any(lost.values()):
            named = [f"{number:,} at {site}" for site, number in lost.items() if number]
            yield f"Tokens of {member.name} that aren't in all stores are left out: {_some(named)}."


def _pairs(member: Member) -> Iterator[str]:
    """That there are too few pairs of classes for rsa: three stand in the same order by chance once in six times."""
    classes = 0 if member.labels is None else len(np.unique(member.labels))
    if classes == _FEW_CLASSES:
        yield "rsa ranks the 3 pairs of 3 classes, which have 6 orders: 1 and -1 come by chance one time in six each."
    elif 0 < classes < _FEW_CLASSES:
        yield "rsa has no number: it ranks pairs of classes, and needs three classes."


def _sites(first: Member, other: Member) -> Iterator[str]:
    for one, two in ((first, other), (other, first)):
        if only := [site for site in one.chosen if site not in two.chosen]:
            yield f"Only {one.name} has {_some(only)}, and {two.name} hasn't: no metric is compared there."


def _data(first: Member, other: Member) -> Iterator[str]:
    differing = [
        f"{name.replace('_', ' ')} ({first.attrs[name]} and {other.attrs[name]})"
        for name in ("data", "data_split", "preprocessing")
        if name in first.attrs and name in other.attrs and first.attrs[name] != other.attrs[name]
    ]
    if differing:
        yield (
            f"{first.name} and {other.name} differ in {'; '.join(differing)}: samples with one sample_id may not be "
            "the same."
        )


def _classes(first: Member, other: Member) -> Iterator[str]:
    if first.class_names != other.class_names:
        yield (
            f"The classes of {first.name} are {_some(first.class_names) or 'none'}, and those of {other.name} "
            f"{_some(other.class_names) or 'none'}: metrics of classes are each of the store's own."
        )


def _labels(first: Member, other: Member) -> Iterator[str]:
    if (first.labels is None) != (other.labels is None):
        without = first if first.labels is None else other
        yield f"{without.name} has no labels: its metrics are those of all samples together."
    elif first.labels is not None and other.labels is not None:
        apart = int(np.count_nonzero(first.labels != other.labels))
        if apart:
            yield (
                f"{apart:,} of {first.samples:,} common samples have another label in {other.name} than in "
                f"{first.name}: they may not be the same samples. RSA goes by those of {first.name}."
            )


def _at_site(site: str, first: Member, other: Member) -> Iterator[str]:
    """How what is kept of the activations differs."""
    a, b = first.sources[site], other.sources[site]
    if a.tokens != b.tokens:
        tokens = first if a.tokens else other
        yield f"{site} has a row for each token in {tokens.name} only: it isn't compared node by node."
    if a.nodes != b.nodes:
        yield f"{site} has {a.nodes:,} nodes in {first.name} and {b.nodes:,} in {other.name}: nodes have no partners."
    differing = [
        f"{name.replace('_', ' ')} ({a.attrs.get(name, 'none')} and {b.attrs.get(name, 'none')})"
        for name in ("type", "kind", "reduce", "node_dim")
        if a.attrs.get(name, "none") != b.attrs.get(name, "none")
    ]
    if str(a.variable.dtype) != str(b.variable.dtype):
        differing.append(f"stored dtype ({a.variable.dtype} and {b.variable.dtype})")
    if differing:
        yield f"At {site}, {first.name} and {other.name} differ in {'; '.join(differing)}."


def _some(named: Sequence[str]) -> str:
    more = len(named) - _NAMED
    return ", ".join([*named[:_NAMED], *([f"{more} more"] if more > 0 else [])])
