# SPDX-License-Identifier: LGPL-2.1-or-later
"""
``vmemscope report``: which pages of the log and registers are explained, and the verdict.

Expected are the pages that the simulator put into the log, the faults that it planted, and
what ``vmemscope page`` and the other commands report.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jsonschema
import pytest
from msgspec.structs import replace

from vmemscope.audits import hugetlb, page
from vmemscope.cli.main import main
from vmemscope.collect import collect
from vmemscope.collect.verdict import MAX_LINES, conclude
from vmemscope.machine import Kernel
from vmemscope.report.document import schema_text
from vmemscope.report.documents.common import LeftOut
from vmemscope.report.documents.full import FullReport
from vmemscope.rules import RULES
from vmemscope.rules.findings import Finding
from vmemscope.rules.rule import Severity
from vmemscope.sim import builtin_scenarios
from vmemscope.types import Need, NeedKind
from vmemscope.types.globals import GLOBALS
from vmemscope.types.names import HUGETLB
from vmemscope.vmemmap.tables import Kind, trace

from .kernels import (
    DEVICE,
    EARLY,
    FAULTS,
    FIXTURES,
    KERNELS,
    SIMULATED,
    able,
    image,
    undocumented,
    write,
)
from .logs import BAD_PAGE, GENERAL_PROTECTION, MEMORY_FAILURE, PAGE_FAULT, SYSRQ, log

#: a page of the device, and one of RAM
PFN, RAM = 0x100203, 0x300

#: all struct pages from the 129th on were left out
UNINITIALISED = EARLY + "".join(
    f'[[fault]]\nkind = "early-uninitialised"\npagemap = "dax0.0"\ncompound = {n}\n'
    for n in range(32)
)
RESTORED = '[[hugetlb]]\ncount = 3\n[[hugetlb_fault]]\nkind = "restore"\n'
GIGANTIC = """
ram = "5G"
[[hugetlb]]
size = "1G"
[[hugetlb_fault]]
kind = "shared-tail"
what = "again"
"""


@pytest.fixture
def reported(tmp_path: Path) -> Callable[[str, str], FullReport]:
    def run(scenario: str, kernel: str) -> FullReport:
        return collect(Kernel.open_core(write(image(scenario, kernel), tmp_path)))

    return run


class Faulting(NamedTuple):
    """What an architecture's kernels write about faults, in front of a trace."""

    #: about an address
    text: str
    #: about a null pointer
    null: str
    #: an address of a process
    user: str
    #: a register for arguments, and what the simulator calls it
    register: str
    name: str


#: arch/x86/mm/fault.c, arch/arm64/mm/fault.c, arch/riscv/mm/fault.c, arch/powerpc/mm/fault.c,
#: arch/s390/mm/fault.c
_X86 = Faulting(
    "BUG: unable to handle page fault for address: {at}",
    "BUG: kernel NULL pointer dereference, address: 0000000000000010",
    "00007f0000001000", "RDI", "RDI",
)  # fmt: skip
_ARM64 = Faulting(
    "Unable to handle kernel paging request at virtual address {at}",
    "Unable to handle kernel NULL pointer dereference at virtual address 0000000000000010",
    "0000ffff80001000", "x0", "x0",
)  # fmt: skip
_RISCV64 = _ARM64._replace(user="0000003f80001000", register="a0", name="10")
_PPC64LE = Faulting(
    "BUG: Unable to handle kernel data access on read at 0x{at}",
    "BUG: Unable to handle kernel data access on read at 0x00000010",
    "00007fff80001000", "r3", "3",
)  # fmt: skip
_S390X = Faulting(
    "Failing address: {at} TEID: 0000000000000803",
    "Failing address: 0000000000000000 TEID: 0000000000000803",
    "000003ff80001000", "r2", "4",
)  # fmt: skip
FAULTING = {
    "6.1": _X86, "7.2": _X86, "6.12@arm64": _ARM64, "7.2@arm64-16k": _ARM64,
    "6.1@arm64-64k": _ARM64, "6.12@riscv64": _RISCV64, "6.12@ppc64le": _PPC64LE,
    "7.2@ppc64le-64k": _PPC64LE, "7.2@s390x": _S390X,
}  # fmt: skip
#: that a fault is about memory
_TRACE = "\nCall Trace:\n zap_huge_pud+0x44/0x90\n---[ end trace 0000000000000000 ]---"


