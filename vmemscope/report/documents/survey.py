# SPDX-License-Identifier: LGPL-2.1-or-later
"""The record of one dump in a survey, written as ``vmemscope.survey/1`` (``docs/survey.md``)."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from ...fields import Address, Count, Facts, Name, RuleId, Seconds, Text, one_of
from ...rules.rule import Severity
from .common import Document, PagemapType
from .pgmap import State
from .summary import Time

__all__ = ("SurveyAudit", "SurveyFinding", "SurveyPagemap", "SurveyRecord")

_Audit = Annotated[str, one_of("pgmap", "hugetlb", "memmap", "page")]


class SurveyAudit(Facts, frozen=True, kw_only=True):
    """One audit of the dump."""

    audit: _Audit
    seconds: Seconds
    #: why it was not made, ``None`` if it was
    error: Text | None


class SurveyPagemap(Facts, frozen=True, kw_only=True):
    """One pagemap in the dump."""

    name: Text | None
    type: PagemapType
    state: State
    pages: Count
    frames: Count
    saved_bytes: Count
    savable_bytes: Count


class SurveyFinding(Facts, frozen=True, kw_only=True):
    """One finding, with the pagemap that it is about."""

    audit: _Audit
    rule: RuleId
    severity: Severity
    #: name and type of the pagemap, ``None`` if it is about none
    pagemap: Text | None
    type: PagemapType | None
    vaddr: Address | None
    pfn: Count | None
    message: Text


class SurveyRecord(Document, frozen=True, kw_only=True, tag="vmemscope.survey/1"):
    """One dump, audited or not."""

    #: absolute path; with size in bytes and time of the last change in nanoseconds since 1970,
    #: it says whether the dump is the one that was audited
    path: Text
    size: Count
    modified: int
    #: when the audit started, UTC
    time: Time
    #: as an exit status: 0 sound, 1 errors, 3 not audited, 4 audited in part
    status: Annotated[int, Meta(extra_json_schema={"enum": [0, 1, 3, 4]})]
    #: in a few words
    verdict: Text
    #: why it, or part of it, was not audited
    error: Text | None
    osrelease: Text | None
    arch: Name | None
    errors: Count
    warnings: Count
    notes: Count
    #: known bugs of the kernel that explain findings
    bugs: tuple[RuleId, ...]
    findings: tuple[SurveyFinding, ...]
    pagemaps: tuple[SurveyPagemap, ...]
    #: what could not be read, in words
    not_read: tuple[Text, ...]
    #: memory that the whole memory map takes, and that deduplication saves of it
    memmap_bytes: Count | None
    saved_bytes: Count | None
    audits: tuple[SurveyAudit, ...]
    seconds: Seconds
    #: most memory that its process had, in bytes
    memory: Count | None

    @property
    def key(self) -> tuple[str, int, int]:
        """Return what identifies the dump, unless it changed."""
        return self.path, self.size, self.modified

    @classmethod
    def failed(
        cls, path: str, size: int, modified: int, *, error: str, time: str, seconds: float
    ) -> SurveyRecord:
        """
        Return the record of a dump that was not audited.

        :param path: of the dump, escaped
        :param size, modified: as in the fields
        :param error: why, in a sentence
        :param time: when the attempt started
        """
        return cls(
            path=path,
            size=size,
            modified=modified,
            time=time,
            status=3,
            verdict="not audited",
            error=error,
            osrelease=None,
            arch=None,
            errors=0,
            warnings=0,
            notes=0,
            bugs=(),
            findings=(),
            pagemaps=(),
            not_read=(),
            memmap_bytes=None,
            saved_bytes=None,
            audits=(),
            seconds=round(seconds, 6),
            memory=None,
        )
