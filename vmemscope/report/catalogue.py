# SPDX-License-Identifier: LGPL-2.1-or-later
"""The catalogue of rules as text: a list, and one rule explained."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..rules.rule import Scope
from .documents.rules import ListedRule, RuleList, ScopeName
from .words import wrapped

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..rules.rule import Rule

__all__ = ("render_rule", "render_rules", "rule_list")

#: what a rule is evaluated for: in the document, and in words with the command that does it
_SCOPES: dict[Scope, tuple[ScopeName, str]] = {
    Scope.PAGEMAP: ("pagemap", "each pagemap (pgmap)"),
    Scope.TARGET: ("target", "the target as a whole (pgmap)"),
    Scope.MEMORY_MAP: ("memory-map", "all of the memory map (memmap)"),
    Scope.HUGETLB: ("hugetlb", "HugeTLB's folios, and all of the memory map (hugetlb)"),
}


def render_rules(rules: Sequence[Rule], width: int) -> str:
    """
    Return a list of rules, one on a line.

    :param width: columns; longer lines are wrapped
    """
    names = max((len(rule.id) for rule in rules), default=0)
    severities = max((len(str(rule.severity)) for rule in rules), default=0)
    lines: list[str] = []
    for rule in rules:
        start = f"{rule.id:<{names}}  {rule.severity!s:<{severities}}  "
        lines += wrapped(rule.holds, width, start, " " * len(start))
    return "\n".join(lines) + "\n"


def render_rule(rule: Rule, width: int) -> str:
    """Return the explanation of one rule."""
    fields = (
        ("severity", str(rule.severity)),
        ("holds for", f"Linux {rule.versions}, {', '.join(rule.archs) or 'all architectures'}"),
        ("evaluated for", "; ".join(words for _, words in _scopes(rule))),
        ("kernel source", rule.source),
    )
    lines = [rule.id, *wrapped(rule.holds, width, "  ", "  "), ""]
    for name, value in fields:
        lines += wrapped(value, width, f"  {name:<13}  ", " " * 17)
    for title, text in (
        ("What it means when it does not hold", rule.meaning),
        ("What to check next", rule.look_at),
    ):
        lines += ["", title, *wrapped(text, width, "  ", "  ")]
    return "\n".join(lines) + "\n"


def rule_list(rules: Sequence[Rule]) -> RuleList:
    """Return the document of rules."""
    return RuleList(
        rules=tuple(
            ListedRule.of(rule, text=rule.holds, scope=tuple(name for name, _ in _scopes(rule)))
            for rule in rules
        )
    )


def _scopes(rule: Rule) -> list[tuple[ScopeName, str]]:
    return [names for scope, names in _SCOPES.items() if scope in rule.scope]
