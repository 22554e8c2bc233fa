# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Simulated kernels under audit.

Sound ones must give no finding; in each of the others what was planted, and
only that, must be found, at the address where the simulator put it. The
simulator knows nothing of the audit, and the audit nothing of the simulator.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from vmemscope.report.documents.pgmap import Report
from vmemscope.rules.rule import Severity
from vmemscope.sim import builtin_scenarios
from vmemscope.sim.faults import Planted

from .conftest import KERNELS

Audited = Callable[[str, str], tuple[Report, list[Planted]]]

FIXTURES = Path(__file__).parent.parent / "fixtures"
FAULTS = sorted(path.stem for path in FIXTURES.glob("*.toml"))

# Layouts that stock kernels get wrong (1G pages off a boundary): per kernel
# the rules that must tell, one set for all that the simulator knows.
BROKEN = {
    # Right, and told in a note, as 7.2 can't.
    **{
        (name, kernel): {"compound-alignment"}
        for name in ("unaligned-1g", "mixed")
        for kernel in ("6.1", "6.12")
    },
    ("unaligned-1g", "7.2"): {"compound-head", "mask-alignment"},
    ("mixed", "7.2"): {"compound-head", "mask-alignment"},
    ("unaligned-section-1g", "6.1"): {"frame-shared", "section-alignment"},
    ("unaligned-section-1g", "6.12"): {"frame-shared", "section-alignment"},
    ("unaligned-section-1g", "7.2"): {"frame-shared", "section-alignment"},
    ("early-1g", "6.1"): {"frame-not-memory", "section-alignment", "compound-alignment"},
    ("early-1g", "6.12"): {"frame-not-memory", "section-alignment", "compound-alignment"},
    ("early-1g", "7.2"): {
        "frame-not-memory", "section-alignment", "mask-alignment", "compound-head",
    },
}  # fmt: skip

#: kind of fault -> the rule that tells it
RULES = {
    "altmap-outside": "altmap-frame",
    "base-pages": "leaf-fallback",
    "early-uninitialised": "page-zone",
    "executable": "executable",
    "frame-freed": "refcount-low",
    "frame-foreign": "frame-foreign",
    "frame-free": "frame-free",
    "frame-node": "frame-node",
    "frame-poisoned": "frame-poisoned",
    "head-flag-lost": "head-flag",
    "head-not-private": "frame-shared",
    "hole": "hole",
    "huge-leaf": "leaf-size",
    "kernel-entry": "kernel-entries",
    "mask-missing": "compound-head",
    "missing-dedup": "not-deduplicated",
    "nr-range-absurd": "nr-range",
    "page-refcount": "page-refcount",
    "range-inverted": "range-invalid",
    "range-overlap": "range-overlap",
    "read-only": "read-only",
    "ref-leaked": "pagemap-ref-high",
    "ref-lost": "pagemap-ref-low",
    "refcount-high": "refcount-high",
    "refcount-low": "refcount-low",
    "resource-cycle": "resource-tree",
    "shift-absurd": "vmemmap-shift",
    "stray-head": "stray-head",
    "subsection-lost": "subsection-map",
    "tail-wrong-frame": "tail-frame",
    "tail-written": "tail-contents",
    "tail-wrong-head": "compound-head",
    "uninitialised": "page-uninitialised",
    "wrong-order": "compound-order",
    "wrong-pgmap": "pgmap-link",
    "wrong-zone": "page-zone",
    "xarray-cycle": "xarray",
    "xarray-stray": "xarray",
}
#: the same of faults in what "memmap" looks at, and "pgmap" does not
MEMORY_MAP_RULES = {
    "boot-memmap-hole": "section-unmapped",
    "counter": "memmap-counter",
    "leak": "vmemmap-leak",
    "section-map": "section-map",
    "subsection-stale": "section-stale",
    "usage-lost": "section-usage",
}
#: kinds of fault that are no violation: what they make must still come out right
HARMLESS = {
    "name",
    "ref-dead",
    "unreadable-node",
    "unreadable-sections",
    "unreadable-struct-page",
    "unreadable-table",
}


def found(report: Report) -> set[tuple[str, str | None, int | None]]:
    """Get all findings as (rule, pagemap, address)."""
    return {(f.rule, owner.name if owner else None, f.vaddr) for owner, f in report.all_findings()}


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("scenario", builtin_scenarios())
def test_scenario(audited: Audited, scenario: str, kernel: str) -> None:
    report, _ = audited(scenario, kernel)
    rules = {f.rule for _, f in report.all_findings()}
    assert rules == BROKEN.get((scenario, kernel), set())


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


