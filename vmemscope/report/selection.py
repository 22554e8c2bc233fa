# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Which findings a report shows, and the exit status depends on.

What is left out is counted, with the reason. Nothing else of a report changes: a rule that
failed still counts as failed, and what could not be read is still not read.
"""

from __future__ import annotations

from collections import Counter
from datetime import date
from typing import TYPE_CHECKING, Any, TypeVar

from msgspec import Struct, field
from msgspec.structs import replace

from ..rules.rule import Severity
from ..text import count
from .documents.common import LeftOut, PagemapName, TargetReport
from .documents.page import PageReport
from .documents.pgmap import Report

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..rules.findings import Finding
    from .ignore import Judgement

__all__ = ("Selection",)

_R = TypeVar("_R", bound=TargetReport)


class Selection(Struct, frozen=True):
    """The findings that a user wants to see."""

    #: the least severe findings that are kept
    least: Severity = Severity.NOTE
    #: rules whose findings are kept; none: all
    rules: tuple[str, ...] = ()
    judgements: tuple[Judgement, ...] = ()
    #: the day on which judgements must not have expired
    today: date = field(default_factory=date.today)

    def of(self, report: _R) -> _R:
        """Return a report with the selected findings, and its summary with all others counted."""
        why: Counter[str] = Counter()
        changes: dict[str, Any] = {}
        owner = None
        if isinstance(report, Report):
            changes["pagemaps"] = tuple(
                replace(one, findings=self._kept(one, one.findings, why)) for one in report.pagemaps
            )
        elif isinstance(report, PageReport) and report.place is not None:
            owner = PagemapName(address=report.place.address, name=report.place.name)
        findings = self._kept(owner, report.findings, why)
        selected = report.changed(findings=findings, **changes)
        left_out = LeftOut(
            findings=sum(why.values()),
            reasons=tuple(f"{count(n, 'finding')}: {reason}" for reason, n in why.items()),
            expired=tuple(
                f"{one.words}, on {one.expires}: {one.reason}"
                for one in self.judgements
                if one.expires < self.today
            ),
        )
        return replace(selected, summary=replace(selected.summary, left_out=left_out))

    def _kept(
        self, owner: PagemapName | None, findings: Iterable[Finding], why: Counter[str]
    ) -> tuple[Finding, ...]:
        """Return the findings that are kept, and count the others by reason."""
        kept = []
        for finding in findings:
            reason = self._reason(owner, finding)
            if reason is None:
                kept.append(finding)
            else:
                why[reason] += 1
        return tuple(kept)

    def _reason(self, owner: PagemapName | None, finding: Finding) -> str | None:
        """Return why a finding is left out, ``None`` if it is not."""
        if self.rules and finding.rule not in self.rules:
            return f"not of {', '.join(self.rules)}"
        if self.least < finding.severity:
            return f"less severe than {self.least}"
        for one in self.judgements:
            if one.expires >= self.today and one.covers(owner, finding):
                return f"{one.words} is ignored until {one.expires}: {one.reason}"
        return None
