# SPDX-License-Identifier: LGPL-2.1-or-later
"""The catalogue of rules and of known bugs as text: a list, and one explained."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..rules.rule import Scope
from .documents.rules import ListedBug, ListedRule, RuleList, ScopeName
from .width import wrapped

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..rules.bugs import KnownBug
    from ..rules.rule import Rule

__all__ = ("render_bug", "render_rule", "render_rules", "rule_list")

#: what a rule is evaluated for: in the document, and in words with the command that does it
_SCOPES: dict[Scope, tuple[ScopeName, str]] = {
    Scope.PAGEMAP: ("pagemap", "each pagemap (pgmap)"),
    Scope.TARGET: ("target", "the target as a whole (pgmap)"),
    Scope.MEMORY_MAP: ("memory-map", "all of the memory map (memmap)"),
    Scope.HUGETLB: ("hugetlb", "HugeTLB's folios, and all of the memory map (hugetlb)"),
}


def render_rules(rules: Sequence[Rule], bugs: Sequence[KnownBug], width: int) -> str:
    """
    Return a list of rules, one on a line, and of known bugs of kernels.

    :param width: columns; longer lines are wrapped
    """
    names = max((len(rule.id) for rule in rules), default=0)
    severities = max((len(str(rule.severity)) for rule in rules), default=0)
    lines: list[str] = []
    for rule in rules:
        start = f"{rule.id:<{names}}  {rule.severity!s:<{severities}}  "
        lines += wrapped(rule.holds, width, start, " " * len(start))
    if bugs:
        lines += ["", "Known bugs of kernels: this kernel ..."]
    names = max((len(bug.id) for bug in bugs), default=0)
    for bug in bugs:
        start = f"{bug.id:<{names}}  "
        lines += wrapped(f"{bug.title}: {bug.versions}", width, start, " " * len(start))
    return "\n".join(lines) + "\n"


def render_rule(rule: Rule, width: int) -> str:
    """Return the explanation of one rule."""
    return _explained(
        rule.id,
        rule.holds,
        {
            "severity": str(rule.severity),
            "holds for": f"Linux {rule.versions}, {', '.join(rule.archs) or 'all architectures'}",
            "evaluated for": "; ".join(words for _, words in _scopes(rule)),
            "kernel source": rule.source,
        },
        {"What it means when it does not hold": rule.meaning, "What to check next": rule.look_at},
        width,
    )


def render_bug(bug: KnownBug, width: int) -> str:
    """Return the explanation of one known bug of kernels."""
    return _explained(
        bug.id,
        f"a known bug: this kernel {bug.title}",
        {"versions": bug.versions, "seen in": bug.seen, "explains": ", ".join(bug.explains)},
        {"What it means": bug.meaning, "What to do": f"{bug.action[0].upper()}{bug.action[1:]}."},
        width,
    )


def _explained(
    name: str, what: str, fields: dict[str, str], texts: dict[str, str], width: int
) -> str:
    lines = [name, *wrapped(what, width, "  ", "  "), ""]
    for field, value in fields.items():
        lines += wrapped(value, width, f"  {field:<13}  ", " " * 17)
    for title, text in texts.items():
        lines += ["", title, *wrapped(text, width, "  ", "  ")]
    return "\n".join(lines) + "\n"


def rule_list(rules: Sequence[Rule], bugs: Sequence[KnownBug]) -> RuleList:
    """Return the document of rules and known bugs."""
    return RuleList(
        rules=tuple(
            ListedRule.of(rule, text=rule.holds, scope=tuple(name for name, _ in _scopes(rule)))
            for rule in rules
        ),
        bugs=tuple(map(ListedBug.of, bugs)),
    )


def _scopes(rule: Rule) -> list[tuple[ScopeName, str]]:
    return [names for scope, names in _SCOPES.items() if scope in rule.scope]
