# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Kernels whose ``struct page`` has another size than 64 bytes.

A size that divides no page lies across pages of the vmemmap, and a section's memory map is no
multiple of a large leaf: neighbouring sections share leaves, of RAM or of a device's altmap.
Nothing is deduplicated unless the size is a power of two (``vmemmap_can_optimize()``).
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vmemscope.audits import hugetlb, memmap, page
from vmemscope.audits.pagemaps import Contents, once
from vmemscope.kernel import SUBSECTION_SIZE
from vmemscope.machine import Kernel
from vmemscope.report import to_document
from vmemscope.report.hugetlb import render_hugetlb

from . import kernels
from .kernels import PAGE, Dumps

SIZES = (56, 72, 80, 96, 112, 128)
#: bytes of a large leaf
LARGE = 2 << 20
#: those of the sizes that divide a page
POWERS = (128,)
#: all on one kernel, some on others. 7.2's struct folio has a member (_nr_pages) that needs the
#: last word of 64 bytes
KINDS = [*((size, "6.12") for size in SIZES), (56, "6.1"), (80, "7.2"), (128, "7.2")]
# Neighbours in all orders: RAM, device, device with an altmap, one alone.
SCENARIO = """
ram = "256M"
[[pagemap]]
name = "dax0.0"
type = "devdax"
start = 0x100000000
size = "128M"
[[pagemap]]
name = "dax1.0"
type = "devdax"
start = 0x108000000
size = "384M"
map = "dev"
[[pagemap]]
name = "pmem2"
type = "fsdax"
start = 0x120000000
size = "128M"
[[pagemap]]
name = "dax3.0"
type = "devdax"
start = 0x140000000
size = "2G"
align = "1G"
[[hugetlb]]
count = 6
in_use = 1
"""


def scenario(size: int) -> str:
    return f"struct_page = {size}\n{SCENARIO}"


