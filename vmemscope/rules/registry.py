# SPDX-License-Identifier: LGPL-2.1-or-later
"""All rules, from all topics."""

from __future__ import annotations

from . import alignment, frames, leaves, pagemap, sections, target
from .catalogue import contents, hugetlb
from .rule import Rule, Scope

__all__ = ("RULES", "rules_of")

#: from the pagemap down to the ``struct page``, HugeTLB last: reports keep that order
_TOPICS = (pagemap, target, alignment, sections, leaves, frames, contents, hugetlb)

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