def test_every_kind_of_fault_has_a_rule() -> None:
    from vmemscope.sim.scenario import FAULTS as KINDS

    told = set(RULES) | set(MEMORY_MAP_RULES) | HARMLESS
    assert told == set(KINDS)
    planted = {
        line.split('"')[1]
        for path in FIXTURES.glob("*.toml")
        for line in path.read_text().splitlines()
        if line.startswith("kind = ")
    }
    assert planted == told


def expected_of(planted: Planted) -> set[tuple[str, str | None, int | None]]:
    """Get the findings that a fault must give."""
    if planted.kind in HARMLESS or planted.kind in MEMORY_MAP_RULES:
        return set()
    rule, vaddr = RULES[planted.kind], planted.vaddr
    owner: str | None = planted.pagemap
    if planted.kind == "tail-wrong-frame" and planted.details["to"] in ("outside", "zero"):
        rule = "frame-not-memory"
    elif planted.kind == "missing-dedup":
        # The tail pages are one finding, at the first of them.
        vaddr += 4096
    elif planted.kind == "xarray-cycle":
        # It is no single pagemap's, and told of what one comes to twice.
        owner, vaddr = None, planted.details["root"]
    elif planted.kind == "resource-cycle":
        owner, vaddr = None, planted.details["again"]
    elif planted.kind == "kernel-entry":
        owner = None
    elif planted.kind == "range-overlap":
        # Told of the range that starts second; and the first, which was made
        # longer, has frames that pgmap_array does not.
        other = planted.details["other"], planted.details["other_va"]
        return {("range-overlap", *other), ("xarray", owner, vaddr)}
    elif planted.kind == "frame-freed":
        # Its count dropped to 0, and so it went back to the buddy allocator.
        return {(rule, owner, vaddr), ("frame-free", owner, vaddr)}
    return {(rule, owner, vaddr)}


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("fault", FAULTS)
def test_fault(audited: Audited, fault: str, kernel: str) -> None:
    report, planted_faults = audited(str(FIXTURES / f"{fault}.toml"), image_kernel(fault, kernel))
    expected = set[tuple[str, str | None, int | None]]()
    for planted in planted_faults:
        expected |= expected_of(planted)
    assert found(report) == expected


def image_kernel(fault: str, kernel: str) -> str:
    """Get a kernel that can have a fault: one from 7.1 for masks, one from 6.11 for counters."""
    if fault == "mask-missing":
        return "7.2"
    return "6.12" if fault.startswith("counter") and kernel == "6.1" else kernel


@pytest.mark.parametrize(
    ("fault", "what"),
    [
        ("unreadable-table", "page tables are missing, of dax1.0: 512"),
        ("unreadable-table-pmd", "page tables are missing, of dax7.0: 512"),
        ("unreadable-frame", "reference counts"),
        ("unreadable-struct-page", "compound pages"),
    ],
)
def test_unreadable_is_told_and_no_finding(audited: Audited, fault: str, what: str) -> None:
    report, _ = audited(str(FIXTURES / f"{fault}.toml"), "6.1")
    assert any(what in line for line in report.summary.not_read)
    assert report.summary.partial
    assert found(report) == set()


def test_a_node_that_a_dump_lacks(audited: Audited) -> None:
    """The pagemaps behind it are not found, and that is told."""
    report, _ = audited(str(FIXTURES / "unreadable-node.toml"), "7.2")
    assert any("XArray node can't be read" in line for line in report.summary.not_read)
    assert [one.name for one in report.pagemaps] == ["dax0.0"]
    assert found(report) == set()


def test_zeros_of_the_section_table_that_a_dump_lacks(audited: Audited) -> None:
    """Nothing is in them: all is known, and as it is without."""
    report, (planted,) = audited(str(FIXTURES / "unreadable-sections.toml"), "6.12")
    assert planted.details["count"] > 100
    assert report.summary.not_read == ()
    assert found(report) == set()
    assert [(one.name, one.state) for one in report.pagemaps] == [("dax0.0", "deduplicated")]


def test_unreadable_table_counts_its_pages(audited: Audited) -> None:
    report, planted_faults = audited(str(FIXTURES / "unreadable-table.toml"), "6.1")
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
    report, _ = audited(str(FIXTURES / f"{fault}.toml"), "6.12")
    shown = [one.name or "" for one in report.pagemaps]
    assert all(name.isprintable() for name in shown)
    if fault != "name-newline":
        assert set(names) <= set(shown)
    else:
        # Not a disk's name, so the resource tells one.
        assert "\n" not in "".join(shown)


def test_severities_decide_the_summary(audited: Audited) -> None:
    report, _ = audited(str(FIXTURES / "several-faults.toml"), "6.1")
    severities = [f.severity for _, f in report.all_findings()]
    assert severities.count(Severity.ERROR) == report.summary.errors == 3
    note, _ = audited(str(FIXTURES / "base-pages.toml"), "6.1")
    assert (note.summary.errors, note.summary.warnings, note.summary.notes) == (0, 0, 1)