def vmemmap_pages(size: int, first: int, end: int) -> int:
    """Return the pages of the vmemmap that describe some page frames."""
    return -(-end * size // PAGE) - first * size // PAGE


@pytest.mark.parametrize(("size", "kernel"), KINDS)
def test_nothing_is_wrong(dumps: Dumps, size: int, kernel: str) -> None:
    kernel_ = Kernel.open_core(str(dumps.core(scenario(size), kernel)))
    assert kernel_.page.size == size
    report = once(kernel_, contents=Contents.ALL)
    assert report.findings == ()
    assert report.not_read == ()
    # A compound page of 1 GiB, and each page of it, and all others.
    totals = report.summary
    assert totals.compounds == totals.compounds_checked > 0
    assert totals.base_pages == totals.base_pages_checked == 32768
    made = dumps.made(scenario(size), kernel)
    users: Counter[int] = Counter()
    for one in report.pagemaps:
        ((first, end),) = made.ranges[one.name or ""]
        assert one.findings == ()
        assert one.vmemmap.pages == one.vmemmap.mapped == vmemmap_pages(size, first, end)
        dedup = size in POWERS and one.name in ("dax0.0", "dax3.0")
        assert one.state == ("deduplicated" if dedup else "not-optimized")
        if not dedup:
            assert one.frames.backing == one.vmemmap.pages
            assert one.saved_bytes == 0
        if size not in POWERS:
            assert one.detail.savable_bytes == 0
        users[one.frames.on_device or 0] += 1
    assert sum(count for frames, count in users.items() if frames) >= 1
    dax = next(one for one in report.pagemaps if one.name == "dax0.0")
    assert (dax.reason or "") == (
        "" if size in POWERS else f"struct page has {size} bytes, not a power of two"
    )


@pytest.mark.parametrize(("size", "kernel"), KINDS)
def test_the_memory_map_as_a_whole(dumps: Dumps, size: int, kernel: str) -> None:
    kernel_ = Kernel.open_core(str(dumps.core(scenario(size), kernel)))
    report = memmap.audit(kernel_)
    assert (report.findings, report.not_read) == ((), ())
    zones = {area.label: area for area in report.areas if area.kind == "zone"}
    assert sum(area.pages for area in zones.values()) == 2 * 32768 * size // PAGE
    assert sum(area.frames_self_hosted for area in report.areas) == 0
    for counter in report.counters:
        assert counter.value in (None, counter.expected)


@pytest.mark.parametrize(("size", "kernel"), KINDS)
def test_hugetlb_is_optimized_for_powers_of_two_only(dumps: Dumps, size: int, kernel: str) -> None:
    report = hugetlb.audit(Kernel.open_core(str(dumps.core(scenario(size), kernel))))
    assert report.findings == ()
    (small,) = [one for one in report.hstates if one.folios]
    assert small.folios == 6
    text = render_hugetlb(report, 100)
    if size in POWERS:
        assert (small.optimized, report.hvo.never) == (6, None)
        assert "on for new folios" in text
    else:
        assert (small.optimized, small.savable_bytes) == (0, 0)
        assert report.hvo.never == f"struct page has {size} bytes, not a power of two"
        assert "never in this kernel" in text
        assert "on for new folios" not in text


def devices(*ranges: tuple[int, int, str]) -> str:
    """Return a scenario's pagemaps: MiB after 4 GiB, MiB, and the rest of its keys."""
    return 'ram = "256M"\n' + "".join(
        f"""[[pagemap]]
name = "dax{number}.0"
type = "devdax"
start = {(4096 + start) << 20:#x}
size = "{mib}M"
{rest}
"""
        for number, (start, mib, rest) in enumerate(ranges)
    )


# Sections in part beside whole ones, as every nvdimm with a label area makes them.
PARTS = {
    "after": devices((0, 192, "")),
    "before": devices((64, 192, "")),
    "both": devices((64, 384, "")),
    "both, altmap": devices((64, 544, 'map = "dev"')),
    "before another": devices((64, 64, 'align = "4K"'), (128, 256, 'map = "dev"')),
    "after another": devices((0, 128, ""), (128, 64, 'align = "4K"')),
    "after an altmap": devices((0, 384, 'map = "dev"\nalign = "4K"'), (384, 300, 'align = "4K"')),
    "in two sections": devices((64, 128, "")),
}


@pytest.mark.parametrize(("size", "kernel"), [(56, "6.1"), (80, "7.2"), (96, "6.12")])
@pytest.mark.parametrize("parts", PARTS)
def test_sections_in_part_use_the_leaves_of_their_neighbours(
    dumps: Dumps, parts: str, size: int, kernel: str
) -> None:
    text = f"struct_page = {size}\n{PARTS[parts]}"
    kernel_ = Kernel.open_core(str(dumps.core(text, kernel)))
    report = once(kernel_, contents=Contents.ALL)
    made = dumps.made(text, kernel)
    assert [f.rule for _, f in report.all_findings()] == []
    assert report.not_read == ()
    for one in report.pagemaps:
        ((first, end),) = made.ranges[one.name or ""]
        assert one.frames.backing == one.vmemmap.mapped == vmemmap_pages(size, first, end)
    whole = memmap.audit(kernel_)
    assert (whole.findings, whole.not_read) == ((), ())


def test_frames_of_the_device_beside_are_on_another_device(dumps: Dumps) -> None:
    """Three sections of 56 bytes a page: 5.25 MiB, so the next device has 0.75 of a leaf."""
    own = 'map = "dev"'
    text = "struct_page = 56\n" + devices((0, 384, own), (384, 304, own))
    report = once(Kernel.open_core(str(dumps.core(text, "6.1"))))
    first, second = report.pagemaps
    assert (first.frames.on_device, first.frames.elsewhere) == (3 * 448, 0)
    assert first.reason == "the memory map lies on the device (altmap)"
    backing = vmemmap_pages(56, (4096 + 384) << 8, (4096 + 384 + 304) << 8)
    assert second.frames.backing == backing
    assert second.frames.elsewhere == 192
    assert "192 frames are on another device (leaves that neighbouring" in (second.reason or "")


@pytest.mark.parametrize("size", [80, 96, 112])
def test_a_large_leaf_that_no_neighbour_explains_is_found(tmp_path: Path, size: int) -> None:
    built = kernels.image(f"struct_page = {size}\n{devices((2, 126, ''))}", "6.12")
    tables: Any = built.kernel.tables
    # The large leaf of which the section has all.
    at = -(-0x100000 * size // LARGE) * LARGE
    assert at + LARGE <= (0x100000 + 32768) * size
    va = built.kernel.addresses.vmemmap_base + at
    (table,) = (pfn for shift, pfn, _ in tables.tables(va) if shift == 21)
    frames = built.kernel.pages.alloc_pages(9, 0)
    tables.memory.words(table)[va >> 21 & 511] = frames * PAGE | 0x80000000000001E3
    report = once(Kernel.open_core(kernels.write(built, tmp_path)), contents=Contents.NONE)
    found = {(finding.rule, finding.vaddr) for _, finding in report.all_findings()}
    assert ("leaf-size", va) in found


@pytest.mark.parametrize("size", [56, 80])
def test_what_the_kernel_marks_unused_in_use_is_found(dumps: Dumps, size: int) -> None:
    """
    Of a section in part, the kernel does not note that it uses its neighbour's leaf.

    With the next leaf it marks the rest of that one unused
    (``arch/x86/mm/init_64.c: vmemmap_flush_unused_pmd()``), struct pages in use or not.
    """
    text = devices((0, 128, ""), (128, 64, 'align = "4K"'), (512, 128, ""))
    report = once(
        Kernel.open_core(str(dumps.core(f"struct_page = {size}\n{text}", "6.12"))),
        contents=Contents.ALL,
    )
    found = {(one.name, f.rule) for one, f in report.all_findings() if one is not None}
    assert ("dax1.0", "page-zone") in found
    assert {rule for name, rule in found if name == "dax1.0"} == {"page-zone"}
    assert "dax2.0" not in {name for name, _ in found}


@pytest.mark.parametrize("size", SIZES)
def test_pages(dumps: Dumps, size: int) -> None:
    core = dumps.core(scenario(size), "6.12")
    kernel = Kernel.open_core(str(core))
    base = kernel.geometry.vmemmap
    # Also those that lie across two pages of the vmemmap, by the words of a scalar read.
    across = [pfn for pfn in range(0x100000, 0x100400) if pfn * size % PAGE > PAGE - size]
    assert bool(across) == (PAGE % size != 0)
    for pfn in [0x100000, 0x100001, 0x1001FF, *across[:3], 0x8000, 0x120010]:
        one = page.audit(kernel, pfn, "pfn")
        words = [kernel.prog.read_u64(base + pfn * size + 8 * i) for i in range(size // 8)]
        assert [word.value for word in one.page.words] == words
        assert one.findings == ()
        if 0x100000 <= pfn < 0x120000:
            assert one.page.compound is not None
            assert one.page.compound.head_pfn == one.place.head_pfn  # type: ignore[union-attr]


@pytest.mark.parametrize("kernel", ["6.12", "7.2"])
def test_kmsan_keeps_pointers_in_each_struct_page(tmp_path: Path, kernel: str) -> None:
    """
    KMSAN's metadata has no vmemmap: each page of RAM points to two others (``kmsan_shadow``,
    ``kmsan_origin``; ``mm/kmsan/shadow.c``), which two of three pages are. Those of ZONE_DEVICE
    have none, and nothing is the same in two tail pages.
    """
    built = kernels.image(scenario(80), kernel)
    whole = Kernel.open_core(kernels.write(built, tmp_path))
    reports = [once(whole, contents=Contents.ALL), memmap.audit(whole), hugetlb.audit(whole)]
    base = built.kernel.addresses.vmemmap_base
    for pages in built.kernel.memmap.views(0x100, 0x10000 - 0x100):
        third = np.arange(len(pages), dtype=np.uint64) * np.uint64(80) + np.uint64(base)
        pages[:, 8], pages[:, 9] = third + np.uint64(80 << 10), third + np.uint64(80 << 11)
    kernel_ = Kernel.open_core(kernels.write(built, tmp_path))
    head = kernel_.geometry.vmemmap + 0x8000 * 80
    assert kernel_.prog.read_u64(head + 64) != kernel_.prog.read_u64(head + 144) != 0
    for old, new in zip(
        reports,
        [once(kernel_, contents=Contents.ALL), memmap.audit(kernel_), hugetlb.audit(kernel_)],
        strict=True,
    ):
        assert new.findings == ()
        documents = [to_document(report) for report in (old, new)]
        for document in documents:
            document["timings"] = None
        assert documents[0] == documents[1]


@pytest.mark.parametrize("size", [56, 80, 96])
@pytest.mark.parametrize(
    ("name", "first", "pfn", "rule"),
    [
        ("dax0.0", 0x100000, 0x100000, "head-flag"),
        ("dax0.0", 0x100000, 0x100149, "compound-head"),
        ("dax3.0", 0x140000, 0x17FFFF, "compound-head"),
        ("pmem2", 0x120000, 0x123456, "page-zone"),
        ("pmem2", 0x120000, 0x127FFF, "pgmap-link"),
    ],
)
def test_what_is_wrong_in_them_is_found(
    tmp_path: Path, size: int, name: str, first: int, pfn: int, rule: str
) -> None:
    built = kernels.image(scenario(size), "6.12")
    memmap_: Any = built.kernel.memmap
    record = built.kernel.pagemap(name)
    start = record.ranges[0][0]
    pfn += start - first if pfn == first else 0
    words = memmap_.words(pfn)
    if rule == "head-flag":
        words[0] &= np.uint64(~memmap_.flag("head") & (1 << 64) - 1)
    elif rule == "compound-head":
        words[1] += np.uint64(size)
    elif rule == "page-zone":
        words[0] ^= np.uint64(1 << 51)
    else:
        words[1] += np.uint64(64)
    kernel = Kernel.open_core(kernels.write(built, tmp_path))
    report = once(kernel, contents=Contents.ALL)
    found = {(one.name, f.rule, f.vaddr) for one, f in report.all_findings() if one is not None}
    at = kernel.geometry.page_address(pfn)
    assert {(owner, name_, (va or 0) // 8 * 8 // size * size) for owner, name_, va in found} >= {
        (name, rule, at // size * size)
    }
    assert {owner for owner, _, _ in found} == {name}
    assert SUBSECTION_SIZE == 2 << 20