def _ram_and_device(kernel: str) -> tuple[int, int, int]:
    """Return the size of a page, and a page of RAM and one of the device."""
    built = image(DEVICE, kernel)
    ((first, _),) = built.kernel.pagemaps[0].ranges
    return built.kernel.units.page_size, RAM >> 4, first + 0x83


@pytest.mark.parametrize("kernel", FAULTING)
def test_a_fault_in_the_direct_map_leads_to_its_page(
    kernel: str, reported: Callable[[str, str], FullReport]
) -> None:
    """A page of RAM, and one of a device, which need not be mapped there."""
    fault = FAULTING[kernel]
    size, ram, device = _ram_and_device(kernel)
    places = [f"{{direct:{pfn * size + 0x123:#x}}}" for pfn in (ram, device)]
    # Where no memory is; an address of a process; a null pointer.
    places += [f"{{direct:{1 << 39:#x}}}", fault.user]
    lines = [*(fault.text.format(at=at) for at in places), fault.null]
    report = reported(DEVICE + log(*(line + _TRACE for line in lines)), kernel)
    assert [one.pfn for one in report.pages] == [ram, device]
    assert [one.pages for one in report.log.events] == [(ram,), (device,), (), (), ()]
    assert {one.kind for one in report.log.events} == {"page fault"}
    assert all(one.page is not None for one in report.pages)


@pytest.mark.parametrize("kernel", FAULTING)
def test_a_fault_in_the_vmemmap_leads_to_its_page(
    kernel: str, reported: Callable[[str, str], FullReport]
) -> None:
    _, _, device = _ram_and_device(kernel)
    built = image(DEVICE, kernel)
    # Eight bytes into a struct page: what the CPU read there, was a member.
    at = f"{built.kernel.addresses.pfn_to_page(device) + 8:016x}"
    report = reported(DEVICE + log(FAULTING[kernel].text.format(at=at) + _TRACE), kernel)
    assert [one.pfn for one in report.pages] == [device]
    assert report.log.events[0].pages == (device,)


@pytest.mark.parametrize("kernel", FAULTING)
def test_a_register_in_the_direct_map_leads_to_its_page(
    kernel: str, reported: Callable[[str, str], FullReport]
) -> None:
    """Only if the page is of a device, or the log names it: most registers point to RAM."""
    fault = FAULTING[kernel]
    size, ram, device = _ram_and_device(kernel)
    for pfn, text, expected in (
        (device, "", [device]),
        (ram, "", []),
        (ram, log(MEMORY_FAILURE.format(pfn=ram)), [ram]),
    ):
        value = f"{{direct:{pfn * size + 8:#x}}}"
        crash = f'[crash]\ncpu = 1\nregisters = {{{fault.name} = "{value}"}}\n'
        report = reported(DEVICE + text + crash, kernel)
        assert report.cpu is not None
        assert [one.pfn for one in report.pages] == expected
        found = {one.name: one.pfn for one in report.cpu.registers if one.pfn is not None}
        assert found == ({fault.register: pfn} if expected else {})


@pytest.mark.parametrize("kernel", FAULTING)
def test_an_address_of_the_direct_map_without_an_entry(kernel: str, tmp_path: Path) -> None:
    """The kernel takes pages with memory errors out of it (set_mce_nospec())."""
    size, ram, device = _ram_and_device(kernel)
    built = image(DEVICE, kernel)
    tables, address = built.kernel.tables, built.kernel.addresses.va(device * size) + 5
    (*_, (shift, _, _)) = tables.tables(address)
    tables.set(address, shift, 0)
    opened = Kernel.open_core(write(built, tmp_path))
    assert trace(opened.vmemmap.page_tables, opened.table, address).kind is Kind.HOLE
    found = page.audit(opened, address, "address")
    assert found.pfn == device
    assert found.meaning.words == "virtual address of the direct map, at which nothing is mapped"
    found = page.audit(opened, built.kernel.addresses.va(ram * size) + 5, "address")
    assert found.pfn == ram
    assert " (the direct map), which the page tables map " in found.meaning.words


