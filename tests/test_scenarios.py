# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Simulated kernels under audit.

Sound ones must give no finding. What is found of planted faults is in
``test_fault_matrix``; here is what a report says of some of them besides.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from vmemscope.report.documents.pgmap import Report
from vmemscope.rules.rule import Severity
from vmemscope.sim import builtin_scenarios
from vmemscope.sim.faults import Planted

from .kernels import KERNELS, SIMULATED

Audited = Callable[[str, str], tuple[Report, list[Planted]]]

SECTION_1G = {"frame-shared": 4, "section-alignment": 1}
EARLY_1G = {"frame-not-memory": 1, "section-alignment": 1}
MASK = {"compound-head": 3, "mask-alignment": 1}
# What the kernel does right, and 7.2 can't.
NOTE = {"compound-alignment": 1}
# Heads in the frame that all devices of the node share, which is checked apart.
SHARED_1G = {
    **{"frame-shared": 1, "section-alignment": 1, "mask-alignment": 1, "compound-head": 2},
    **{"stray-head": 1, "page-refcount": 1, "tail-contents": 1},
}
#: layouts that stock kernels build wrong (1G pages off a boundary): findings by rule, as
#: tests/guests/test_broken_layouts.py sees them on the real kernels
BROKEN = {
    ("unaligned-1g", "6.1"): NOTE,
    ("unaligned-1g", "6.12"): NOTE,
    ("unaligned-1g", "7.2"): MASK,
    ("mixed", "6.1"): NOTE,
    ("mixed", "6.12"): NOTE,
    ("mixed", "7.2"): MASK,
    **{("unaligned-section-1g", kernel): SECTION_1G for kernel in KERNELS},
    ("early-1g", "6.1"): EARLY_1G | NOTE,
    ("early-1g", "6.12"): EARLY_1G | NOTE,
    ("early-1g", "7.2"): EARLY_1G | {"compound-head": 1, "mask-alignment": 1},
    ("unaligned-1g", "next"): MASK,
    ("mixed", "next"): MASK,
    ("unaligned-section-1g", "next"): SHARED_1G | {"frame-shared": 2},
    ("early-1g", "next"): SHARED_1G,
}


@pytest.mark.parametrize("kernel", SIMULATED)
@pytest.mark.parametrize("scenario", builtin_scenarios())
def test_scenario(audited: Audited, scenario: str, kernel: str) -> None:
    report, _ = audited(scenario, kernel)
    rules = Counter(f.rule for _, f in report.all_findings())
    assert rules == BROKEN.get((scenario, kernel), {})


@pytest.mark.parametrize("kernel", KERNELS)
def test_names_as_on_real_kernels(audited: Audited, kernel: str) -> None:
    """What /proc/iomem has around the ranges differs by kernel; the names do not."""
    report, _ = audited("interleaved-ranges", kernel)
    assert [one.name for one in report.pagemaps] == ["dax0.1", "dax0.2", "dax1.1", "dax1.2"]
    assert [len(one.ranges) for one in report.pagemaps] == [2, 1, 2, 1]
    # Two frames for each compound page: 128, 32 of 2 MiB, 6 and 2 of 1 GiB.
    assert [one.frames.backing for one in report.pagemaps] == [256, 64, 12, 4]


@pytest.mark.parametrize("kernel", KERNELS)
def test_layouts_of_the_five_device_guest(audited: Audited, kernel: str) -> None:
    # As counted on real 6.1, 6.12 and 7.2 guests with these devices.
    report, _ = audited("mixed", kernel)
    assert {
        one.name: (one.type, one.vmemmap.pages, one.frames.backing, one.frames.sharing)
        for one in report.pagemaps
    } == {
        "dax0.0": ("generic", 2048, 512, {1: 256, 7: 256}),
        "dax1.0": ("generic", 11264, 6, {1: 3, 4095: 2, 3071: 1}),
        "dax2.0": ("generic", 4096, 4096, {1: 4096}),
        "dax3.0": ("generic", 3072, 3072, {1: 3072}),
        "pmem4": ("fsdax", 1024, 1024, {1: 1024}),
    }
    assert {one.name: one.state for one in report.pagemaps} == {
        "dax0.0": "deduplicated",
        "dax1.0": "deduplicated",
        "dax2.0": "not-optimized",
        "dax3.0": "not-optimized",
        "pmem4": "not-optimized",
    }


def test_no_pagemaps(audited: Audited) -> None:
    report, _ = audited("empty", "6.1")
    assert report.pagemaps == ()
    assert report.summary.vmemmap_pages == 0
    assert not report.summary.partial


@pytest.mark.parametrize(
    ("fault", "what"),
    [
        ("unreadable-table", "page tables are missing, of dax1.0: 512"),
        ("unreadable-table-pmd", "page tables are missing, of dax7.0: 512"),
        ("unreadable-frame", "reference counts"),
        ("unreadable-struct-page", "compound pages"),
    ],
)
def test_unreadable_is_reported_and_no_finding(audited: Audited, fault: str, what: str) -> None:
    report, _ = audited(fault, "6.1")
    assert any(what in line for line in report.summary.not_read)
    assert report.summary.partial
    assert report.all_findings() == []


def test_a_node_that_a_dump_lacks(audited: Audited) -> None:
    """That is reported; the pagemaps behind it are found by what else points to them."""
    report, _ = audited("unreadable-node", "7.2")
    assert any("XArray node can't be read" in line for line in report.summary.not_read)
    assert [(one.name, one.state) for one in report.pagemaps] == [
        ("dax0.0", "deduplicated"),
        ("dax1.0", "deduplicated"),
    ]
    assert report.all_findings() == []


def test_zeros_of_the_section_table_that_a_dump_lacks(audited: Audited) -> None:
    """Nothing is in them: all is known, and as it is without."""
    report, (planted,) = audited("unreadable-sections", "6.12")
    assert planted.details["count"] > 100
    assert report.summary.not_read == ()
    assert report.all_findings() == []
    assert [(one.name, one.state) for one in report.pagemaps] == [("dax0.0", "deduplicated")]


def test_unreadable_table_counts_its_pages(audited: Audited) -> None:
    report, planted_faults = audited("unreadable-table", "6.1")
    (planted,) = planted_faults
    (one,) = [one for one in report.pagemaps if one.name == planted.pagemap]
    assert one.vmemmap.unreadable == planted.details["size"] // 4096
    assert one.state == "unreadable"
    assert one.vmemmap.mapped + one.vmemmap.unmapped + one.vmemmap.unreadable == one.vmemmap.pages


@pytest.mark.parametrize(
    ("fault", "names"),
    [
        ("name-escape", ["\\x1b[31mdax\\x1b]0;x\\x07"]),
        ("name-newline", ["pmem1"]),
        ("name-invalid-utf8", ["dax\\xff\\x80\\xc3"]),
    ],
)
def test_names_are_escaped(audited: Audited, fault: str, names: list[str]) -> None:
    report, _ = audited(fault, "6.12")
    shown = [one.name or "" for one in report.pagemaps]
    assert all(name.isprintable() for name in shown)
    if fault != "name-newline":
        assert set(names) <= set(shown)
    else:
        # Not a disk's name, so the resource names one.
        assert "\n" not in "".join(shown)


def test_severities_decide_the_summary(audited: Audited) -> None:
    report, _ = audited("several-faults", "6.1")
    severities = [f.severity for _, f in report.all_findings()]
    assert severities.count(Severity.ERROR) == report.summary.errors == 3
    note, _ = audited("base-pages", "6.1")
    assert (note.summary.errors, note.summary.warnings, note.summary.notes) == (0, 0, 1)
