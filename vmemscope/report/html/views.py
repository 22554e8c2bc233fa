# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the HTML report shows, prepared for its templates; bounded, whatever the target."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from ...rules import RULES
from ...rules.findings import Outcome
from ...rules.rule import Severity
from ..table import totals
from ..words import outcome_counts
from .compound import Drawing, draw
from .pictures import Picture, area_bar, folio_bar, frame_bar
from .strip import Strip, draw_strip

if TYPE_CHECKING:
    from ...rules.findings import RuleOutcome
    from ...rules.rule import Rule
    from ..documents.full import Covering, FullReport
    from ..documents.hugetlb import HstateReport
    from ..documents.memmap import Area
    from ..documents.pgmap import PagemapReport

__all__ = ("View",)

#: devices that are drawn, findings that are listed, areas that have a bar
_MAX_DEVICES, _MAX_FINDINGS, _MAX_AREAS = 48, 200, 64


class Device(NamedTuple):
    """A pagemap, drawn."""

    report: PagemapReport
    #: in links
    anchor: str
    bytes: int
    strip: Strip
    frames: Picture
    drawing: Drawing | None


class View:
    """The parts of a report, as they are shown."""

    def __init__(self, report: FullReport) -> None:
        self.report = report

    @cached_property
    def _findings(self) -> tuple[Covering, ...]:
        return self.report.covering()

    @property
    def findings(self) -> Sequence[Covering]:
        """The findings that are listed, worst first."""
        return self._findings[:_MAX_FINDINGS]

    @property
    def findings_left_out(self) -> int:
        return len(self._findings) - len(self.findings)

    @cached_property
    def counts(self) -> list[tuple[str, int]]:
        """Findings by severity, those that there are."""
        found = Counter(one.finding.severity for one in self._findings)
        return [(str(one), found[one]) for one in Severity if found[one]]

    @cached_property
    def rules(self) -> list[Rule]:
        """The rules with findings that are listed, or that cover a page."""
        names = [rule for one in self.findings for rule in (one.finding.rule, *one.also)]
        names += [one.finding.rule for page in self.report.pages for one in page.findings]
        return [RULES[name] for name in dict.fromkeys(names) if name in RULES]

    @cached_property
    def known(self) -> set[str]:
        """Names of these rules, which are explained."""
        return {one.id for one in self.rules}

    @cached_property
    def devices(self) -> list[Device]:
        """The pagemaps that are drawn: those with findings first, then the largest."""
        if self.report.pgmap is None:
            return []
        pagemaps = self.report.pgmap.pagemaps
        anchors = {one.address: f"device-{number}" for number, one in enumerate(pagemaps)}
        chosen = sorted(pagemaps, key=lambda one: (not one.findings, -one.vmemmap.pages))
        wanted = {one.address for one in chosen[:_MAX_DEVICES]}
        findings = [one.finding for one in self._findings]
        return [
            Device(
                report=one,
                anchor=anchors[one.address],
                bytes=sum(part.size for part in one.detail.ranges),
                strip=draw_strip(one, findings, self.report.section_size),
                frames=frame_bar(one),
                drawing=draw(one),
            )
            for one in pagemaps
            if one.address in wanted
        ]

    @cached_property
    def anchors(self) -> dict[int, str]:
        """Address of a pagemap that is drawn -> its anchor."""
        return {one.report.address: one.anchor for one in self.devices}

    @cached_property
    def areas(self) -> list[tuple[Area, Picture]]:
        """The largest parts of the memory map, in their order."""
        if self.report.memmap is None:
            return []
        areas = self.report.memmap.areas
        most = max((one.pages for one in areas), default=0)
        wanted = sorted(range(len(areas)), key=lambda number: -areas[number].pages)[:_MAX_AREAS]
        return [(areas[number], area_bar(areas[number], most)) for number in sorted(wanted)]

    @cached_property
    def hstates(self) -> list[tuple[HstateReport, Picture]]:
        """The sizes of huge pages that have folios."""
        if self.report.hugetlb is None:
            return []
        return [
            (one, folio_bar(one))
            for one in self.report.hugetlb.hstates
            if one.folios or one.nr_huge_pages
        ]

    @cached_property
    def totals(self) -> list[str]:
        """Sums over all pagemaps, and what was checked."""
        return totals(self.report.pgmap) if self.report.pgmap is not None else []

    @cached_property
    def checked(self) -> list[tuple[str, str, list[RuleOutcome]]]:
        """Of each audit its name, how many rules held, and the rules that were skipped."""
        report = self.report
        found = []
        if report.pgmap is not None:
            outcomes = report.pgmap.all_outcomes()
            found.append(("pagemaps", outcomes, report.pgmap.every_finding()))
        if report.hugetlb is not None:
            found.append(("HugeTLB", [*report.hugetlb.outcomes], report.hugetlb.findings))
        if report.memmap is not None:
            found.append(("memory map", [*report.memmap.outcomes], report.memmap.findings))
        return [
            (name, outcome_counts(outcomes, findings), _skipped(outcomes))
            for name, outcomes, findings in found
        ]


def _skipped(outcomes: Sequence[RuleOutcome]) -> list[RuleOutcome]:
    """Return the outcomes with a reason, one of each rule and reason."""
    found = {
        (one.rule, one.reason): one
        for one in outcomes
        if one.reason and one.outcome is not Outcome.FAILED
    }
    return list(found.values())
