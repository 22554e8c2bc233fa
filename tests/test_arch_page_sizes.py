# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Simulated kernels with base pages of 16 and 64 KiB: all scenarios and faults on each.

arm64 has base pages in its memory map with both, and does not deduplicate. ppc64le with pages
of 64 KiB has less than a page of ``struct page``s for a section, and for 32 compound pages of
2 MiB.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from random import Random

import pytest

from vmemscope.errors import VmemscopeError
from vmemscope.sim import builtin_scenarios

from .arch_matrix import check_fault, check_scenario, damage
from .kernels import COMING_FAULTS, FAULTS, Dumps, audit_core, image, write

ARCHS = ("arm64-16k", "arm64-64k", "ppc64le-64k")
#: faults for those whose devices are of 64 GiB here, and for the second size of base pages: of
#: each room of the simulator's faults
FEW = (
    *("altmap-ram", "base-pages", "early-uninitialised", "executable"),
    *("frame-freed", "head-shared", "hole", "huge-leaf", "leak", "leak-large", "missing-dedup"),
    *("range-overlap", "ref-lost", "refcount-low", "subsection-lost", "tail-neighbour"),
    *("tail-written", "unreadable-table", "usage-lost", "wrong-order", "xarray-stray"),
)
CASES = [
    pytest.param(
        arch,
        fault,
        marks=[pytest.mark.whole] if arch != "arm64-16k" and fault not in FEW else [],
    )
    for arch in ARCHS
    for fault in sorted(set(FAULTS) - COMING_FAULTS)
]


@pytest.mark.parametrize(("arch", "fault"), CASES)
def test_fault(dumps: Dumps, arch: str, fault: str) -> None:
    check_fault(dumps, fault, arch)


@pytest.mark.parametrize("name", builtin_scenarios())
@pytest.mark.parametrize("arch", ARCHS)
def test_scenario(dumps: Dumps, tmp_path: Path, name: str, arch: str) -> None:
    check_scenario(dumps, tmp_path, name, "7.2", arch)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("arch", ARCHS)
def test_damage(tmp_path: Path, arch: str, seed: int) -> None:
    """Whatever a dump holds, it is audited, or refused by one of vmemscope's own errors."""
    one = image("devdax-2m" if seed % 2 else "altmap", f"7.2@{arch}")
    core = Path(write(one, tmp_path))
    shift = one.kernel.units.page_shift
    damage(core, [pfn << shift for pfn in one._tables()], Random(f"{arch} {seed}"))
    with suppress(VmemscopeError):
        assert audit_core(core).memmap.outcomes


#: compound pages of 32 pages, of which 32 lie in a page of the memory map
SMALL = """
[[pagemap]]
name = "dax0.0"
type = "devdax"
start = 0x100000000
size = "512M"
align = "2M"
{map}
[[fault]]
kind = "{kind}"
pagemap = "dax0.0"
compound = {compound}
{options}
"""


@pytest.mark.parametrize("where", ["", 'map = "dev"'])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("wrong-pgmap", ""),
        ("head-flag-lost", ""),
        ("tail-wrong-head", "struct_page = 5"),
        ("page-refcount", "struct_page = 31"),
        ("wrong-order", ""),
        ("wrong-zone", "struct_page = 17"),
        ("stray-head", "struct_page = 9"),
        ("uninitialised", 'struct_page = 30\npattern = "zeros"'),
    ],
)
@pytest.mark.parametrize("compound", [0, 33])
def test_compound_pages_within_a_page(
    tmp_path: Path, kind: str, options: str, compound: int, where: str
) -> None:
    """Each struct page of them is checked, and what is wrong is found where it is."""
    text = SMALL.format(kind=kind, options=options, compound=compound, map=where)
    one = image(text, "7.2@ppc64le-64k")
    done = audit_core(Path(write(one, tmp_path)), one.planted)
    assert done.found() == done.expected() != set()
    (pagemap,) = done.pgmap.pagemaps
    assert pagemap.state == "not-optimized"
    summary = done.pgmap.summary
    assert summary.compounds_checked == summary.compounds >= 255


#: two huge pages of 2 MiB, whose struct pages lie in one page
HUGE = "[[hugetlb]]\ncount = 40\n"


def test_huge_pages_within_a_page(tmp_path: Path) -> None:
    """A page of the memory map counts once, however many huge pages it describes."""
    done = audit_core(Path(write(image(HUGE, "7.2@ppc64le-64k"), tmp_path)))
    (hstate,) = (one for one in done.hugetlb.hstates if one.folios)
    assert (hstate.size, hstate.folios) == (2 << 20, 40)
    # 40 * 2 KiB of struct pages; the first may lie anywhere in its page.
    assert hstate.pages in (2, 3)
    assert hstate.mapped == hstate.frames == hstate.pages
    assert hstate.saved_bytes == 0
    assert done.hugetlb.findings == ()


