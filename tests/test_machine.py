# SPDX-License-Identifier: LGPL-2.1-or-later
"""A kernel that is opened, and one that somebody else opened as a drgn.Program."""

from __future__ import annotations

import pytest
from drgn import Program

import vmemscope
from vmemscope import Kernel
from vmemscope.errors import TargetError
from vmemscope.sim import build, load_scenario
from vmemscope.types import attach_types


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
