# SPDX-License-Identifier: LGPL-2.1-or-later
"""Rules and findings: what must hold, and what is off, where, by which rule."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from enum import IntEnum

__all__ = ("Collector", "Finding", "Rule", "Severity")

#: findings of one rule that are told one by one, for each pagemap
_LIMIT = 16


class Severity(IntEnum):
    """How bad a finding is, worst first."""

    ERROR = 0
    WARNING = 1
    NOTE = 2

    def __str__(self) -> str:
        return self.name.lower()


@dataclass(frozen=True)
class Rule:
    """One rule of the catalogue (:mod:`vmemscope.rules`)."""

    #: identifier, as it stands in reports
    id: str
    severity: Severity
    #: what must hold
    text: str
    #: where the kernel makes it so, and the versions it holds for
    source: str


@dataclass(frozen=True)
class Finding:
    """One violation of one rule."""

    #: identifier of the rule
    rule: str
    severity: Severity
    #: virtual address that it is at, in bytes, or ``None``
    vaddr: int | None
    #: page frame that backs ``vaddr``, or ``None``
    pfn: int | None
    expected: str | int | None
    observed: str | int | None
    message: str


class Collector:
    """Collect findings, a bounded number of each rule, the rest counted."""

    def __init__(self) -> None:
        self._findings: list[Finding] = []
        self._seen: Counter[str] = Counter()

    def add(
        self,
        rule: Rule,
        message: str,
        *,
        vaddr: int | None = None,
        pfn: int | None = None,
        expected: str | int | None = None,
        observed: str | int | None = None,
    ) -> None:
        """Add one finding."""
        self._seen[rule.id] += 1
        if self._seen[rule.id] <= _LIMIT:
            self._findings.append(
                Finding(rule.id, rule.severity, vaddr, pfn, expected, observed, message)
            )

    def add_uncounted(self, rule: Rule, more: int) -> None:
        """Count findings of a rule that were not worth building one by one."""
        self._seen[rule.id] += more

    def room(self, rule: Rule) -> int:
        """Tell how many more findings of a rule will be told one by one."""
        return max(_LIMIT - self._seen[rule.id], 0)

    def finish(self) -> tuple[Finding, ...]:
        """Get the findings, worst first and in order of address."""
        findings = list(self._findings)
        for rule, count in self._seen.items():
            if count > _LIMIT:
                last = max(i for i, f in enumerate(findings) if f.rule == rule)
                findings[last] = replace(
                    findings[last],
                    message=f"{findings[last].message} (and {count - _LIMIT} more like it)",
                )
        return tuple(sorted(findings, key=lambda f: (f.severity, f.rule, f.vaddr or 0)))
