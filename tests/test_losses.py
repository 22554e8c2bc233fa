# SPDX-License-Identifier: LGPL-2.1-or-later
"""
One page is not in the dump: what is lost is what depends on it, and it is called so.

Each page that audits read is left out alone, as makedumpfile may leave it out. Then no
report has a finding that the whole dump does not have; a part that differs says what could
not be read; and no pagemap, table or reason is lost to anything but its own page.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from drgn import FaultError

from vmemscope.audits import hugetlb, memmap, page
from vmemscope.audits.pagemaps import once
from vmemscope.errors import TargetError, VmemscopeError
from vmemscope.machine import Kernel
from vmemscope.report import to_document

from .kernels import PAGE, Dumps, filtered, image, write
from .sieve import Sieve

SCENARIO = """
ram = "256M"
[[pagemap]]
name = "dax0.0"
type = "devdax"
start = 0x100000000
size = "32M"
[[pagemap]]
name = "dax1.0"
type = "devdax"
start = 0x140000000
size = "2G"
align = "1G"
[[pagemap]]
name = "dax2.0"
type = "devdax"
start = 0x1D0000000
size = "128M"
map = "dev"
[[pagemap]]
name = "pmem3"
type = "fsdax"
start = 0x1E0000000
size = "4M"
[[hugetlb]]
count = 2
"""
#: a page of RAM, and a tail page of a device
PFNS = (0x8000, 0x100045)
#: of these pages all pages are alike: so many are left out, one of each stretch of them
ALIKE = 10
#: reasons for a skipped rule that nothing lost makes true
FALSE_REASONS = (
    "being set up or torn down",
    "has no memory",
    "the kernel has no HugeTLB",
    "no folio is optimized",
    "there are no folios",
    "this kernel has no such counter",
    "CONFIG_",
)


def reports_of(kernel: Kernel) -> dict[str, Any]:
    """Return all reports on a kernel, or why there is none."""
    found: dict[str, Any] = {}
    for name, audit in (
        ("pgmap", lambda: once(kernel)),
        ("memmap", lambda: memmap.once(kernel)),
        ("hugetlb", lambda: hugetlb.once(kernel)),
        *((f"page {pfn:#x}", lambda pfn=pfn: page.once(kernel, pfn)) for pfn in PFNS),
    ):
        try:
            found[name] = audit()
        except VmemscopeError as e:
            found[name] = e
    return found


class Lossy:
    """An opened dump, and all reports on it while a page is missing."""

    def __init__(self, core: Path) -> None:
        self.kernel = Kernel.open_core(str(core))
        self.sieve = Sieve(self.kernel.prog, core)
        self.whole = self.reports()
        self.told = {name: told(report) for name, report in self.whole.items()}
        self.sieve.seen.clear()
        self.reports()
        self.read = sorted(self.sieve.seen)

    def reports(self) -> dict[str, Any]:
        return reports_of(self.kernel.again())

    def without(self, pfn: int) -> dict[str, Any]:
        self.sieve.without = {pfn}
        try:
            return self.reports()
        finally:
            self.sieve.without = set()

    def struct_pages(self) -> set[int]:
        """Return the frames that hold struct pages."""
        kernel = self.kernel
        found = set()
        for leaves in kernel.vmemmap.leaves(0, kernel.vmemmap_end):
            for pfn, shift, kind in zip(leaves.pfn, leaves.shift, leaves.kind, strict=True):
                if not kind:
                    found.update(range(int(pfn), int(pfn) + (1 << int(shift) - 12)))
        return found


@pytest.fixture(scope="module", params=["6.1", "6.12", "7.2"])
def lossy(dumps: Dumps, request: pytest.FixtureRequest) -> Iterator[Lossy]:
    found = Lossy(dumps.core(SCENARIO, request.param))
    yield found
    found.sieve.close()


def findings(report: Any) -> set[tuple[str, int | None]]:
    every = report.every_finding() if hasattr(report, "every_finding") else report.findings
    return {(one.rule, one.vaddr) for one in every}


def reasons(report: Any) -> Iterator[str]:
    outcomes = report.all_outcomes() if hasattr(report, "all_outcomes") else ()
    for one in outcomes or getattr(report, "outcomes", ()):
        # Also of rules that were evaluated for a part.
        if one.reason:
            yield one.reason


def told(report: Any) -> dict[str, Any]:
    document = to_document(report)
    return {name: value for name, value in document.items() if name != "timings"}


def check(lossy: Lossy, pfn: int) -> None:
    """Check what is said without one page."""
    for name, report in lossy.without(pfn).items():
        whole = lossy.whole[name]
        if isinstance(report, VmemscopeError):
            # Without the kernel's own page tables nothing can be found.
            assert isinstance(report, TargetError)
            assert "can't be read, so the vmemmap can't be found" in str(report)
            continue
        assert findings(report) <= findings(whole), (name, hex(pfn))
        before = set(reasons(whole))
        for reason in set(reasons(report)) - before:
            assert not any(words in reason for words in FALSE_REASONS), (name, hex(pfn), reason)
        if told(report) != lossy.told[name]:
            skipped = set(reasons(report)) - before
            known = set(whole.not_read)
            assert set(report.not_read) - known or skipped, (name, hex(pfn))
        if name == "pgmap":
            check_pagemaps(report, whole, pfn)


def check_pagemaps(report: Any, whole: Any, pfn: int) -> None:
    there = {one.address: one for one in report.pagemaps}
    for old in whole.pagemaps:
        new = there.get(old.address)
        # Without pgmap_array, struct pages and the dax bus know it.
        assert new is not None, (old.name, hex(pfn))
        if new.state != old.state:
            reason = new.reason or ""
            assert "read" in reason, (old.name, new.state, reason)
            if "page tables" in reason or "not readable" in reason:
                assert new.vmemmap.unreadable, (old.name, hex(pfn))
        if new.vmemmap.unreadable == old.vmemmap.unreadable and new.ranges:
            assert new.frames.backing == old.frames.backing
            assert new.frames.sharing == old.frames.sharing
            assert new.saved_bytes == old.saved_bytes


def test_every_page_that_is_no_struct_page(lossy: Lossy) -> None:
    pages = sorted(set(lossy.read) - lossy.struct_pages())
    written = [pfn for pfn in pages if any(lossy.kernel.prog.read(pfn * PAGE, PAGE, True))]
    assert len(written) > 30
    # All of one kernel, and some of the others, which differ in few structures.
    for pfn in written[:: 1 if lossy.kernel.target.osrelease.startswith("6.12") else 5]:
        check(lossy, pfn)
    # Nearly all others are of the table of sections, whose entries are for memory up to 4 PiB.
    zeros = sorted({*pages} - {*written})
    assert len(zeros) > ALIKE
    for pfn in zeros[:: len(zeros) // ALIKE]:
        check(lossy, pfn)


def test_pages_of_struct_pages(lossy: Lossy) -> None:
    pages = sorted(set(lossy.read) & lossy.struct_pages())
    assert len(pages) > ALIKE
    for pfn in pages[:: len(pages) // ALIKE]:
        check(lossy, pfn)


@pytest.mark.parametrize("kernel", ["6.1", "6.12", "7.2"])
@pytest.mark.parametrize("fill", [0, 0xAA])
def test_free_pages_are_not_read(tmp_path: Path, kernel: str, fill: int) -> None:
    """
    Free page reporting gives free pages to the host, which then read as zeros in its dumps.

    The balloon and virtio-mem take pages that nobody has, too (PageOffline). What audits read is
    in use. The simulated dump lacks free pages altogether.
    """
    built = image(SCENARIO, kernel)
    lacking = reports_of(Kernel.open_core(write(built, tmp_path)))
    free = [pfn + n for pfn, order in built.kernel.pages.free_blocks(10) for n in range(1 << order)]
    assert len(free) > 20000
    # Also the first ones that the kernel would hand out, in blocks of each order.
    some = {*free[:4000], *free[4000::50]}
    physical = built.kernel.physical
    assert not any(pfn in physical for pfn in some)
    for pfn in some:
        physical.page(pfn)[:] = fill
    opened = Kernel.open_core(write(built, tmp_path))
    assert opened.prog.read(max(some) * PAGE, 8, True) == bytes([fill]) * 8
    for name, report in reports_of(opened).items():
        assert findings(report) == set(), name
        assert report.not_read == (), name
        assert told(report) == told(lacking[name]), name


def test_names_of_resources(dumps: Dumps, monkeypatch: pytest.MonkeyPatch) -> None:
    """What they are called is all that goes, and that is said."""

    def lost(*_: object) -> bytes:
        raise FaultError("not in the dump", 0)

    core = str(dumps.core(SCENARIO, "6.12"))
    pfn = next(one for one in Kernel.open_core(core).layouts if one.name == "dax0.0").pfns[0][0]
    whole = page.audit(Kernel.open_core(core), pfn, "pfn")
    assert whole.not_read == ()
    monkeypatch.setattr("vmemscope.kernel.resource.read_string", lost)
    report = page.audit(Kernel.open_core(core), pfn, "pfn")
    assert [one.name for one in report.resources] == [""] * len(whole.resources)
    assert report.not_read == (f"names of resources: {len(whole.resources)}",)


@pytest.mark.parametrize("kernel", ["6.1", "7.2"])
def test_page_tables_without_resources(dumps: Dumps, tmp_path: Path, kernel: str) -> None:
    # makedumpfile 1.7.2 of Debian 12 left out a page of slab objects of a 6.12.
    core = dumps.core(SCENARIO, kernel)
    whole = Kernel.open_core(str(core))
    prog = whole.prog
    wanted = {
        int(prog.read_u64(one.address) and one.address)
        for one in whole.resources
        if one.depth == 1 and one.is_system_ram
    }
    base = prog["page_offset_base"].value_()
    pages = {(address - base) // PAGE for address in wanted}
    assert pages
    lost = Kernel.open_core(str(filtered(core, tmp_path / "vmcore", pages)))
    report = once(lost)
    assert report.findings == ()
    assert any("resource" in line for line in report.not_read)
    readable = [one for one in report.pagemaps if one.ranges]
    assert readable
    for one in readable:
        (old,) = [p for p in once(whole).pagemaps if p.address == one.address]
        assert (one.state, one.frames, one.saved_bytes) == (old.state, old.frames, old.saved_bytes)
        assert one.findings == ()
    memory = memmap.audit(lost)
    assert memory.findings == ()
    assert memory.summary.frames_elsewhere == 0


def test_without_the_section_table(dumps: Dumps, tmp_path: Path) -> None:
    # The kernel's own variable says where the vmemmap is.
    core = dumps.core(SCENARIO, "6.12")
    whole = Kernel.open_core(str(core))
    roots = int(whole.prog["mem_section"].value_())
    first = whole.prog.read_u64(roots)
    pages = {
        (address - whole.prog["page_offset_base"].value_()) // PAGE for address in (first,) if first
    }
    lost = Kernel.open_core(str(filtered(core, tmp_path / "vmcore", pages)))
    assert lost.geometry.vmemmap == whole.geometry.vmemmap
    report = once(lost)
    assert report.findings == ()
    assert any("section table can't be read" in line for line in report.not_read)
    old = {one.name: one for one in once(whole).pagemaps}
    assert {one.name for one in report.pagemaps} == set(old)
    for one in report.pagemaps:
        assert one.findings == ()
        assert one.frames.backing == old[one.name].frames.backing
        assert one.saved_bytes == old[one.name].saved_bytes
