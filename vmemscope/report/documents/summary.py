# SPDX-License-Identifier: LGPL-2.1-or-later
"""
One audit in one line, written as ``vmemscope.summary/1`` (``docs/formats.md``).

An audit that failed leaves a line too, so that many lines together say how many targets
there were, and which of them could not be audited.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from ...errors import ExitStatus
from ...fields import Count, Facts, Name, RuleId, Seconds, Text, one_of
from ...rules.findings import Outcome
from ...rules.rule import Severity
from .common import Document, LeftOut

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ...rules.findings import Finding
    from ...timing import Stopwatch
    from .common import TargetReport

__all__ = ("AuditedPart", "RuleFindings", "SummaryLine", "SummaryTarget", "counted_findings")

Time = Annotated[str, Meta(pattern="^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$")]


class SummaryTarget(Facts, frozen=True, kw_only=True):
    """The target, and as much of the kernel in it as is known."""

    kind: Annotated[str, one_of("core", "live", "qemu")]
    path: Text
    #: ``None`` if the target could not be audited
    osrelease: Text | None = None
    arch: Name | None = None


class RuleFindings(Facts, frozen=True):
    """How many findings a rule has."""

    rule: RuleId
    severity: Severity
    findings: Count


class AuditedPart(Facts, frozen=True, kw_only=True):
    """How much was read; ``None`` for what the audit does not count."""

    pagemaps: Count | None
    folios: Count | None
    #: base pages of the vmemmap, and the frames behind them
    pages: Count | None
    frames: Count | None


class SummaryLine(Document, frozen=True, kw_only=True, tag="vmemscope.summary/1"):
    """One audit of one target."""

    audit: Annotated[str, one_of("pgmap", "hugetlb", "memmap")]
    target: SummaryTarget
    #: when the audit started, UTC
    time: Time
    #: exit status of the command
    status: Annotated[int, Meta(extra_json_schema={"enum": [0, 1, 3, 4]})]
    #: in a few words
    verdict: Text
    #: why there was no audit; ``None`` if there was one
    error: Text | None
    errors: Count
    warnings: Count
    notes: Count
    #: rules with findings, by severity and in order of their names
    found: tuple[RuleFindings, ...]
    #: rules by outcome, one rule for one pagemap as one
    rules_checked: Count
    rules_skipped: Count
    rules_failed: Count
    read: AuditedPart
    #: what could not be read, in words
    not_read: tuple[Text, ...]
    left_out: LeftOut
    #: ``None`` if there was no audit
    saved_bytes: int | None
    seconds: Seconds

    @classmethod
    def about(cls, report: TargetReport, verdict: str, watch: Stopwatch) -> SummaryLine:
        """
        Return the line of a report.

        :param verdict: in a few words
        :param watch: started with the audit
        """
        summary = report.summary
        outcomes = Counter(one.outcome for one in report.all_outcomes())
        return cls(
            audit=report.audit,
            target=SummaryTarget.of(report.target),
            time=timestamp(watch.started),
            status=int(report.status),
            verdict=verdict,
            error=None,
            errors=summary.errors,
            warnings=summary.warnings,
            notes=summary.notes,
            found=counted_findings(report.every_finding()),
            rules_checked=outcomes[Outcome.CHECKED],
            rules_skipped=outcomes[Outcome.SKIPPED],
            rules_failed=outcomes[Outcome.FAILED],
            read=AuditedPart(
                pagemaps=getattr(summary, "pagemaps", None),
                folios=getattr(summary, "folios", None),
                pages=_first(summary, "vmemmap_pages", "mapped", "walked"),
                frames=_first(summary, "backing_frames", "frames"),
            ),
            not_read=report.not_read,
            left_out=summary.left_out,
            saved_bytes=summary.saved_bytes,
            seconds=round(watch.seconds, 6),
        )

    @classmethod
    def failed(cls, audit: str, target: SummaryTarget, error: str, watch: Stopwatch) -> SummaryLine:
        """
        Return the line of an audit that was not made.

        :param audit: name of the command
        :param error: why, in a sentence
        :param watch: started with the attempt
        """
        return cls(
            audit=audit,
            target=target,
            time=timestamp(watch.started),
            status=int(ExitStatus.CANNOT_AUDIT),
            verdict="not audited",
            error=error,
            errors=0,
            warnings=0,
            notes=0,
            found=(),
            rules_checked=0,
            rules_skipped=0,
            rules_failed=0,
            read=AuditedPart(pagemaps=None, folios=None, pages=None, frames=None),
            not_read=(),
            left_out=LeftOut(),
            saved_bytes=None,
            seconds=round(watch.seconds, 6),
        )


def counted_findings(findings: Iterable[Finding]) -> tuple[RuleFindings, ...]:
    """Count findings by severity, worst first, and rule."""
    counted = Counter((one.severity, one.rule) for one in findings)
    return tuple(RuleFindings(rule, s, counted[s, rule]) for s, rule in sorted(counted))


def timestamp(seconds: float) -> str:
    """Format seconds since 1970 as a time in UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _first(summary: object, *names: str) -> int | None:
    """Return the first of some fields that a summary has."""
    return next((getattr(summary, name) for name in names if hasattr(summary, name)), None)
