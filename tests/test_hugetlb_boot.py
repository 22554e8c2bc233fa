# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Gigantic pages from boot in the coming kernel: the order of their sections populates their
memory map (``mm/hugetlb_vmemmap.c: hugetlb_vmemmap_optimize_bootmem_page()``).

The order says how the memory map was populated, and stays; how it is now, entries say.
Expected numbers are sums by the kernel's rules, and of a walk entry by entry.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest

from vmemscope.audits import memmap
from vmemscope.audits.page import audit as audit_page
from vmemscope.errors import UsageError
from vmemscope.machine import Kernel
from vmemscope.sim import load_scenario
from vmemscope.sim.faults import HUGETLB_FAULTS
from vmemscope.sim.hugetlb import Folio
from vmemscope.sim.image import Image
from vmemscope.sim.pagetable import RW
from vmemscope.sim.scenario_toml import parse_scenario

from .kernels import Audited, View, audit_core, built, image, write
from .test_hugetlb import FAULTS, fault

#: 2 sections of RAM at 0, 26 at 4 GiB; of a section, 512 pages of memory map
NODES = """
[[node]]
start = 0
size = "256M"
[[node]]
start = 0x100000000
size = "3328M"
"""
SECTIONS, SECTION = 28, 512
#: sections of a folio of 1 GiB; and pages of its memory map, and of that of one of 2 MiB
GIGANTIC, LARGE, SMALL = 8, 4096, 8
PAGE_PFNS = 1 << 18
ARCHS = ("", "@riscv64")


class Boot(NamedTuple):
    """A kernel, what is in its dump, and what is reported of it."""

    built: Image
    core: str
    done: Audited

    @property
    def unprotected(self) -> set[str]:
        """The rules that riscv64 breaks by itself."""
        return {one.rule for one in self.done.found()} & {"hugetlb-unprotected"}

    def of(self, pfn: int) -> Folio:
        return next(one for one in self.built.kernel.hugetlb.folios if one.pfn == pfn)


def boot(tmp_path: Path, text: str, arch: str) -> Boot:
    """Build, write and audit a scenario."""
    one = image(f"{NODES}{text}", f"next{arch}") if text else image("hugetlb-boot", f"next{arch}")
    core = write(one, tmp_path)
    return Boot(one, core, audit_core(Path(core), one.planted))


@pytest.mark.parametrize("arch", ARCHS)
def test_two_sizes_and_one_that_was_restored(tmp_path: Path, arch: str) -> None:
    """Two gigantic pages from boot, one of them restored; one, and three of 2 MiB, later."""
    one = boot(tmp_path, "", arch)
    assert (
        {f.rule for f in one.done.found()}
        == one.unprotected
        == ({"hugetlb-unprotected"} if arch else set())
    )
    small, gigantic = one.done.hugetlb.hstates
    # Each optimized folio has a frame, and each zone one for its order.
    assert (small.optimized, small.frames) == (3, 3 + 1 + SMALL)
    assert (gigantic.optimized, gigantic.frames) == (2, 2 + 1 + LARGE)
    assert small.saved_bytes == (3 * SMALL - 4) * 4096
    assert gigantic.saved_bytes == (2 * LARGE - 3) * 4096
    # The frame that memblock gave serves what is allocated later, too.
    assert [(t.order, t.folios, t.refcount) for t in one.done.hugetlb.shared_tails] == [
        (9, 3, 1), (18, 2, 1),
    ]  # fmt: skip
    _, normal = sorted(one.done.hugetlb.shared_tails, key=lambda tail: tail.order)
    assert normal.pfn == one.built.kernel.boot_huge.tails[0, "ZONE_NORMAL", 18]
    # By the kernel: a page is counted for each of the two at boot, then what run-time
    # optimization frees is not, and what it and the restoration allocate is.
    counted = {c.name: (c.value, c.expected) for c in one.done.memmap.counters}
    at_boot = (SECTIONS - 2 * GIGANTIC) * SECTION + 2 - LARGE - 3 * SMALL
    since = (LARGE - 1) + 1 + 3
    assert counted == {
        "nr_memmap_boot_pages": (at_boot, at_boot),
        "nr_memmap_pages": (since, since),
    }
    whole = one.done.memmap.summary
    assert whole.frames == at_boot + since + 2
    assert whole.saved_bytes == (SECTIONS * SECTION - whole.frames) * 4096


