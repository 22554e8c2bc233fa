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

from vmemscope.cli.main import main
from vmemscope.errors import UsageError, VmemscopeError
from vmemscope.machine import Kernel
from vmemscope.sim import build, builtin_scenarios, load_scenario
from vmemscope.sim.faults import HUGETLB_FAULTS

from .arch_matrix import audited_fault, check_fault, check_scenario, damage, holds
from .kernels import (
    COMING_FAULTS,
    DEVICE,
    FAULTS,
    FIXTURES,
    KERNELS,
    Dumps,
    able,
    audit_core,
    image,
    write,
)
from .test_hugetlb import BASE, fault
from .test_hugetlb import FAULTS as HUGETLB_CASES

#: HugeTLB's faults that are none without a read-only protection
PROTECTION = {"tail-writable", "head-read-only", "stray"}
#: in which a section has a large leaf for one part, and shared pages for another
MIXED = {"partial-sections"}


@pytest.mark.parametrize("fault_", sorted(set(FAULTS) - COMING_FAULTS))
@pytest.mark.parametrize("arch", ["riscv64", "arm64"])
def test_fault(dumps: Dumps, fault_: str, arch: str) -> None:
    check_fault(dumps, fault_, arch)


@pytest.mark.parametrize("fault_", [name for name in FAULTS if "next" in able(name)])
def test_fault_of_the_coming_kernel(dumps: Dumps, fault_: str) -> None:
    """As on x86-64: riscv64 shares tail pages in the same way."""
    if fault_ == "subsection-stale":
        with pytest.raises(UsageError, match="there is something else already"):
            audited_fault(dumps, fault_, "riscv64", ["next"])
        return
    done = audited_fault(dumps, fault_, "riscv64", ["next"])
    expected = {one for one in done.expected() if holds(one.rule, "riscv64")}
    if fault_ == "references-missing-alone":
        # Of a lone frame, only what is writable says that entries have references.
        expected = {one._replace(rule="shared-references") for one in expected}
    # Read-only pages in no folio mean nothing there.
    assert done.found() == {one for one in expected if one.rule != "hugetlb-read-only"}


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


#: where nothing is shared, kernels do not differ by scenario: there, each is on one of them
SCENARIOS = [
    pytest.param(
        arch,
        name,
        kernel,
        marks=[pytest.mark.whole] if arch == "arm64" and (i + j) % 3 else [],
    )
    for arch in ("riscv64", "arm64")
    for i, name in enumerate(builtin_scenarios())
    for j, kernel in enumerate(("6.12", "7.2", "next"))
]


@pytest.mark.parametrize(("arch", "name", "kernel"), SCENARIOS)
def test_scenario(dumps: Dumps, tmp_path: Path, name: str, arch: str, kernel: str) -> None:
    """The same findings as on x86-64; none of what is shared where nothing is."""
    if arch == "riscv64" and name in MIXED:
        why_not = r"can be deduplicated after one that was not|the altmap is too small"
        with pytest.raises(UsageError, match=why_not):
            image(name, f"{kernel}@{arch}")
        return
    check_scenario(dumps, tmp_path, name, kernel, arch)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("arch", ["riscv64", "arm64"])
def test_damage(tmp_path: Path, arch: str, seed: int) -> None:
    """Whatever a dump holds, it is audited, or refused by one of vmemscope's own errors."""
    built = image("hugetlb" if seed % 2 else "altmap", f"7.2@{arch}")
    core = Path(write(built, tmp_path))
    damage(core, [pfn << 12 for pfn in built._tables()], Random(f"{arch} {seed}"))
    with suppress(VmemscopeError):
        assert audit_core(core).hugetlb.outcomes


@pytest.mark.parametrize("levels", [3, 4, 5])
def test_levels(tmp_path: Path, levels: int) -> None:
    """Sv39, Sv48 and Sv57, without a walker of drgn's."""
    inline = f'arch = "riscv64"\nlevels = {levels}\n{DEVICE}'
    core = write(image(inline if levels == 3 else f"{levels}-level", "7.2@riscv64"), tmp_path)
    done = audit_core(Path(core))
    assert done.found() == set()
    assert done.pgmap.pagemaps[0].state == "deduplicated"
    kernel = Kernel.open_core(core)
    assert len(kernel.table.levels) == levels
    assert kernel.arch.name == "riscv64"
    # drgn's own helpers read kernel memory now.
    assert kernel.prog["init_uts_ns"].name.release.string_().decode() == kernel.target.osrelease


@pytest.mark.parametrize("arch", ["sparc64", "x86"])
def test_what_can_not_be_simulated_is_named(arch: str) -> None:
    with pytest.raises(UsageError, match=f"architecture '{arch}' can't be simulated; there are"):
        build(load_scenario(FIXTURES / "hole.toml"), arch=arch)


@pytest.mark.parametrize(("arch", "shared"), [("riscv64", True), ("arm64", False)])
def test_shared_pages_are_called_read_only_where_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arch: str, shared: bool
) -> None:
    """riscv64's can be written to: the count is of pages that share a frame."""
    core = write(image("hugetlb", f"7.2@{arch}"), tmp_path)
    assert main(["hugetlb", "--folios", "-c", core]) == 0
    out = capsys.readouterr().out
    assert ("SHARED" in out, "READ-ONLY" in out) == (shared, not shared)
    # 8 optimized folios of 8 pages: all but the one with the head.
    assert f"56 of them {'shared' if shared else 'read-only'}" in out
