# SPDX-License-Identifier: LGPL-2.1-or-later
"""What all scenarios and faults must give on each simulated architecture."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from vmemscope.errors import UsageError
from vmemscope.rules import RULES
from vmemscope.sim.architectures import ARCHITECTURES
from vmemscope.sim.faults import Finding
from vmemscope.sim.scenario import Pagemap, Scenario
from vmemscope.sim.units import GIB
from vmemscope.target.elf import read_elf

from .kernels import (
    KERNELS,
    Audited,
    Dumps,
    able,
    audit_core,
    built,
    image,
    scenario_of,
    write,
)

__all__ = ("audited_fault", "check_fault", "check_scenario", "damage", "holds", "sized")

#: architectures without deduplication, whose memory map is in large leaves, and in base pages
LARGE = ("arm64", "loongarch64", "s390x")
BASE = ("arm64-16k", "arm64-64k")

#: faults that need pages that devices share, or base pages
SHARED = {
    *("frame-freed", "frame-node", "head-on-tail", "head-shared", "huge-leaf", "missing-dedup"),
    *("refcount-low", "refcount-low-head", "several-faults", "tail-neighbour"),
    "tail-other-order",
    *("tail-other-pagemap", "tail-outside", "tail-own-head", "tail-private", "tail-zero"),
    "unreadable-table",
}
#: faults that there can't be, and what they say
_NO_BASE_PAGE = (
    "no base page is mapped|nothing is mapped|no table of that level|reference count is 0 only"
)
_OTHER_SECTION = "there is something else already, or it is in another section"
NONE: dict[str, dict[str, str]] = {
    **{arch: dict.fromkeys(SHARED, _NO_BASE_PAGE) for arch in LARGE},
    **{
        arch: {
            **dict.fromkeys(("altmap-data", "altmap-ram", "leak-large"), "no large lea(f|ves)"),
            "base-pages": "there is no large leaf of RAM",
            "huge-leaf": "nothing is mapped|RAM is too small",
            # All frames have a reference of their own.
            "refcount-low": "the reference count is 1 only",
            "subsection-stale": _OTHER_SECTION,
            "tail-other-order": "has no pages of 1G",
        }
        for arch in BASE
    },
    "ppc64le": {"subsection-stale": _OTHER_SECTION},
    "ppc64le-64k": {"subsection-stale": _OTHER_SECTION},
}
# RAM is as it is: half a section.
NONE["arm64-64k"]["boot-memmap-hole"] = "section 2 has no RAM"
#: faults of frames inside a large leaf, of which only the first is checked
IN_LEAF = {
    *("frame-foreign-head", "frame-foreign-lru", "frame-foreign-slab", "frame-free"),
    *("frame-offline", "frame-poisoned", "refcount-high", "refcount-high-head"),
}
#: faults that make two entries map a frame that nobody may share there
ALIASED = {
    *("head-on-tail", "tail-neighbour", "tail-other-order", "tail-other-pagemap"),
    "tail-own-head",
}
#: faults of a device in a section with RAM, which sections of 16 MiB have not
EARLY = {"early-stale", "early-uninitialised"}
#: faults that need two sections, of which s390x's are twice as large
SECTIONS = {"base-pages", "boot-memmap-hole", "huge-leaf", "section-map", "usage-lost"}

#: where a large leaf of RAM or of a neighbour maps compound pages ("existing huge mapping. Skip
#: the range"): ppc64 takes them for deduplicated all the same, and initialises the first ones only
EXISTING_LEAF = {
    ("ppc64le", "early-section"),
    ("ppc64le", "partial-sections"),
    ("ppc64le-64k", "4-level"),
}
#: ranges that end within a compound page, which is no matter where it is deduplicated
UNEVEN = {"early-1g", "mixed", "unaligned-1g", "unaligned-section-1g"}


def holds(rule: str, arch: str) -> bool:
    """Return whether a rule is one of an architecture."""
    return not RULES[rule].archs or ARCHITECTURES[arch].name in RULES[rule].archs


def sized(found: Scenario, fault: str, arch: str) -> Scenario:
    """
    Return a scenario of a fault in the sizes that the fault needs.

    With pages of 64 KiB, the memory map of a compound page of 2 MiB is less than a page of it:
    1 GiB pages are deduplicated there.
    """
    factor = 512 if arch == "ppc64le-64k" else 2 if arch == "s390x" and fault in SECTIONS else 1

    def larger(one: Pagemap) -> Pagemap:
        ranges = tuple((start * factor, size * factor) for start, size in one.ranges)
        align = GIB if factor == 512 and one.align == 2 << 20 else one.align
        return replace(one, ranges=ranges, align=align)

    ram = found.ram
    if factor == 2:
        ram = tuple(replace(one, start=2 * one.start, size=2 * one.size) for one in ram)
    return replace(found, ram=ram, pagemaps=tuple(map(larger, found.pagemaps)))


def audited_fault(dumps: Dumps, fault: str, arch: str, kernels: Sequence[str] = KERNELS) -> Audited:
    """Plant a fault, and audit the dump by all commands."""
    kernel = able(fault, kernels)[-1]
    one = built(sized(scenario_of(fault, kernel), fault, arch), f"{kernel}@{arch}")
    path = dumps.directory / f"{fault}@{arch}.vmcore"
    one.write(path)
    try:
        return audit_core(path, one.planted)
    finally:
        path.unlink()


def _rules(findings: Iterable[Finding]) -> set[str]:
    return {one.rule for one in findings}


def check_fault(dumps: Dumps, fault: str, arch: str) -> None:
    """Check that a fault is found where it is, and nothing else."""
    if (why_not := NONE.get(arch, {}).get(fault)) is not None:
        with pytest.raises(UsageError, match=why_not):
            audited_fault(dumps, fault, arch)
        return
    done = audited_fault(dumps, fault, arch)
    expected = {one for one in done.expected() if holds(one.rule, arch)}
    if arch in LARGE and fault in IN_LEAF:
        assert done.found() == set()
    elif arch in BASE and fault in ALIASED:
        assert _rules(done.found()) == {"frame-shared"}
    elif arch == "ppc64le" and fault in EARLY:
        # There is a large leaf that RAM has: the kernel leaves it as it is, and takes it for
        # pages that are shared.
        assert _rules(done.found()) - _rules(expected) == {"page-uninitialised"}
    elif arch == "ppc64le-64k" and fault in EARLY:
        # Deduplicated: the first page of tails was overwritten.
        assert _rules(done.found()) >= _rules(expected)
    else:
        if arch == "riscv64":
            # Read-only pages in no folio mean nothing there.
            expected = {one for one in expected if one.rule != "hugetlb-read-only"}
        assert done.found() == expected


#: an architecture, and the scenario that has no RAM for two of its huge pages of 2 GiB
TOO_LARGE = ("s390x", "hugetlb-boot")


def check_scenario(dumps: Dumps, tmp_path: Path, name: str, kernel: str, arch: str) -> None:
    """
    Check that a scenario without faults gives the findings that it gives on x86-64, where the
    architecture deduplicates; none where it does not.
    """
    there = ARCHITECTURES[arch]
    if arch in BASE and any(one.align == GIB for one in scenario_of(name, kernel).pagemaps):
        with pytest.raises(UsageError, match="has no pages of 1G"):
            image(name, f"{kernel}@{arch}")
        return
    if arch in LARGE and name in UNEVEN:
        with pytest.raises(UsageError, match="ends within a compound page"):
            image(name, f"{kernel}@{arch}")
        return
    if (arch in BASE and name in ("hugetlb", "hugetlb-boot")) or (arch, name) == TOO_LARGE:
        with pytest.raises(UsageError, match=r"RAM .* too small"):
            image(name, f"{kernel}@{arch}")
        return
    done = audit_core(Path(write(image(name, f"{kernel}@{arch}"), tmp_path)))
    found = {(one.command, one.rule) for one in done.found()}
    states = {one.state for one in done.pgmap.pagemaps}
    if not there.deduplicates:
        assert done.found() == set()
        assert states <= {"not-optimized"}
        for one in done.pgmap.pagemaps:
            assert one.frames.backing == one.frames.expected == one.vmemmap.pages
        return
    same = dumps.audited(name, kernel)
    expected = {(one.command, one.rule) for one in same.found()}
    if arch == "riscv64" and name in ("hugetlb", "hugetlb-boot"):
        expected |= {("hugetlb", "hugetlb-unprotected")}
    if there.radix:
        _check_radix(done, name, arch, found)
        return
    assert found == expected
    assert states <= {*(one.state for one in same.pgmap.pagemaps), "not-optimized"}
    assert [one.frames.backing for one in done.pgmap.pagemaps] == [
        one.frames.backing for one in same.pgmap.pagemaps
    ]


def _check_radix(done: Audited, name: str, arch: str, found: set[tuple[str, str]]) -> None:
    """Check what ppc64 has: compound pages are laid out by their address."""
    if name in UNEVEN:
        assert ("pgmap", "compound-alignment") in found
        return
    wanted = {("pgmap", "page-uninitialised")} if (arch, name) in EXISTING_LEAF else set()
    assert found == wanted
    for one in done.pgmap.pagemaps:
        if one.state == "deduplicated":
            compounds = sum(part.end + 1 - part.start for part in one.ranges) // one.compound_size
            assert one.frames.backing == one.frames.expected == 2 * compounds


def damage(core: Path, tables: Iterable[int], random: Random) -> None:
    """Overwrite words of a dump, many of them of page tables (pfns)."""
    data = core.read_bytes()
    loads = read_elf(str(core))[0]
    used = [at for at in range(0x10000, len(data), 4096) if any(data[at : at + 4096])]
    offsets = [
        load.offset + address - load.paddr
        for address in tables
        for load in loads
        if load.paddr <= address < load.paddr + load.filesz
    ]
    with core.open("r+b") as file:
        for _ in range(random.randrange(1, 40)):
            file.seek(random.choice(offsets if random.random() < 0.3 else used))
            file.seek(8 * random.randrange(512), 1)
            file.write(random.choice((random.randbytes(8), bytes(8), b"\xff" * 8)))
