# SPDX-License-Identifier: LGPL-2.1-or-later
"""The catalogue of rules, listed and explained, as text and as ``vmemscope.rules/1``."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

from ..rules.rule import Scope
from .document import head_object

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..rules.rule import Rule

__all__ = ("RULES_SCHEMA", "render_rule", "render_rules", "rules_document")

#: identifier of this version of the document
RULES_SCHEMA = "vmemscope.rules/1"

#: what a rule is evaluated for: in the document, and in words with the command that does it
_SCOPES = {
    Scope.PAGEMAP: ("pagemap", "each pagemap (pgmap)"),
    Scope.TARGET: ("target", "the target as a whole (pgmap)"),
    Scope.MEMORY_MAP: ("memory-map", "all of the memory map (memmap)"),
    Scope.HUGETLB: ("hugetlb", "HugeTLB's folios (hugetlb)"),
    Scope.HUGETLB: ("hugetlb", "HugeTLB's folios, and all of the memory map (hugetlb)"),
}


def render_rules(rules: Sequence[Rule], width: int) -> str:
    """
    List rules, one on a line.

    :param width: columns; what does not fit goes on below
    """
    names = max((len(rule.id) for rule in rules), default=0)
    severities = max((len(str(rule.severity)) for rule in rules), default=0)
    lines: list[str] = []
    for rule in rules:
        start = f"{rule.id:<{names}}  {rule.severity!s:<{severities}}  "
        lines += _wrapped(rule.holds, width, start, " " * len(start))
    return "\n".join(lines) + "\n"


def render_rule(rule: Rule, width: int) -> str:
    """Explain one rule."""
    fields = (
        ("severity", str(rule.severity)),
        ("holds for", f"Linux {rule.versions}, {', '.join(rule.archs) or 'all architectures'}"),
        ("evaluated for", "; ".join(words for _, words in _scopes(rule))),
        ("kernel source", rule.source),
    )
    lines = [rule.id, *_wrapped(rule.holds, width, "  ", "  "), ""]
    for name, value in fields:
        lines += _wrapped(value, width, f"  {name:<13}  ", " " * 17)
    for title, text in (
        ("What it means when it does not hold", rule.meaning),
        ("What to look at next", rule.look_at),
    ):
        lines += ["", title, *_wrapped(text, width, "  ", "  ")]
    return "\n".join(lines) + "\n"


def rules_document(rules: Sequence[Rule]) -> dict[str, Any]:
    """Turn rules into the JSON document, as plain dictionaries and lists."""
    return {
        **head_object(RULES_SCHEMA),
        "rules": [_rule(rule) for rule in rules],
    }


def _rule(rule: Rule) -> dict[str, Any]:
    return {
        "id": rule.id,
        "severity": str(rule.severity),
        "text": rule.holds,
        "source": rule.source,
        "since": rule.since,
        "until": rule.until,
        "archs": list(rule.archs),
        "scope": [name for name, _ in _scopes(rule)],
        "meaning": rule.meaning,
        "look_at": rule.look_at,
    }


def _scopes(rule: Rule) -> list[tuple[str, str]]:
    return [names for scope, names in _SCOPES.items() if scope in rule.scope]


def _wrapped(text: str, width: int, first: str, later: str) -> list[str]:
    return textwrap.wrap(
        text,
        max(width, len(later) + 20),
        initial_indent=first,
        subsequent_indent=later,
        break_long_words=False,
        break_on_hyphens=False,
    )
