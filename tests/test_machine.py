# SPDX-License-Identifier: LGPL-2.1-or-later
"""A kernel that is opened, and one that somebody else opened as a drgn.Program."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from drgn import (
    Architecture,
    FaultError,
    Platform,
    Program,
    Symbol,
    SymbolBinding,
    SymbolKind,
    TypeEnumerator,
)
from drgn.helpers.linux.mm import follow_phys
from msgspec.structs import replace

import vmemscope
from vmemscope import Kernel
from vmemscope.errors import TargetError
from vmemscope.kernel.system_state import is_booting
from vmemscope.sim import build, load_scenario
from vmemscope.target import open_core
from vmemscope.types import attach_types

from .kernels import filtered


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("machine") / "vmcore"
    build(load_scenario("mixed"), kernel="7.2").write(path)
    return str(path)


def opened(core: str) -> Program:
    """Open a dump as a script does that does not know vmemscope."""
    prog = Program()
    prog.set_core_dump(core)
    return prog


def finders(prog: Program) -> list[object]:
    return [
        prog.registered_type_finders(), prog.enabled_type_finders(),
        prog.registered_object_finders(), prog.enabled_object_finders(),
        prog.registered_symbol_finders(), prog.enabled_symbol_finders(),
        prog.registered_debug_info_finders(), prog.enabled_debug_info_finders(),
    ]  # fmt: skip


def test_a_program_that_has_types_is_audited_as_it_is(core: str) -> None:
    prog = opened(core)
    attach_types(prog)
    before = finders(prog)
    reports = [
        vmemscope.audit(prog),
        vmemscope.audit_hugetlb(prog),
        vmemscope.audit_memmap(prog),
        vmemscope.audit_page(prog, 0x100001),
    ]
    assert finders(prog) == before
    kernel = Kernel.open_core(core)
    expected = [
        vmemscope.audit(kernel),
        vmemscope.audit_hugetlb(kernel),
        vmemscope.audit_memmap(kernel),
        vmemscope.audit_page(kernel, 0x100001),
    ]
    for report, other in zip(reports, expected, strict=True):
        assert report.findings == other.findings
        assert report.target.types == "program"
        assert other.target.types == "btf"
        assert report.target.path == core
    assert [one.state for one in reports[0].pagemaps] == [one.state for one in expected[0].pagemaps]
    assert reports[2].areas == expected[2].areas
    assert reports[3].state == expected[3].state


def test_a_program_without_types_gets_those_of_its_kernel(core: str) -> None:
    report = vmemscope.audit(opened(core))
    assert report.target.types == "btf"
    assert len(report.pagemaps) == 5


def test_a_program_of_no_kernel_is_refused() -> None:
    with pytest.raises(TargetError, match="not set to a Linux kernel"):
        vmemscope.audit(Program())


def test_another_pass_reads_anew(core: str) -> None:
    kernel = Kernel.open_core(core)
    again = kernel.again()
    assert again.sections is not kernel.sections
    assert again.pagemaps == kernel.pagemaps
    assert again.prog is kernel.prog
    assert kernel.sections is kernel.sections


AUDITS = (
    vmemscope.audit,
    vmemscope.audit_hugetlb,
    vmemscope.audit_memmap,
    lambda kernel: vmemscope.audit_page(kernel, 0x100001),
)


@pytest.fixture(scope="module")
def gone(core: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A dump without the section table, as memory is after its pages were used anew."""
    kernel = Kernel.open_core(core)
    lost = {int(follow_phys(kernel.prog["init_mm"].address_of_(), one)) >> 12
            for one in kernel.sections.allocated}  # fmt: skip
    path = tmp_path_factory.mktemp("gone") / "vmcore"
    return str(filtered(Path(core), path, lost))


class TestNoRunningKernel:
    """A guest that starts again, or is gone: what is left of its kernel says nothing."""

    @pytest.mark.parametrize("audit", AUDITS)
    def test_live(self, gone: str, audit: Callable[[Kernel], object]) -> None:
        kernel = Kernel.open(lambda: replace(open_core(gone), kind="qemu"))
        with pytest.raises(TargetError, match="the kernel does not run any more, or not yet: "):
            audit(kernel)

    @pytest.mark.parametrize("audit", AUDITS)
    def test_a_dump_lacks_pages(self, gone: str, audit: Callable[[Kernel], Any]) -> None:
        report = audit(Kernel.open_core(gone))
        assert report.findings == ()
        assert any("section table" in line for line in report.not_read)

    @pytest.mark.parametrize("audit", AUDITS)
    def test_one_that_boots(
        self, core: str, audit: Callable[[Kernel], object], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("vmemscope.machine.is_booting", lambda prog: True)
        with pytest.raises(TargetError, match="the kernel still boots"):
            audit(Kernel.open(lambda: replace(open_core(core), kind="qemu")))
        # One that stopped will not boot any further.
        audit(Kernel.open_core(core))


@pytest.mark.parametrize(
    ("state", "booting"), [(0, True), (1, False), (3, False), (0xFFFFFFFF, False), (None, False)]
)
def test_how_far_the_boot_is(state: int | None, booting: bool) -> None:
    def read(address: int, count: int, offset: int, physical: bool) -> bytes:
        if state is None:
            raise FaultError("not there", address)
        return state.to_bytes(4, "little")

    prog = Program(Platform(Architecture.X86_64))
    prog.add_memory_segment(0x1000, 4, read)
    symbol = Symbol("system_state", 0x1000, 4, SymbolBinding.GLOBAL, SymbolKind.OBJECT)
    assert not is_booting(prog)
    prog.register_symbol_finder("test", lambda *of: [symbol], enable_index=0)
    assert not is_booting(prog)
    names = ("SYSTEM_BOOTING", "SYSTEM_SCHEDULING", "SYSTEM_FREEING_INITMEM", "SYSTEM_RUNNING")
    enumerators = [TypeEnumerator(name, value) for value, name in enumerate(names)]
    integer = prog.int_type("unsigned int", 4, False)
    states = prog.enum_type("system_states", integer, enumerators)
    prog.register_type_finder(
        "test", lambda prog, kinds, name, file: states if name == states.tag else None,
        enable_index=0,
    )  # fmt: skip
    assert is_booting(prog) == booting