@pytest.mark.parametrize("kernel", KERNELS)
def test_each_page_is_explained_once(kernel: str, tmp_path: Path) -> None:
    text = DEVICE + log(
        BAD_PAGE.format(comm="a", pfn=PFN),
        MEMORY_FAILURE.format(pfn=RAM),
        PAGE_FAULT.format(pfn=PFN, other=PFN + 1),
        GENERAL_PROTECTION.format(pfn=RAM),
        SYSRQ,
    )
    text += f'[crash]\ncpu = 1\nregisters = {{RDI = "{{page:{PFN:#x}}}", RSI = "{PFN + 2:x}"}}\n'
    core = write(image(text, kernel), tmp_path)
    report = collect(Kernel.open_core(core))
    assert [one.pfn for one in report.pages] == [PFN, RAM, PFN + 1, PFN + 2]
    seen = [[one.what for one in page.seen] for page in report.pages]
    assert seen == [
        ["bad page", "page fault", "RDI"],
        ["memory failure", "general protection fault"],
        ["page fault"],
        ["RSI"],
    ]
    # As "vmemscope page" reports it.
    for one in report.pages:
        alone = page.audit(Kernel.open_core(core), one.pfn, "pfn")
        assert one.page is not None
        assert one.page.state == alone.state
        assert (one.page.page, one.page.walk) == (alone.page, alone.walk)
        assert one.page.backs == alone.backs
    # The crash by SysRq is about no memory.
    assert [one.kind for one in report.log.events] == [
        "bad page", "memory failure", "page fault", "general protection fault"
    ]  # fmt: skip
    assert report.log.events[0].functions == ("bad_page.cold", "free_unref_page")
    assert report.cpu is not None
    assert {one.name: one.pfn for one in report.cpu.registers if one.pfn} == {
        "RDI": PFN, "RSI": PFN + 2
    }  # fmt: skip
    assert report.verdict.state == "trouble"
    assert f"{PFN:#x}" in report.verdict.lines[0]


def test_a_finding_covers_the_page_that_is_named(
    reported: Callable[[str, str], FullReport],
) -> None:
    """Of two pages in the log, one lies in the compound page that a fault was planted in."""
    text = DEVICE + log(PAGE_FAULT.format(pfn=0x100600, other=0x100A00))
    text += '[[fault]]\nkind = "hole"\npagemap = "dax0.0"\ncompound = 3\npage = 2\n'
    report = reported(text, "6.12")
    inside, outside = report.pages
    assert [(one.finding.rule, one.also) for one in inside.findings] == [
        ("hole", ("section-unmapped",))
    ]
    assert outside.findings == ()
    assert report.verdict.state == "wrong"
    first, _, since, *_ = report.verdict.lines
    assert first.startswith("1 error hole in dax0.0")
    assert "of 2 pages named, 1 is part of a finding" in report.verdict.lines
    seen = "10.000 s after boot, page fault in get_page_from_freelist() about a page of it"
    assert since == f"since: {seen} (pfn 0x100600)"


def test_since_when_a_bug_is_in_the_log(reported: Callable[[str, str], FullReport]) -> None:
    text = (FIXTURES.parent / "vmemscope/sim/scenarios/unaligned-1g.toml").read_text()
    start = int(text.split("start = ")[1].split()[0], 0) >> 12
    kernelless = "\n".join(line for line in text.splitlines() if not line.startswith("kernel"))
    report = reported(kernelless + "\n" + log(BAD_PAGE.format(comm="x", pfn=start + 5)), "7.2")
    assert report.verdict.lines[0].startswith("kernel bug mask-unaligned in ")
    since = "since: 10.000 s after boot, bad page in bad_page.cold() about a page of it"
    assert f"{since} (pfn {start + 5:#x})" in report.verdict.lines
    assert report.pages[0].bugs == ("mask-unaligned",)


