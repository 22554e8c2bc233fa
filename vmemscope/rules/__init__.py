# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The rules: what must hold for the kernel's memory map.

A module for each topic; in it each rule is one function with its text, its source in
the kernel, its check and its sentence (:mod:`.rule`). :mod:`.findings` evaluates them.
"""

from __future__ import annotations

from . import frames, hugetlb, hugetlb_tails, hugetlb_vmemmap, struct_pages
from .catalogue import alignment, mapping, pagemap, sections, target
from .rule import Rule, Scope

__all__ = ("RULES", "rules_of")

#: from the pagemap down to the ``struct page``, HugeTLB last: reports keep that order
_TOPICS = (
    pagemap,
    target,
    alignment,
    sections,
    mapping,
    frames,
    struct_pages,
    hugetlb,
    hugetlb_tails,
    hugetlb_vmemmap,
)

#: all rules by their identifiers
RULES: dict[str, Rule] = {
    one.id: one
    for topic in _TOPICS
    for one in (*getattr(topic, "RULES", ()), *vars(topic).values())
    if isinstance(one, Rule)
}


def rules_of(scope: Scope) -> tuple[Rule, ...]:
    """Get the rules that are evaluated for something, in their order."""
    return tuple(rule for rule in RULES.values() if scope in rule.scope)
