# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Simulated kernels of other architectures: all scenarios and faults on each.

riscv64 deduplicates as x86-64 does, with large leaves for parts of sections; it has no
read-only protection, and processes share the kernel's entries. arm64 does not deduplicate.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest

from vmemscope.errors import UsageError, VmemscopeError
from vmemscope.machine import Kernel
from vmemscope.rules import RULES
from vmemscope.sim import build, builtin_scenarios, load_scenario
from vmemscope.sim.faults import HUGETLB_FAULTS
from vmemscope.target.elf import read_elf

from .kernels import FAULTS, FIXTURES, KERNELS, Dumps, able, audit_core, image, write
from .test_hugetlb import BASE, fault
from .test_hugetlb import FAULTS as HUGETLB_CASES

#: faults that are in what devices share, or in base pages, which they have not on arm64
SHARING = {
    *("frame-foreign-head", "frame-foreign-lru", "frame-foreign-slab", "frame-free"),
    *("frame-freed", "frame-node", "frame-offline", "frame-poisoned", "head-on-tail"),
    *("head-shared", "huge-leaf", "missing-dedup", "refcount-high", "refcount-high-head"),
    *("refcount-low", "refcount-low-head", "several-faults", "subsection-lost"),
    *("tail-neighbour", "tail-other-pagemap", "tail-outside", "tail-own-head", "tail-private"),
    *("tail-written", "tail-written-head-frame", "tail-zero", "unreadable-table"),
}
#: HugeTLB's faults that are none without a read-only protection
PROTECTION = {"tail-writable", "head-read-only", "stray"}
#: ranges that end within a compound page, which is no matter where it is deduplicated
UNEVEN = {"early-1g", "mixed", "unaligned-1g", "unaligned-section-1g"}
#: in which a section has a large leaf for one part, and shared pages for another
MIXED = {"partial-sections"}


def holds(rule: str, arch: str) -> bool:
    return not RULES[rule].archs or arch in RULES[rule].archs


@pytest.mark.parametrize("fault_", FAULTS)
@pytest.mark.parametrize("arch", ["riscv64", "arm64"])
def test_fault(dumps: Dumps, fault_: str, arch: str) -> None:
    kernel = able(fault_)[-1] + "@" + arch
    if arch == "arm64" and fault_ in SHARING:
        with suppress(UsageError):
            done = dumps.audited(fault_, kernel)
            assert done.found() <= done.expected()
        return
    done = dumps.audited(fault_, kernel)
    expected = {one for one in done.expected() if holds(one.rule, arch)}
    if arch == "riscv64":
        # Read-only pages in no folio mean nothing there.
        expected = {one for one in expected if one.rule != "hugetlb-read-only"}
    assert done.found() == expected


@pytest.mark.parametrize("kind_and_options", HUGETLB_CASES, ids="-".join)
def test_hugetlb_fault(tmp_path: Path, kind_and_options: tuple[str, str]) -> None:
    kind, options = kind_and_options
    kernel = (HUGETLB_FAULTS[kind].kernels or KERNELS)[-1]
    built = image(BASE.read_text() + fault(kind, **json.loads(options)), f"{kernel}@riscv64")
    done = audit_core(Path(write(built, tmp_path)), built.planted)
    found = {(one.rule, one.vaddr) for one in done.hugetlb.findings}
    planted = {
        (one.rule, one.vaddr)
        for planted in built.planted
        for one in planted.findings
        if holds(one.rule, "riscv64") and one.rule != "hugetlb-read-only"
    }
    unprotected = {one for one in found if one[0] == "hugetlb-unprotected"}
    assert len(unprotected) == 1
    if kind in PROTECTION:
        assert found == unprotected
    else:
        assert found - unprotected == planted


@pytest.mark.parametrize("kernel", ["6.12", "7.2"])
@pytest.mark.parametrize("name", builtin_scenarios())
@pytest.mark.parametrize("arch", ["riscv64", "arm64"])
def test_scenario(tmp_path: Path, name: str, arch: str, kernel: str) -> None:
    """The same findings as on x86-64; none of what is shared where nothing is."""
    if arch == "riscv64" and name in MIXED:
        with pytest.raises(UsageError, match="can be deduplicated after one that was not"):
            image(name, f"{kernel}@{arch}")
        return
    if arch == "arm64" and name in UNEVEN:
        with pytest.raises(UsageError, match="ends within a compound page"):
            image(name, f"{kernel}@{arch}")
        return
    done = audit_core(Path(write(image(name, f"{kernel}@{arch}"), tmp_path)))
    found = {(one.command, one.rule) for one in done.found()}
    same = audit_core(Path(write(image(name, kernel), tmp_path)))
    expected = {(one.command, one.rule) for one in same.found()}
    if arch == "riscv64" and name == "hugetlb":
        expected |= {("hugetlb", "hugetlb-unprotected")}
    if arch == "arm64":
        expected &= found
    assert found == expected
    assert {one.state for one in done.pgmap.pagemaps} <= {
        *(one.state for one in same.pgmap.pagemaps),
        "not-optimized",
    }
    if arch == "arm64":
        assert {one.state for one in done.pgmap.pagemaps} <= {"not-optimized"}
        assert done.found() == set()
    else:
        assert [one.frames.backing for one in done.pgmap.pagemaps] == [
            one.frames.backing for one in same.pgmap.pagemaps
        ]


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("arch", ["riscv64", "arm64"])
def test_damage(tmp_path: Path, arch: str, seed: int) -> None:
    """Whatever a dump holds, it is audited, or refused by one of vmemscope's own errors."""
    random = Random(f"{arch} {seed}")
    built = image("hugetlb" if seed % 2 else "altmap", f"7.2@{arch}")
    core = Path(write(built, tmp_path))
    data = core.read_bytes()
    used = [at for at in range(0x10000, len(data), 4096) if any(data[at : at + 4096])]
    tables = [
        load.offset + (pfn << 12) - load.paddr
        for pfn in built._tables()
        for load in read_elf(str(core))[0]
        if load.paddr <= pfn << 12 < load.paddr + load.filesz
    ]
    with core.open("r+b") as file:
        for _ in range(random.randrange(1, 40)):
            file.seek(random.choice(tables if random.random() < 0.3 else used))
            file.seek(8 * random.randrange(512), 1)
            file.write(random.choice((random.randbytes(8), bytes(8), b"\xff" * 8)))
    with suppress(VmemscopeError):
        assert audit_core(core).hugetlb.outcomes


@pytest.mark.parametrize("levels", [4, 5])
def test_levels(tmp_path: Path, levels: int) -> None:
    """Sv48 and Sv57, without a walker of drgn's."""
    core = write(image(f"{levels}-level", "7.2@riscv64"), tmp_path)
    kernel = Kernel.open_core(core)
    assert len(kernel.table.levels) == levels
    assert kernel.arch.name == "riscv64"
    # drgn's own helpers read kernel memory now.
    assert kernel.prog["init_uts_ns"].name.release.string_().decode() == kernel.target.osrelease


@pytest.mark.parametrize("arch", ["loongarch64", "x86"])
def test_what_can_not_be_simulated_is_named(arch: str) -> None:
    with pytest.raises(UsageError, match=f"architecture '{arch}' can't be simulated; there are"):
        build(load_scenario(FIXTURES / "hole.toml"), arch=arch)