@pytest.mark.parametrize("bugs", [0, 1, 2, 5])
@pytest.mark.parametrize("rules", [0, 1, 2, 3, 4, 9])
@pytest.mark.parametrize("read", [False, True])
def test_ten_lines_have_some_of_everything(
    bugs: int, rules: int, read: bool, ten: FullReport
) -> None:
    """Whatever is left out is counted, and what could not be read is never left out."""
    assert ten.pgmap is not None
    (bug,) = ten.pgmap.bugs
    one = next(pagemap for pagemap in ten.pgmap.pagemaps if pagemap.name == bug.name)
    names = [name for name in RULES if name not in {s.rule for s in bug.symptoms}][:rules]
    found = [
        Finding(name, Severity.ERROR, None, None, None, None, "")
        for name in (*names, *(one.rule for one in bug.symptoms if bugs))
    ]
    several = [replace(bug, bug=f"bug-{chr(97 + number)}") for number in range(bugs)]
    changed = replace(
        ten,
        pgmap=replace(
            ten.pgmap, bugs=tuple(several), pagemaps=(replace(one, findings=tuple(found)),)
        ),
        hugetlb=None,
        memmap=None,
        summary=replace(
            ten.summary,
            not_read=() if read else ("a table", "a log"),
            left_out=LeftOut(findings=7),
        ),
    )
    lines = conclude(changed).lines
    assert len(lines) <= MAX_LINES
    text = "\n".join(lines)
    assert "the log has trouble from 10.000 s" in text
    assert "7 findings left out" in text
    assert ("not read: a table, and 1 more" in text) == (not read)
    assert lines[-1].startswith("log: ")
    shown = [name for name in names if f"error {name} in" in text]
    assert shown == names[: len(shown)]
    assert len(shown) >= min(rules, 1)
    more = [int(number) for number in re.findall(r"(\d+) more rules? do", text)]
    assert sum(more) + len(shown) == rules
    led = [line for line in lines if line.startswith("kernel bug ")]
    more = [int(number) for number in re.findall(r"(\d+) more known bug", text)]
    assert sum(more) + len(led) == bugs
    if bugs:
        assert lines[0] == led[0]
        assert f"what to do: {bug.action}" in lines


@pytest.fixture(scope="module")
def ten(tmp_path_factory: pytest.TempPathFactory) -> FullReport:
    """A report with a known bug, and with trouble in the log about none of its pages."""
    text = (FIXTURES.parent / "vmemscope/sim/scenarios/unaligned-1g.toml").read_text()
    kernelless = "\n".join(line for line in text.splitlines() if not line.startswith("kernel"))
    core = write(
        image(kernelless + "\n" + log(MEMORY_FAILURE.format(pfn=RAM)), "7.2"),
        tmp_path_factory.mktemp("ten"),
    )
    return collect(Kernel.open_core(core))


@pytest.mark.parametrize("scenario", builtin_scenarios())
@pytest.mark.parametrize("kernel", SIMULATED)
def test_the_verdict_leads_with_the_bug_or_takes_three_lines(
    scenario: str, kernel: str, reported: Callable[[str, str], FullReport]
) -> None:
    report = reported(scenario, kernel)
    lines = report.verdict.lines
    assert len(lines) <= MAX_LINES
    if report.bugs:
        assert any(lines[0].startswith(f"kernel bug {bug.bug} ") for bug in report.bugs)
        assert any(line.startswith("what to do: ") for line in lines)
    elif not report.findings and not report.partial:
        assert report.verdict.state == "sound"
        assert len(lines) == 3


@pytest.mark.parametrize(
    ("scenario", "kernel", "bug"),
    [
        ("mixed", "7.2", "mask-unaligned"),
        ("unaligned-1g", "7.2", "mask-unaligned"),
        ("unaligned-section-1g", "6.1", "section-unaligned"),
        ("unaligned-section-1g", "6.12", "section-unaligned"),
        ("early-1g", "6.12", "section-early"),
        pytest.param(UNINITIALISED, "6.1", "early-uninitialised", id="early-uninitialised"),
        ("devdax-2m", "6.12@ppc64le", "radix-population"),
        pytest.param(RESTORED, "6.12", "hugetlb-restore", id="restore"),
        pytest.param(GIGANTIC, "7.2", "hugetlb-gigantic-boot", id="gigantic"),
    ],
)
def test_a_known_bug_leads(
    scenario: str, kernel: str, bug: str, reported: Callable[[str, str], FullReport]
) -> None:
    report = reported(scenario, kernel)
    where = "HugeTLB" if bug.startswith("hugetlb") else "dax"
    assert report.verdict.lines[0].startswith(f"kernel bug {bug} in {where}")
    assert report.verdict.state == "wrong"


