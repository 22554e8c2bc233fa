# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The whole memory map of simulated kernels, compared with a walk entry by entry.

What no scenario has (leaks, sections that lie, HugeTLB's optimization) is put
into the kernel here, after it was built and before it is dumped.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from msgspec import structs
from msgspec.structs import replace

from vmemscope.arch.x86_64 import ARCHITECTURE
from vmemscope.audits import memmap
from vmemscope.audits.memmap import DIVISION, audit
from vmemscope.audits.memmap.counters import counted_pages
from vmemscope.kernel.mem_section import Sections
from vmemscope.machine import Kernel
from vmemscope.report import schema_text, to_document
from vmemscope.report.documents.memmap import Area, MemmapReport
from vmemscope.report.memmap import render_memmap
from vmemscope.rules.findings import Outcome
from vmemscope.sim import builtin_scenarios
from vmemscope.sim.image import Image
from vmemscope.sim.kernel import SimulatedKernel
from vmemscope.sim.pagetable import KERNEL, KERNEL_LARGE, NX, TABLE
from vmemscope.sim.scenario_toml import parse_scenario
from vmemscope.target import open_core
from vmemscope.vmemmap.layout import Geometry
from vmemscope.vmemmap.schemes import DEVICE_PAIRS

from . import kernels
from .kernels import (
    DEVICE,
    KERNELS,
    PAGE,
    PMD_SHIFT,
    PTE_SHIFT,
    STRUCT_PAGE,
    Dumps,
    View,
    undocumented,
)
from .test_confirm import after_passes

VALIDATOR = jsonschema.Draft202012Validator(json.loads(schema_text("vmemscope.memmap/1")))
SECTION = 1 << 15


def audited_dump(built: Image, directory: Path) -> MemmapReport:
    """Write a kernel's dump and audit it; the report fits the schema."""
    report = audit(Kernel.open_core(kernels.write(built, directory)))
    VALIDATOR.validate(to_document(report))
    return report


Ranges = dict[str, list[tuple[int, int]]]


def rules(report: MemmapReport) -> set[tuple[str, int | None]]:
    return {(one.rule, one.vaddr) for one in report.findings}


def owner_of(view: View, ranges: Ranges, pfn: int) -> tuple[Any, ...]:
    """Return the owner of a page: its pagemap, or its zone by its own flags."""
    for name, pairs in ranges.items():
        if any(start <= pfn < end for start, end in pairs):
            return ("pagemap", name)
    flags = view.words(pfn)[0]
    # Debian: 10 bits of node, 3 of zone.
    return ("zone", flags >> 54, ["DMA", "DMA32", "Normal", "Movable", "Device"][flags >> 51 & 7])


def key(area: Area) -> tuple[Any, ...]:
    return ("pagemap", area.name) if area.kind == "pagemap" else ("zone", area.node, area.zone)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(
    "scenario", ["mixed", "two-nodes", "early-section", "partial-sections", "hugetlb"]
)
def test_areas_against_a_scalar_walk(dumps: Dumps, scenario: str, kernel: str) -> None:
    made, view = dumps.made(scenario, kernel), dumps.view(scenario, kernel)
    report = dumps.audited(scenario, kernel).memmap
    mapped: Counter[Any] = Counter()
    leaf_pages: defaultdict[Any, Counter[int]] = defaultdict(Counter)
    frames: defaultdict[Any, set[int]] = defaultdict(set)
    every: set[int] = set()
    for va, (pfn, size) in view.pages().items():
        owner = owner_of(view, made.ranges, (va - view.vmemmap) // STRUCT_PAGE)
        mapped[owner] += 1
        leaf_pages[owner][size] += 1
        frames[owner].add(pfn)
        every.add(pfn)
    assert {key(area): area.mapped for area in report.areas} == mapped
    assert {key(area): dict(area.leaf_pages) for area in report.areas} == leaf_pages
    assert {key(area): area.frames for area in report.areas} == {
        k: len(v) for k, v in frames.items()
    }
    assert all(area.mapped == area.pages for area in report.areas)
    assert report.summary.mapped == sum(mapped.values())
    assert report.summary.frames == len(every)
    assert report.summary.saved_bytes == (sum(mapped.values()) - len(every)) * PAGE


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("scenario", builtin_scenarios())
def test_kernels_without_a_leak_are_sound(dumps: Dumps, scenario: str, kernel: str) -> None:
    # Those too whose device memory is built wrong: all that is mapped is there, and counted.
    report = dumps.audited(scenario, kernel).memmap
    VALIDATOR.validate(to_document(report))
    assert report.findings == ()
    assert report.not_read == ()
    assert report.leaks == ()
    for counter in report.counters:
        if kernel == "6.1":
            assert counter.value is None
            assert "before 6.11" in counter.reason
        else:
            assert counter.value == counter.expected
    skipped = {one.rule for one in report.outcomes if one.outcome is Outcome.SKIPPED}
    assert skipped == ({"memmap-counter"} if kernel == "6.1" else set())


def test_the_counters_of_the_five_device_guest_are_explained(dumps: Dumps) -> None:
    # As /proc/vmstat has them on real 6.12 and 7.2 guests with these devices.
    report = dumps.audited("mixed", "7.2").memmap
    assert [(one.name, one.value) for one in report.counters] == [
        ("nr_memmap_pages", 8708),
        ("nr_memmap_boot_pages", 4096),
    ]
    assert {area.name: area.counted for area in report.areas if area.kind == "pagemap"} == {
        "dax0.0": 512,
        "dax1.0": 4,
        "dax2.0": 4096,
        "dax3.0": 3072,
        "pmem4": 1024,
    }
    first, *rest = report.explanation
    assert first.startswith("12806 frames are there, the counters have 12804")
    assert any(line.startswith("dax1.0: 6 frames, counted as 4") for line in rest)
    assert any(line.startswith("dax3.0: 3072 of its frames lie on the device") for line in rest)


def test_nodes_that_interleave_are_told_apart_by_their_pages(tmp_path: Path) -> None:
    scenario = "\n".join(
        f'[[node]]\nstart = {start:#x}\nsize = "256M"\nnid = {nid}\n'
        for start, nid in ((0, 0), (0x10000000, 1), (0x20000000, 0), (0x30000000, 1))
    )
    report = audited_dump(kernels.image(scenario, "6.12"), tmp_path)
    assert {key(area): area.pages for area in report.areas} == {
        ("zone", 0, "DMA"): 64,
        ("zone", 0, "DMA32"): 2048 - 64,
        ("zone", 1, "DMA32"): 2048,
    }
    assert report.findings == ()


# Leaks.


def struct_page(built: SimulatedKernel, pfn: int) -> int:
    return built.addresses.pfn_to_page(pfn)


@pytest.mark.parametrize("kernel", ["6.1", "7.2"])
def test_pages_mapped_where_no_section_is(tmp_path: Path, kernel: str) -> None:
    built = kernels.image(DEVICE, kernel)
    one = built.kernel
    frames = [built.kernel.pages.alloc_page() for _ in range(3)]
    start = struct_page(one, 0x200000)
    for i, pfn in enumerate(frames):
        one.tables.set(start + i * PAGE, PTE_SHIFT, pfn << 12 | KERNEL)
    # And a whole leaf, elsewhere.
    block = one.pages.alloc_pages(9)
    large = struct_page(one, 0x300000)
    one.tables.set(large, PMD_SHIFT, block << 12 | KERNEL_LARGE)
    report = audited_dump(built, tmp_path)
    assert rules(report) == {("vmemmap-leak", start), ("vmemmap-leak", large)}
    assert {(leak.start, leak.pages) for leak in report.leaks} == {(start, 3), (large, 512)}
    (nothing,) = [area for area in report.areas if area.kind == "nothing"]
    assert (nothing.mapped, nothing.frames, nothing.described_bytes) == (515, 515, 0)
    assert report.summary.mapped == sum(area.mapped for area in report.areas)
    assert {one.pfn for one in report.findings} == {frames[0], block}


@pytest.mark.parametrize("name", ["first", "last"])
def test_a_leak_within_a_section_that_others_still_use(tmp_path: Path, name: str) -> None:
    # 64 MiB in the middle of a section; what is beside it stays mapped.
    scenario = DEVICE.replace("0x100000000", "0x102000000").replace("256M", "64M")
    built = kernels.image(scenario, "6.12")
    one = built.kernel
    pfn = 0x102000 - 512 if name == "first" else 0x102000 + 16384
    frame = one.pages.alloc_page()
    start = struct_page(one, pfn)
    one.tables.set(start, PTE_SHIFT, frame << 12 | KERNEL)
    report = audited_dump(built, tmp_path)
    assert rules(report) == {("vmemmap-leak", start)}
    assert [(leak.start, leak.pages) for leak in report.leaks] == [(start, 1)]


def test_a_device_that_is_gone_but_for_its_memory_map(tmp_path: Path) -> None:
    built = kernels.image(DEVICE, "7.2")
    one = built.kernel
    # As if sections had been removed, and the vmemmap forgotten.
    for number in (32, 33):
        section = one.sections.get(number)
        assert section is not None
        section["section_mem_map"] = 0
        section["usage"] = 0
    report = audited_dump(built, tmp_path)
    start = struct_page(one, 0x100000)
    # The pagemap's frames are not valid any more, either.
    assert rules(report) == {("vmemmap-leak", start), ("subsection-map", start)}
    assert report.leaks[0].pages == 1024


def test_very_many_leaks_are_counted(tmp_path: Path) -> None:
    built = kernels.image(DEVICE, "6.12")
    one = built.kernel
    frame = one.pages.alloc_page()
    for i in range(200):
        va = struct_page(one, 0x200000) + 2 * i * PAGE
        one.tables.set(va, PTE_SHIFT, frame << 12 | KERNEL)
    report = audited_dump(built, tmp_path)
    assert len(report.findings) == 16
    assert "184 more like it" in report.findings[-1].message
    assert len(report.leaks) == 64
    (nothing,) = [area for area in report.areas if area.kind == "nothing"]
    assert (nothing.mapped, nothing.frames) == (200, 1)


# Sections.


def usage_of(built: Image, number: int) -> Any:
    one = built.kernel
    section = one.sections.get(number)
    assert section is not None
    return one.memory.struct("mem_section_usage", section["usage"])


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_subsection_that_is_nobodys(tmp_path: Path, kernel: str) -> None:
    scenario = DEVICE.replace("256M", "64M")
    built = kernels.image(scenario, kernel)
    usage = usage_of(built, 32)
    usage["subsection_map[0]"] = usage["subsection_map[0]"] | 1 << 40
    report = audited_dump(built, tmp_path)
    at = struct_page(built.kernel, 0x100000 + 40 * 512)
    # It has no memory map, which is a finding of its own.
    assert rules(report) == {("section-stale", at), ("section-unmapped", at)}


def test_a_section_without_usage(dumps: Dumps) -> None:
    report = dumps.audited("usage-lost", "6.12").memmap
    # That nothing is known of its subsections makes nothing else a violation.
    (outcome,) = [one for one in report.outcomes if one.rule == "subsection-map"]
    assert outcome.outcome is Outcome.CHECKED
    assert outcome.reason is not None


def test_usage_that_can_not_be_read(tmp_path: Path) -> None:
    built = kernels.image(DEVICE, "6.12")
    section = built.kernel.sections.get(33)
    assert section is not None
    section["usage"] = built.kernel.addresses.va(0x3F00000000)
    report = audited_dump(built, tmp_path)
    assert report.findings == ()
    assert report.not_read == ("the usage of sections can't be read: 1",)


@pytest.mark.parametrize("fault", ["unreadable-table", "unreadable-table-pmd"])
def test_tables_that_can_not_be_read_break_no_rule(dumps: Dumps, fault: str) -> None:
    report = dumps.audited(fault, "6.12").memmap
    assert report.findings == ()
    assert report.partial
    assert any("page tables are missing" in line for line in report.not_read)
    assert report.summary.unreadable == sum(area.unreadable for area in report.areas) == 512
    assert all(one.expected is None for one in report.counters)


# Memory that is not online.

_SECTION = 0x8000


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("order", ["oo", "on", "no", "ono", "non", "nn", "onno", "nonon"])
def test_memory_that_is_not_online_is_in_no_zone(tmp_path: Path, kernel: str, order: str) -> None:
    # Blocks side by side, online (n) or not (o): zones span what lies between theirs.
    blocks = "".join(
        f"[[block]]\nstart = {0x140000000 + i * (1 << 27)}\nsize = '128M'\n"
        f"online = {'true' if one == 'n' else 'false'}\n"
        for i, one in enumerate(order)
    )
    report = audited_dump(kernels.image(blocks + DEVICE, kernel), tmp_path)
    assert (report.findings, report.not_read) == ((), ())
    by_kind = {area.label: area for area in report.areas}
    off, on = order.count("o"), order.count("n")
    described = {label: area.described_bytes >> 27 for label, area in by_kind.items()}
    assert described.get("offline", 0) == off
    assert described.get("node 0 Normal", 0) == on
    # 128 MiB are described by 512 pages of the vmemmap.
    assert [by_kind[label].pages for label in ("offline",) if off] == [512 * off] * bool(off)
    assert "no known zone" not in by_kind
    if off:
        assert (by_kind["offline"].node, by_kind["offline"].zone) == (None, None)
    for counter in report.counters:
        assert counter.value in (None, counter.expected)


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_zone_that_spans_what_another_node_leaves(tmp_path: Path, kernel: str) -> None:
    # A zone's end need not be its last section's (a node's memory that ends 33 pages
    # early), and a zone that begins before it and ends after it spans those pages.
    built = kernels.image(DEVICE, kernel)
    before = {one.label: one.described_bytes for one in audited_dump(built, tmp_path).areas}
    around, within = (built.kernel.nodes.zone(0, one) for one in ("ZONE_DMA", "ZONE_DMA32"))
    end = within["zone_start_pfn"] + within["spanned_pages"]
    around["spanned_pages"] = end - around["zone_start_pfn"]
    within["spanned_pages"] = within["spanned_pages"] - 33
    report = audited_dump(built, tmp_path)
    # Their struct pages name the zone; the spans do not.
    assert {one.label: one.described_bytes for one in report.areas} == before


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("blocks", ["s", "S", "sS", "nS", "Sn", "SoSn"])
def test_memory_maps_that_lie_in_their_own_memory_block(
    tmp_path: Path, kernel: str, blocks: str
) -> None:
    # memory_hotplug.memmap_on_memory: blocks online (S), not online (s), and others.
    text = "".join(
        f"[[block]]\nstart = {0x140000000 + i * (1 << 27)}\nsize = '128M'\n"
        f"online = {'true' if one in 'Sn' else 'false'}\n"
        f"map = '{'self' if one in 'sS' else 'mem'}'\n"
        for i, one in enumerate(blocks)
    )
    built = kernels.image(text + DEVICE, kernel)
    report = audited_dump(built, tmp_path)
    assert (report.findings, report.not_read) == ((), ())
    areas = {area.label: area for area in report.areas}
    for label, letters in (("node 0 Normal", "Sn"), ("offline", "so")):
        several = [one for one in blocks if one in letters]
        if several:
            hosted = 512 * sum(one in "sS" for one in several)
            area = areas[label]
            assert (area.frames, area.frames_self_hosted) == (512 * len(several), hosted)
            assert (area.frames_on_device, area.frames_elsewhere) == (0, 0)
    rows = {line.split("  ")[0].strip(): line for line in render_memmap(report, 160).splitlines()}
    for label, letters in (("node 0 Normal", "Sn"), ("offline", "so")):
        kinds = {one in "sS" for one in blocks if one in letters}
        if kinds:
            on = rows[label].split()[-1]
            assert on == {(True,): "itself", (False,): "RAM"}.get(tuple(kinds), "RAM+itself")
    assert areas["node 0 DMA32"].frames_self_hosted == 0
    assert areas["dax0.0"].frames_self_hosted == 0
    for counter in report.counters:
        assert counter.value in (None, counter.expected)


def test_memory_from_boot_that_was_taken_offline(tmp_path: Path) -> None:
    built = kernels.image("ram = '512M'\n" + DEVICE, "6.12")
    one = built.kernel
    section = one.sections.get(2)
    assert section is not None
    section["section_mem_map"] &= ~one.sections.flag("IS_ONLINE")
    for pages in one.memmap.views(2 * _SECTION, _SECTION):
        pages[:] = (1 << 64) - 1
    report = audited_dump(built, tmp_path)
    assert (report.findings, report.not_read) == ((), ())
    described = {area.label: area.described_bytes >> 20 for area in report.areas}
    assert described["offline"] == 128
    assert described["node 0 DMA32"] == 512 - 16 - 128
    assert all(counter.value == counter.expected for counter in report.counters)


def test_a_device_without_its_pagemap_is_not_called_offline_memory(tmp_path: Path) -> None:
    # Its sections are not online, either.
    built = kernels.image(DEVICE, "6.12")
    built.kernel.pgmap_array.xa["xa_head"] = 0
    report = audited_dump(built, tmp_path)
    assert {area.label for area in report.areas} >= {"no known zone"}
    assert "offline" not in {area.label for area in report.areas}
    # The counter has the device's deduplicated memory map, of which nothing says so any more.
    assert {one.rule for one in report.findings} == {"section-stale", "memmap-counter"}


# Counters.


def poke(built: Image, name: str, value: int) -> None:
    built.kernel.memory.write_int(built.kernel.image[name], value)


@pytest.mark.parametrize("fault", ["counter", "counter-boot"])
def test_a_wrong_counter(dumps: Dumps, fault: str) -> None:
    audited = dumps.audited(fault, "6.12")
    (finding,), (planted,) = audited.memmap.findings, audited.planted
    assert isinstance(finding.observed, int)
    assert isinstance(finding.expected, int)
    assert finding.observed - finding.expected == planted.details["by"]


def test_a_kernel_that_counts_as_if_nothing_were_shared(tmp_path: Path) -> None:
    # 6.11 to 6.12.100: each pagemap with all its pages.
    built = kernels.image("mixed", "6.12")
    poke(built, "nr_memmap_pages", 2048 + 11264 + 4096 + 3072 + 1024)
    report = audited_dump(built, tmp_path)
    assert report.findings == ()
    assert report.counters[0].reason.startswith("12796 too many")
    assert {area.counted for area in report.areas if area.name == "dax1.0"} == {11264}


def test_tables_of_page_ext_are_counted(tmp_path: Path) -> None:
    one = SimulatedKernel(parse_scenario(f'kernel = "6.12"\n{DEVICE}', "inline"))
    one.memory.write_int(one.image.define("page_ext_size", 8, "data", 8), 8)
    for number in (0, 1):
        section = one.sections.get(number)
        assert section is not None
        section["page_ext"] = one.addresses.va(0x100000)
    one.vmemmap.nr_memmap_pages += 2 * SECTION * 8 // PAGE
    report = audited_dump(Image(one), tmp_path)
    assert report.findings == ()
    assert report.explanation[-1] == "128 of what is counted are tables of page_ext"


@pytest.mark.parametrize("seed", range(100))
def test_counted_pages_against_the_kernels_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    order = int(rng.choice([0, 9, 18]))
    first = int(rng.integers(0, 400)) * 512
    end = first + int(rng.integers(1, 2000)) * 512
    numbers = np.unique(rng.integers(0, 40, 20))
    early = rng.random(len(numbers)) < 0.5
    sections = Sections(numbers, early, SECTION, 0)
    counted = 0
    start = first
    while start < end:
        # __add_pages(), section_activate(), section_nr_vmemmap_pages()
        stop = min(end, (start // SECTION + 1) * SECTION)
        count = stop - start
        if not (sections.is_early(start // SECTION) and count < SECTION):
            if not order:
                counted += -(-count * STRUCT_PAGE // PAGE)
            elif 1 << order < SECTION:
                counted += 2 * count >> order
            elif start % (1 << order) == 0:
                counted += 2
        start = stop
    geometry = Geometry(ARCHITECTURE, PAGE, STRUCT_PAGE, 0)
    scheme = DEVICE_PAIRS if order else None
    assert counted_pages(first, end, order, geometry, sections, scheme) == counted


# HugeTLB's optimization of the memory map of RAM.


def optimise(one: SimulatedKernel, head: int, shared: int | None) -> None:
    """
    Map the memory map of a huge page of 2 MiB as ``hugetlb_vmemmap_optimize_folio()`` does.

    :param shared: frame of tail pages (7.1+), or ``None``: that of the head
    """
    va = struct_page(one, head)
    shift, entry = one.tables.leaf(va) or (0, 0)
    if shift == PMD_SHIFT:
        table = one.pages.alloc_page()
        block = (entry & kernels.FRAME) >> 12
        one.physical.words(table)[:] = [(block + i) << 12 | KERNEL for i in range(512)]
        one.tables.set(va, PMD_SHIFT, table << 12 | TABLE)
    frame = one.pages.alloc_page()
    old = one.tables.leaf(va)
    assert old is not None
    one.physical.page(frame)[:] = one.physical.page((old[1] & kernels.FRAME) >> 12)
    one.tables.set(va, PTE_SHIFT, frame << 12 | KERNEL)
    for i in range(1, 8):
        tail = frame if shared is None else shared
        one.tables.set(va + i * PAGE, PTE_SHIFT, tail << 12 | NX | 0x121)


@pytest.mark.parametrize("kernel", ["6.12", "7.2"])
def test_memory_map_that_hugetlb_shrank(tmp_path: Path, kernel: str) -> None:
    # Eight huge pages, as on the guests where these counters were read.
    built = kernels.image(DEVICE, kernel)
    one = built.kernel
    shared = one.pages.alloc_page() if kernel == "7.2" else None
    for i in range(8):
        optimise(one, 0x8000 + i * 512, shared)
    boot = one.memory.read_int(one.image["nr_memmap_boot_pages"])
    poke(built, "nr_memmap_boot_pages", boot - 64)
    poke(built, "nr_memmap_pages", one.memory.read_int(one.image["nr_memmap_pages"]) + 8)
    report = audited_dump(built, tmp_path)
    assert report.findings == ()
    assert [one.value == one.expected for one in report.counters] == [True, True]
    (area,) = [area for area in report.areas if key(area) == ("zone", 0, "DMA32")]
    assert area.read_only == 56
    assert area.mapped - area.frames == (55 if shared else 56)
    assert area.deduplicated
    assert dict(area.leaf_pages) == {4096: 512, 1 << 21: area.mapped - 512}
    if shared:
        assert area.note == "not counted are the frames that tail pages of huge pages share (1)"
    else:
        assert area.note is None


# What surrounds it.


@pytest.fixture
def sound_and_leaking(tmp_path: Path) -> tuple[MemmapReport, MemmapReport]:
    """One kernel before and after a page of vmemmap is mapped for nothing."""
    built = kernels.image(DEVICE, "6.12")
    one = built.kernel
    frame = one.pages.alloc_page()
    start = struct_page(one, 0x200000)
    sound = audited_dump(built, tmp_path)
    one.tables.set(start, PTE_SHIFT, frame << 12 | KERNEL)
    return sound, audited_dump(built, tmp_path)


class TestLive:
    """What changes during a pass counts for nothing."""

    def test_what_is_in_two_passes_counts(
        self, sound_and_leaking: tuple[MemmapReport, MemmapReport]
    ) -> None:
        sound, leaking = sound_and_leaking
        # There the first time only, or the second time only: on its way.
        assert after_passes(DIVISION, leaking, sound).findings == ()
        passed = after_passes(DIVISION, sound, leaking)
        assert passed.findings == ()
        assert {o.outcome for o in passed.outcomes if o.rule == "vmemmap-leak"} == {Outcome.SKIPPED}
        assert after_passes(DIVISION, leaking, leaking).findings == leaking.findings != ()

    @pytest.mark.parametrize(
        ("steady", "passes", "reported"),
        [
            # Each pass: whether the devices are the same before and after it.
            ([True, True], 2, True),
            ([False, True, False, True], 4, True),
            ([False] * 5, 5, False),
            ([True] + [False] * 4, 5, False),
        ],
    )
    def test_passes_during_which_devices_came_or_went_do_not_count(
        self,
        sound_and_leaking: tuple[MemmapReport, MemmapReport],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        steady: list[bool],
        passes: int,
        reported: bool,
    ) -> None:
        _, leaking = sound_and_leaking
        states = iter([state for same in steady for state in ((0, 0) if same else (0, 1))])
        taken = []

        def take(*_: object, **__: object) -> MemmapReport:
            taken.append(leaking)
            return leaking

        monkeypatch.setattr(memmap, "_devices", lambda target: next(states))
        monkeypatch.setattr(memmap, "once", take)
        path = kernels.write(kernels.image(DEVICE, "6.12"), tmp_path)
        kernel = Kernel.open(lambda: replace(open_core(path), kind="qemu"))
        report = audit(kernel, sleep=lambda seconds: None)
        assert len(taken) == passes
        if reported:
            assert report == leaking
            return
        assert report.findings == ()
        assert report.not_read == (
            *leaking.not_read,
            "a device was being set up or torn down during the audit",
        )

    def test_what_a_device_changes(self, tmp_path: Path) -> None:
        """A pagemap on its way is no state at all; one section fewer makes another."""
        kernel = Kernel.open_core(kernels.write(kernels.image(DEVICE, "6.12"), tmp_path))
        before = memmap._devices(kernel)
        assert before is not None
        assert memmap._devices(kernel.again()) == before

        fewer, sections = kernel.again(), kernel.sections
        fewer.sections = replace(sections, number=sections.number[:-1], raw=sections.raw[:-1])
        assert memmap._devices(fewer) not in (None, before)
        half = kernel.again()
        half._pagemaps = [replace(one, nr_range=0) for one in kernel.pagemaps], []
        assert memmap._devices(half) is None


def test_progress_ends_at_the_whole(tmp_path: Path) -> None:
    reported: list[tuple[int, int]] = []
    kernel = Kernel.open_core(kernels.write(kernels.image("mixed", "6.1"), tmp_path))
    report = audit(kernel, progress=lambda done, total: reported.append((done, total)))
    assert reported[-1] == (report.summary.mapped, report.summary.mapped)
    measured = {name for name, seconds in structs.asdict(report.timings).items() if seconds}
    assert measured == {"attach", "types", "read", "walk", "sum"}


def test_memory_in_no_known_zone_is_no_system_ram(tmp_path: Path) -> None:
    built = kernels.image(DEVICE, "6.1")
    built.kernel.pgmap_array.xa["xa_head"] = 0
    text = render_memmap(audited_dump(built, tmp_path), 100)
    assert "\nSystem RAM: 256 MiB described by 1024 pages in 1024 frames (4 MiB)," in text
    assert "\nno known zone: 256 MiB described by 1024 pages in 256 frames (1 MiB)," in text


@pytest.mark.parametrize("width", [40, 80, 100, 200])
def test_tables_fit_their_width(dumps: Dumps, width: int) -> None:
    report = dumps.audited("mixed", "7.2").memmap
    table = render_memmap(report, width).split("\n\n")[1]
    assert len(table.splitlines()) == 1 + len(report.areas)
    assert max(map(len, table.splitlines())) <= width


def test_the_manual_names_every_field_of_the_document(dumps: Dumps) -> None:
    document = to_document(dumps.audited("mixed", "7.2").memmap)
    assert undocumented(document, "memmap", "version", "rules") == set()