def test_entries_of_folios_from_boot(tmp_path: Path) -> None:
    """Entry by entry: what is shared, what can be written to, and what was restored."""
    one = boot(tmp_path, "", "")
    view = View(one.core)
    orders = one.built.kernel.sections
    shared = one.built.kernel.boot_huge.tails[0, "ZONE_NORMAL", 18]
    for pfn, restored in ((0x180000, False), (0x140000, True)):
        leaves = view.leaves_of(pfn, pfn + PAGE_PFNS)
        assert [leaf.shift for leaf in leaves] == [12] * LARGE
        assert [bool(leaf.entry & RW) for leaf in leaves] == [True] + [restored] * (LARGE - 1)
        frames = Counter(leaf.pfn for leaf in leaves)
        assert frames[shared] == (0 if restored else LARGE - 1)
        assert len(frames) == (LARGE if restored else 2)
        assert {orders.compound_order(pfn // 32768 + i) for i in range(GIGANTIC)} == {18}
        (report,) = [f for f in one.done.hugetlb.folios if f.pfn == pfn]
        assert (report.flagged, report.read_only) == (not restored, 0 if restored else LARGE - 1)
    # At run time no order is set.
    assert orders.compound_order(0x100000 // 32768) == 0
    assert one.of(0x100000).optimized


@pytest.mark.parametrize("arch", ARCHS)
def test_orders_stay_when_folios_go(tmp_path: Path, arch: str) -> None:
    """One is demoted, its 512 parts optimized at run time; another went to the page allocator."""
    text = '[[hugetlb]]\nsize = "1G"\ncount = 3\nboot = true\ndemoted = 1\nfreed = 1\n'
    one = boot(tmp_path, text, arch)
    assert {f.rule for f in one.done.found()} == one.unprotected
    orders = Counter(
        one.built.kernel.sections.compound_order(nr) for nr in range(0x100000 // 32768, 58)
    )
    assert orders == {18: 3 * GIGANTIC, 0: 2}
    small, gigantic = one.done.hugetlb.hstates
    assert (small.folios, small.optimized, small.frames) == (512, 512, 512 + 1)
    assert (gigantic.folios, gigantic.optimized, gigantic.frames) == (1, 1, 2)
    at_boot = (SECTIONS - 3 * GIGANTIC) * SECTION + 3 - 1
    # Of the demoted one, all but the head's frame was allocated, and freed again; its parts
    # have a head each. The freed one keeps what it was given.
    since = 512 + (LARGE - 1)
    assert [c.value for c in one.done.memmap.counters] == [since, at_boot]
    assert [c.expected for c in one.done.memmap.counters] == [since, at_boot]


@pytest.mark.parametrize("arch", ARCHS)
def test_before_tail_pages_are_protected(tmp_path: Path, arch: str) -> None:
    """
    Until hugetlb_init() gathers it, a folio is on no list, and its tail pages are writable: they
    share a frame all the same, and the counters have it as that.
    """
    found = image(f'{NODES}[[hugetlb]]\nsize = "1G"\nboot = true\n', f"next{arch}")
    hugetlb = found.kernel.hugetlb
    (folio,) = hugetlb.folios
    for page in range(1, LARGE):
        va = hugetlb.address(folio, page)
        entry = hugetlb.tables.entry(va, 12)
        hugetlb.tables.set(va, 12, entry | RW)
    hstate = hugetlb.hstates[18]
    for name in ("nr_huge_pages", "free_huge_pages"):
        hstate[name] = hstate[f"{name}_node[0]"] = 0
    hstate.init_list("hugepage_freelists[0]")
    found.kernel.memmap.words(folio.pfn)[:] = 0
    kernel = Kernel.open_core(write(found, tmp_path))
    done = audit_core(Path(kernel.target.path))
    assert done.found() == set()
    assert [c.value for c in done.memmap.counters] == [0, (SECTIONS - GIGANTIC) * SECTION + 1]
    (area,) = [a for a in memmap.audit(kernel).areas if a.zone == "Normal"]
    assert area.read_only == LARGE - 1
    tail = audit_page(kernel, folio.pfn + 64, "pfn")
    assert tail.sharing is not None
    assert tail.sharing.pages >= SECTION - 1


def test_what_a_scenario_can_not_have() -> None:
    for added, why in (
        ("boot = true", "only pages of 1G are reserved at boot"),
        ("restored = 2", "no more can be restored"),
        ("count = 2\nin_use = 2\nfreed = 1", "no more can be restored"),
        ("restored = 1\noptimized = false", "only what is optimized can be restored"),
        ("demoted = 1", "only pages of 1G can be demoted"),
    ):
        with pytest.raises(UsageError, match=why):
            parse_scenario(f"[[hugetlb]]\n{added}\n", "x")


@pytest.mark.parametrize("kernel", ["6.1", "6.12", "7.2"])
def test_other_kernels_optimize_them_later(tmp_path: Path, kernel: str) -> None:
    """As they do by default; SECTION_IS_VMEMMAP_PREINIT of 6.15 to 7.3 is not simulated."""
    one = built(load_scenario("hugetlb-boot"), kernel)
    done = audit_core(Path(write(one, tmp_path)))
    assert done.found() == set()
    assert done.hugetlb.hstates[1].optimized == 2
    assert one.kernel.boot_huge.heads == []


#: kinds of fault in the folio from boot, but where another is needed: 1 was restored, and the
#: pages behind the last are mapped one by one
PLACES = {"stray": 6, "flag-extra": 1, "half-begun": 6}
#: faults that riscv64 can't tell from what is sound
PROTECTION = {"tail-writable", "head-read-only", "stray"}
CASES = [
    (kind, options)
    for kind, options in FAULTS
    if "next" in (HUGETLB_FAULTS[kind].kernels or ("next",))
]


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_fault(tmp_path: Path, case: tuple[str, str], arch: str) -> None:
    kind, options = case
    chosen = json.loads(options)
    if any(option.name == "folio" for option in HUGETLB_FAULTS[kind].options):
        # What is planted in a folio that is not optimized, is in the restored one.
        chosen["folio"] = PLACES.get(kind, 1 if chosen.get("folio") == 0 else 0)
    text = load_text() + fault(kind, **chosen)
    one = image(text, f"next{arch}")
    done = audit_core(Path(write(one, tmp_path)), one.planted)
    found = {f for f in done.found() if f.command == "hugetlb"}
    expected = done.expected()
    if arch:
        found = {f for f in found if f.rule != "hugetlb-unprotected"}
        expected = {f for f in expected if f.rule != "hugetlb-read-only"}
        if kind in PROTECTION:
            expected = set()
    assert found == expected


def load_text() -> str:
    """Return the scenario, without the lines of which a text has its own."""
    path = Path(__file__).parent.parent / "vmemscope/sim/scenarios/hugetlb-boot.toml"
    lines = path.read_text().splitlines()
    return "\n".join(one for one in lines if not one.startswith(("kernel", "description")))