#: sections of 16 MiB, of which four have their struct pages in one page: of one node in the
#: middle of another's; and RAM added after boot, one block of which has its own memory map
SECTIONS = """
[[node]]
start = 0
size = "272M"
[[node]]
start = 0x11000000
size = "16M"
nid = 1
[[node]]
start = 0x12000000
size = "128M"
[[block]]
start = 0x200000000
size = "128M"
online = true
nid = 1
map = "self"
[[block]]
start = 0x208000000
size = "128M"
online = {online}
"""


@pytest.mark.parametrize("online", ["true", "false"])
def test_each_section_counts_a_whole_page(tmp_path: Path, online: str) -> None:
    """Whenever it came, of which node it is, and wherever its struct pages are."""
    text = SECTIONS.format(online=online)
    done = audit_core(Path(write(image(text, "7.2@ppc64le-64k"), tmp_path))).memmap
    assert done.findings == ()
    counters = {one.name: one.expected for one in done.counters}
    assert counters == {"nr_memmap_pages": 2 * 128 // 16, "nr_memmap_boot_pages": 416 // 16}
    assert sum(area.counted or 0 for area in done.areas) == (2 * 128 + 416) // 16


#: devices of two nodes that have parts of a page of the memory map each
NEIGHBOURS = """
[[node]]
start = 0
size = "256M"
[[node]]
start = 0x100000000
size = "256M"
nid = 1
[[pagemap]]
name = "dax0.0"
type = "devdax"
start = 0x208000000
size = "{first}"
align = "{align}"
nid = 1
{map}
[[pagemap]]
name = "pmem1"
type = "fsdax"
start = {second}
size = "254M"
[[pagemap]]
name = "dax2.0"
type = "devdax"
start = {third}
size = "32M"
align = "{align}"
nid = 1
"""


@pytest.mark.parametrize("where", ["", 'map = "dev"'])
@pytest.mark.parametrize("align", ["4K", "2M"])
@pytest.mark.parametrize("first", [6, 30, 96])
def test_neighbours_of_other_nodes(tmp_path: Path, first: int, align: str, where: str) -> None:
    """The node of a device is that of its own pages, not of those that share a page with them."""
    second = 0x208000000 + (first << 20)
    text = NEIGHBOURS.format(
        first=f"{first}M", align=align, map=where, second=second, third=second + (254 << 20)
    )
    done = audit_core(Path(write(image(text, "7.2@ppc64le-64k"), tmp_path)))
    assert done.found() == set()
    assert done.pgmap.summary.base_pages_unreadable == 0
    nodes = {area.name: area.node for area in done.memmap.areas if area.kind == "pagemap"}
    assert nodes == {"dax0.0": 1, "pmem1": 0, "dax2.0": 1}


@pytest.mark.parametrize(
    "ranges",
    [
        # One ends where another begins, in the same page of the vmemmap, which has 64 MiB; with
        # a gap, without; three in one page.
        [(0x214400000, 254), (0x224800000, 254)],
        [(0x214400000, 254), (0x224200000, 254)],
        [(0x214400000, 2), (0x214800000, 2), (0x215000000, 128)],
        # No page has two.
        [(0x214400000, 60), (0x218400000, 60)],
    ],
)
def test_ranges_that_meet_in_a_page(dumps: Dumps, ranges: list[tuple[int, int]]) -> None:
    """Each page of the vmemmap is counted once, whatever ranges it describes."""
    tables = ", ".join(f'{{start = {start:#x}, size = "{size}M"}}' for start, size in ranges)
    scenario = f"""
[[pagemap]]
name = "dax1.0"
type = "hmem"
align = "4K"
ranges = [{tables}]
"""
    reports = dumps.audited(scenario, "7.2@ppc64le-64k")
    # 1,024 struct pages of 64 bytes, each of 64 KiB.
    pages = {
        place >> 26
        for start, size in ranges
        for place in range(start, start + (size << 20), 2 << 20)
    }
    (one,) = reports.pgmap.pagemaps
    assert one.state == "not-optimized"
    assert one.findings == ()
    assert (one.vmemmap.pages, one.frames.backing, one.saved_bytes) == (len(pages),) * 2 + (0,)
    (area,) = [area for area in reports.memmap.areas if area.name == "dax1.0"]
    assert (area.pages, area.frames) == (one.vmemmap.pages, one.frames.backing)
