# SPDX-License-Identifier: LGPL-2.1-or-later
"""All rules, from all topics."""

from __future__ import annotations

from . import (
    alignment,
    frames,
    hugetlb_folios,
    hugetlb_halves,
    hugetlb_lists,
    hugetlb_poisoned,
    hugetlb_tails,
    hugetlb_vmemmap,
    leaves,
    pagemap,
    ram_orders,
    sections,
    shared_tails,
    struct_pages,
    target,
)
from .rule import Rule, Scope

__all__ = ("RULES", "rules_of")

#: from the pagemap down to the ``struct page``, HugeTLB last: reports keep that order
_TOPICS = (
    pagemap, target, alignment, sections, ram_orders, leaves, frames, shared_tails, struct_pages,
    hugetlb_lists, hugetlb_folios, hugetlb_poisoned, hugetlb_halves, hugetlb_tails,
    hugetlb_vmemmap,
)  # fmt: skip

#: all rules by their identifiers
RULES: dict[str, Rule] = {
    one.id: one for topic in _TOPICS for one in vars(topic).values() if isinstance(one, Rule)
}


def rules_of(scope: Scope, arch: str, scheme: str | None = None) -> tuple[Rule, ...]:
    """
    Return the rules that are evaluated for a scope, in their order.

    :param arch: the architecture's name, as ``uname -m`` prints it
    :param scheme: identifier of the way that the kernel shares tail pages in
    """
    return tuple(
        rule
        for rule in RULES.values()
        if scope in rule.scope
        and (not rule.archs or arch in rule.archs)
        and (not rule.schemes or scheme in rule.schemes)
    )