@pytest.mark.parametrize("fixture", FAULTS[::7])
def test_findings_are_those_of_the_commands(
    fixture: str, reported: Callable[[str, str], FullReport]
) -> None:
    kernel = able(fixture)[-1]
    built = image(fixture, kernel)
    report = reported(fixture, kernel)
    planted = {
        (finding.command, finding.rule, finding.vaddr)
        for one in built.planted
        for finding in one.findings
    }
    found = {(one.command, one.finding.rule, one.finding.vaddr or 0) for one in report.covering()}
    found |= {
        ("memmap", also, one.finding.vaddr or 0) for one in report.covering() for also in one.also
    }
    # What two audits find by one rule is there once.
    found |= {("memmap", rule, at) for command, rule, at in found if command == "pgmap"}
    assert planted <= found
    assert len(report.verdict.lines) <= MAX_LINES


def test_without_the_log_nothing_counts_as_sound(
    reported: Callable[[str, str], FullReport], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not read never counts as sound; the rest is reported all the same."""
    monkeypatch.delitem(GLOBALS, "prb")
    report = reported(DEVICE, "6.12")
    assert report.not_read == ("the log (the kernel's types or symbols do not describe it)",)
    assert report.verdict.state == "partial"
    assert report.verdict.lines[0] == "nothing is wrong in what could be read"
    assert report.verdict.lines[-1] == "the log could not be read"
    assert report.pgmap is not None
    assert report.pgmap.pagemaps


def test_an_audit_that_types_do_not_suffice_for_is_not_made(
    reported: Callable[[str, str], FullReport], monkeypatch: pytest.MonkeyPatch
) -> None:
    need = Need("struct page.nothing", NeedKind.MEMBER, "fail")
    monkeypatch.setattr(hugetlb, "HUGETLB", (*HUGETLB, need))
    report = reported("hugetlb", "6.12")
    assert report.hugetlb is None
    assert report.memmap is not None
    assert report.not_read[0].startswith("vmemscope hugetlb: the kernel's types lack member")
    assert report.verdict.state == "partial"


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("x.html", "<!doctype html>"),
        ("x", "<!doctype html>"),
        ("x.md", "## vmemscope: sound"),
        ("x.json", '{\n  "schema": "vmemscope.report/1"'),
        ("x.txt", "core dump "),
        (None, "core dump "),
        ("-", "core dump "),
    ],
)
def test_the_name_of_the_file_says_the_format(
    name: str | None, start: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    core = write(image("devdax-2m", "6.12"), tmp_path)
    if name is None or not name[0].isalpha():
        assert main(["report", "-c", core, "-q", *(["-o", name] if name else [])]) == 0
        assert capfd.readouterr().out.startswith(start)
    else:
        assert main(["report", "-c", core, "-q", "-o", str(tmp_path / name)]) == 0
        assert (tmp_path / name).read_text().startswith(start)


def test_findings_that_the_user_leaves_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    core = write(image("hole", "6.12"), tmp_path)
    assert main(["report", "-c", core, "--format", "text", "-q", "--rule", "section-unmapped"]) == 1
    text = capsys.readouterr().out
    assert "1 error section-unmapped" in text
    assert "1 finding left out, as the user asked" in text
    assert "error hole" not in text
    rule = ["--rule", "refcount-low"]
    assert main(["report", "-c", core, "--format", "text", "-q", *rule]) == 0
    text = capsys.readouterr().out
    assert text.splitlines()[2] == "nothing is wrong but what is left out"


def test_a_bug_whose_findings_are_left_out_does_not_lead(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    core = write(image("unaligned-1g", "7.2"), tmp_path)
    rule = ["--rule", "refcount-low"]
    assert main(["report", "-c", core, "--format", "text", "-q", *rule]) == 0
    assert capsys.readouterr().out.splitlines()[2] == "nothing is wrong but what is left out"


def test_a_flood_is_bounded(reported: Callable[[str, str], FullReport]) -> None:
    """More pages and events than are explained are counted."""
    text = log(*(f"Memory failure: {pfn:#x}: x" for pfn in range(0x100, 0x100 + 100)))
    report = reported("\n" + text, "6.12")
    assert len(report.pages) + report.pages_left_out == 100
    assert len(report.log.events) + report.log.events_left_out == 100
    assert 0 < len(report.pages) < 100
    assert 0 < len(report.log.events) < 100
    named = {pfn for event in report.log.events for pfn in event.pages}
    assert named <= {one.pfn for one in report.pages}


def test_absurd_numbers_lead_nowhere(reported: Callable[[str, str], FullReport]) -> None:
    lines = (
        "Memory failure: 0xffffffffffffffff: x",
        "Memory failure: 0xffffffffffffffffffff: x",
        "BUG: unable to handle page fault for address: ffffffffffffffff",
        "BUG: unable to handle page fault for address: 0000000000000000",
        "{1}[Hardware Error]:   physical_address: 0xffffffffffffffff",
        "mce: [Hardware Error]: TSC 0 ADDR 0 MISC 86 ",
    )
    report = reported("\n" + log(*lines), "7.2")
    assert [one.pfn for one in report.pages] == [0]


def test_the_document_is_described(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = DEVICE + log(BAD_PAGE.format(comm="a", pfn=PFN))
    text += f'[crash]\nregisters = {{RDI = "{{page:{PFN:#x}}}"}}\n'
    core = write(image(text, "6.12"), tmp_path)
    assert main(["report", "-c", core, "--format", "json", "-q"]) == 0
    document = json.loads(capsys.readouterr().out)
    jsonschema.validate(document, json.loads(schema_text("vmemscope.report/1")))
    assert document["schema"] == "vmemscope.report/1"
    assert document["pgmap"]["schema"] == "vmemscope.pgmap/1"
    for audit in ("pgmap", "hugetlb", "memmap"):
        del document[audit]
    for one in document["pages"]:
        del one["page"]
    assert undocumented(document, "report") == set()


#: two devices in one section, with neither a gap nor a page of the memory map in common
ADJACENT = """
[[pagemap]]
name = "dax0.0"
type = "hmem"
start = 0x100000000
size = "64M"
align = "4K"
[[pagemap]]
name = "dax1.0"
type = "hmem"
start = 0x104000000
size = "64M"
align = "4K"
"""


@pytest.mark.parametrize(
    ("pages", "merged"),
    [
        # of the first device, the last but one among them; and on into the second
        ((252, 255), 1),
        ((253, 256), 1),
        ((252, 257), 0),
        # one in each, with a page between
        ((254, 255, 257, 258), 2),
    ],
)
def test_the_same_hole_is_one_finding(tmp_path: Path, pages: tuple[int, ...], merged: int) -> None:
    """One in the memory map that reaches beyond a device's is a finding of its own."""
    built = image(ADJACENT, "6.12")
    kernel = built.kernel
    start = kernel.addresses.pfn_to_page(0x100000)
    holes = list(zip(pages[::2], pages[1::2], strict=True))
    for first, end in holes:
        for vpage in range(first, end):
            kernel.tables.set(start + vpage * 4096, 12, 0)
    report = collect(Kernel.open_core(write(built, tmp_path)))
    found = [one for one in report.covering() if one.finding.rule in ("hole", "section-unmapped")]
    assert sum(one.also == ("section-unmapped",) for one in found) == merged
    assert sum(one.command == "memmap" for one in found) == len(holes) - merged
    # Each place that either audit finds is there.
    places = {one.finding.vaddr for one in found}
    assert places >= {start + first * 4096 for first, _ in holes}
    assert report.summary.errors == len(report.covering())
    # The documents in it are those of the audits.
    assert report.pgmap is not None
    assert report.memmap is not None
    assert len(report.memmap.findings) == len(holes)
    assert any("breaks section-unmapped" in line for line in report.verdict.lines) == bool(merged)


# s390x, where an address of a process may be one of the kernel's, too.

#: arch/s390/mm/fault.c: dump_fault_info(), arch/s390/kernel/dumpstack.c: show_registers()
_S390X_FAULT = """\
Unable to handle kernel pointer dereference in virtual {whose} address space
Failing address: {at:016x} TEID: {teid:016x}
{fault}Oops: 0004 ilc:3 [#1] SMP
{mode} PSW : {psw:016x} 000003ff9d2a1c30
           R:0 T:1 IO:1 EX:1 Key:0 M:1 W:0 P:{problem} AS:{space} CC:0 PM:0 RI:0 EA:3
{mode} GPRS: 0000000000000000 0000000000000001 {{page:0x{page:x}}} 0000000000000003
           0000000000000004 0000000000000005 0000000000000006 0000000000000007
Call Trace:
 [<000003ff9d2a1c30>] zap_huge_pud+0x44/0x90
---[ end trace 0000000000000000 ]---"""
#: the kernel's PSW, and a process's: PSW_KERNEL_BITS, PSW_USER_BITS
_KERNEL_PSW, _USER_PSW = 0x0704_C001_8000_0000, 0x0705_0001_8000_0000
_FAULT_IN = "Fault in {} space mode while using {} ASCE.\n"


@pytest.mark.parametrize(
    ("space", "fault", "psw", "expected"),
    [
        # The kernel's home space says it itself, whatever the next line says.
        (3, _FAULT_IN.format("home", "kernel"), _KERNEL_PSW, ["address", "register"]),
        (3, "", _KERNEL_PSW, ["address", "register"]),
        # The primary space is that of both.
        (0, _FAULT_IN.format("primary", "kernel"), _KERNEL_PSW, ["address", "register"]),
        (0, _FAULT_IN.format("primary", "user"), _USER_PSW, []),
        (0, _FAULT_IN.format("primary", "gmap"), _KERNEL_PSW, ["register"]),
        (0, "", _KERNEL_PSW, ["register"]),
        # The kernel accesses a process's memory; the registers are the kernel's.
        (2, _FAULT_IN.format("secondary", "user"), _KERNEL_PSW, ["register"]),
        (1, _FAULT_IN.format("access register", "user"), _USER_PSW, []),
    ],
)
def test_whose_address_a_fault_on_s390x_is_about(
    space: int, fault: str, psw: int, expected: list[str],
    reported: Callable[[str, str], FullReport],
) -> None:  # fmt: skip
    """The address lies in RAM, which is mapped where it is, and one register has a struct page."""
    problem = psw >> 48 & 1
    text = _S390X_FAULT.format(
        whose="user" if "user" in fault else "kernel", at=RAM * 4096 + 8, teid=0x800 + space,
        fault=fault, mode="User" if problem else "Krnl", psw=psw, problem=problem, space=space,
        page=RAM + 3,
    )  # fmt: skip
    report = reported(DEVICE + log(text), "7.2@s390x")
    pages = {"address": RAM, "register": RAM + 3}
    assert [one.pfn for one in report.pages] == [pages[one] for one in expected]
    assert [one.kind for one in report.log.events] == ["page fault"]


@pytest.mark.parametrize(
    ("psw", "expected"),
    [
        (_KERNEL_PSW, True),
        # Without translation (crash dumps by store_status()), and in primary space.
        (0x0004_0001_8000_0000, True),
        (0x0404_0001_8000_0000, True),
        (_USER_PSW, False),
        # All that a process can set besides.
        (0x0705_C001_8000_0000, False),
        # Secondary space and access registers: the kernel in a process's memory.
        (0x0704_8001_8000_0000, False),
        (0x0704_4001_8000_0000, False),
    ],
)
def test_whose_registers_those_of_a_cpu_on_s390x_are(
    psw: int, expected: bool, reported: Callable[[str, str], FullReport]
) -> None:
    """A struct page, the address of a device's page, and of a page that the log names."""
    _, _, device = _ram_and_device("7.2@s390x")
    crash = (
        f'[crash]\ncpu = 1\nregisters = {{"0" = "{psw:x}", "4" = "{{page:{RAM + 3:#x}}}",'
        f' "5" = "{{direct:{device * 4096 + 8:#x}}}", "6" = "{{direct:{RAM * 4096:#x}}}"}}\n'
    )
    report = reported(DEVICE + log(MEMORY_FAILURE.format(pfn=RAM)) + crash, "7.2@s390x")
    assert report.cpu is not None
    found = {one.name: one.pfn for one in report.cpu.registers if one.pfn is not None}
    assert found == ({"r2": RAM + 3, "r3": device, "r4": RAM} if expected else {})
    # What they hold is there all the same.
    assert {one.name: one.value for one in report.cpu.registers}["mask"] == psw
