# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Layouts that kernels build wrong, simulated: told as on the real kernels.

``tests/guests/test_broken_layouts.py`` boots the real ones; the numbers are the
same, because the scenarios are of the same devices.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest

from vmemscope.report.documents.pgmap import Report
from vmemscope.rules.findings import Finding
from vmemscope.rules.rule import Severity
from vmemscope.sim.image import Image

from .kernels import KERNELS

Audited = Callable[[str, str], tuple[Report, Image]]


class Broken(NamedTuple):
    scenario: str
    #: rule of the warning, and what it has to say
    lint: str
    words: tuple[str, ...]
    #: rule of the errors, and what all of them have to say
    rule: str
    count: int
    damage: str


OFF_A_SECTION = Broken(
    "unaligned-section-1g",
    "section-alignment",
    ("starts in the middle of a section", "maps 12031 of the 12032 pages", "I/O to it hangs"),
    "frame-shared",
    4,
    "which 12031 entries map in all",
)
EARLY = Broken(
    "early-1g",
    "section-alignment",
    ("inside a section that was there at boot", "maps 6656 of the 6912 pages", "I/O to it hangs"),
    "frame-not-memory",
    1,
    "the frame that 6656 entries map",
)
OFF_A_GIGABYTE = Broken(
    "unaligned-1g",
    "mask-alignment",
    ("every tail page resolves to a wrong head",),
    "compound-head",
    3,
    "all 127 tail pages checked",
)


def told(report: Report, rule: str) -> list[Finding]:
    return [finding for _, finding in report.all_findings() if finding.rule == rule]


@pytest.mark.parametrize(
    ("kernel", "broken"),
    [
        *((kernel, broken) for kernel in KERNELS for broken in (OFF_A_SECTION, EARLY)),
        ("7.2", OFF_A_GIGABYTE),
    ],
)
def test_damage_cause_and_consequence(audited: Audited, kernel: str, broken: Broken) -> None:
    report, _ = audited(broken.scenario, kernel)
    errors = told(report, broken.rule)
    assert len(errors) == broken.count
    assert all(broken.damage in finding.message for finding in errors)
    (warning,) = told(report, broken.lint)
    assert warning.severity is Severity.WARNING
    for word in (*broken.words, "(SIGBUS)", "recreate the device at a multiple of 1 GiB"):
        assert word in warning.message


@pytest.mark.parametrize("kernel", KERNELS)
def test_names_as_on_real_kernels(audited: Audited, kernel: str) -> None:
    """What /proc/iomem has around the ranges differs by kernel; the names do not."""
    report, _ = audited("interleaved-ranges", kernel)
    assert [one.name for one in report.pagemaps] == ["dax0.1", "dax0.2", "dax1.1", "dax1.2"]
    assert [len(one.ranges) for one in report.pagemaps] == [2, 1, 2, 1]
    # Two frames for each compound page: 128, 32 of 2 MiB, 6 and 2 of 1 GiB.
    assert [one.frames.backing for one in report.pagemaps] == [256, 64, 12, 4]
