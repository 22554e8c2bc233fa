# SPDX-License-Identifier: LGPL-2.1-or-later
"""The changes between two reports, written as ``vmemscope.diff/1`` (``docs/diff.md``)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import UNSET, field

from ...fields import Count, Facts, Text
from ...rules.findings import Finding
from .common import Document, PagemapName
from .pgmap import Range, State

__all__ = (
    "Change",
    "Diff",
    "FindingsDiff",
    "NotEvaluated",
    "PagemapBrief",
    "PagemapDiff",
    "PagemapsDiff",
    "Source",
)

if TYPE_CHECKING:
    _Reason = str | None
    _NO_REASON: Any
else:
    # For msgspec: a field that no document has.
    from msgspec import UnsetType as _Reason

    _NO_REASON = UNSET


class Source(Facts, frozen=True):
    """A compared report: a file or a target."""

    source: Text
    kind: Text
    osrelease: Text
    arch: Text


class PagemapBrief(PagemapName, frozen=True, kw_only=True):
    """A pagemap that only one of two reports has."""

    type: Text
    ranges: tuple[Range, ...]
    frames: Count
    saved_bytes: Count
    state: State
    reason: Text | None
    findings: tuple[Finding, ...]


class Change(Facts, frozen=True):
    """A value that differs from before."""

    field: Text
    before: Text | int | None
    after: Text | int | None
    #: whether the change is for the worse
    worse: bool = False


class NotEvaluated(Facts, frozen=True):
    """A rule that did not hold and now is not evaluated: its findings may only not be seen."""

    rule: Text
    reason: Text


class FindingsDiff(Facts, frozen=True):
    """Findings that are new, and that are gone."""

    new: tuple[Finding, ...] = ()
    gone: tuple[Finding, ...] = ()
    #: rule -> violations, where there are more or fewer than are reported one by one
    violations: tuple[Change, ...] = ()
    not_evaluated: tuple[NotEvaluated, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.new or self.gone or self.violations or self.not_evaluated)


class PagemapDiff(Facts, frozen=True, kw_only=True):
    """A pagemap in both reports."""

    before: PagemapName
    after: PagemapName
    changes: tuple[Change, ...]
    findings: FindingsDiff
    #: why it is in its state now; not in the document
    reason: _Reason = _NO_REASON

    def __bool__(self) -> bool:
        return bool(self.changes or self.findings)


class PagemapsDiff(Facts, frozen=True):
    """Pagemaps that only one report has, and those in both of which something changed."""

    came: tuple[PagemapBrief, ...]
    gone: tuple[PagemapBrief, ...]
    changed: tuple[PagemapDiff, ...]

    def __bool__(self) -> bool:
        return bool(self.came or self.gone or self.changed)


class Diff(Document, frozen=True, kw_only=True, tag="vmemscope.diff/1"):
    """All that changed."""

    before: Source
    after: Source
    #: what got worse, in words
    worse: tuple[Text, ...]
    #: pagemaps that went, and whose memory is not all in other pagemaps now, in words
    went: tuple[Text, ...]
    pagemaps: PagemapsDiff = field(name="pgmaps")
    #: findings of no single pagemap
    findings: FindingsDiff
    #: what could not be read now and could before, in words
    not_read: tuple[Text, ...]
    #: of all pagemaps together, changed or not
    totals: tuple[Change, ...]

    def __bool__(self) -> bool:
        return bool(self.pagemaps or self.findings or self.not_read)
