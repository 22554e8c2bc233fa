# SPDX-License-Identifier: LGPL-2.1-or-later
"""Each fault is where the simulator says it is, and nothing else is wrong."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from drgn import FaultError

from tests.kernels import (
    FAULTS,
    KERNELS,
    PAGE,
    SIMULATED,
    STRUCT_PAGE,
    View,
    able,
    image,
    scenario_of,
)
from vmemscope.errors import UsageError
from vmemscope.sim import build
from vmemscope.sim.faults import FAULTS as KINDS
from vmemscope.sim.faults import HUGETLB_FAULTS
from vmemscope.sim.scenario_toml import parse_scenario

#: fixtures in which the counts are the fault, can't be read, or are not the pagemap's own
_COUNTS = (
    "refcount", "frame-freed", "unreadable", "altmap", "early-uninitialised", "early-stale",
    "several-faults",
)  # fmt: skip
#: faults that make a copy: through the vmemmap, all is as it was
_COPIES = {"missing-dedup", "huge-leaf", "base-pages", "frame-node"}
_DEVICE = """
[[pagemap]]
name = "dax0.0"
type = "devdax"
start = 0x100000000
size = "128M"
"""


@pytest.fixture(scope="module", autouse=True)
def sound():
    """Return a view of a scenario without its faults."""
    views = {}

    def get(name, kernel, directory):
        if (name, kernel) not in views:
            scenario = replace(scenario_of(name, kernel), faults=())
            path = directory / "sound"
            build(scenario, kernel=kernel).write(path)
            views[name, kernel] = View(path)
        return views[name, kernel]

    return get


@pytest.mark.parametrize(
    ("name", "kernel"),
    [(name, kernel) for name in FAULTS for kernel in able(name, KERNELS) if kernel != "6.12"],
)
def test_fixture(dumps, name, kernel):
    view, planted = dumps.view(name, kernel), dumps.planted(name, kernel)
    assert [(one.kind, one.pagemap) for one in planted] == [
        (fault.kind, fault.pagemap) for fault in scenario_of(name, kernel).faults
    ]
    for one in planted:
        check_changes(view, one)
        if one.kind in CHECKS:
            CHECKS[one.kind](view, one)
    for one in planted:
        assert one.changes or one.kind in CHECKS


def check_changes(view, planted):
    """What was written is there."""
    words, entries = {}, {}
    for change in planted.changes:
        (entries if change.is_entry else words)[change.vaddr, change.size] = change
    for (va, shift), change in entries.items():
        # Unless entries below it were made, or the table that it is in has gone.
        if not any(low < shift and at >> shift == va >> shift for at, low in entries):
            at = [step.entry for step in view.path(va) if step.shift == shift]
            assert at in ([change.after], []), hex(va)
    for (va, size), change in words.items():
        found = int.from_bytes(view.prog.read(va, size), "little")
        assert found == change.after, hex(va)
    if planted.pfn is not None and planted.vaddr & -PAGE in {va for va, _ in entries}:
        assert view.leaf(planted.vaddr).pfn == planted.pfn
    assert not planted.changes or any(one.before != one.after for one in planted.changes)


@pytest.mark.parametrize("name", [name for name in FAULTS if name in _COPIES])
def test_contents_are_kept(dumps, sound, tmp_path, name):
    view, before = dumps.view(name, "7.2"), sound(name, "7.2", tmp_path)
    for record in image(name, "7.2").kernel.pagemaps:
        for start, end in record.ranges:
            where, size = view.page_va(start), (end - start) * STRUCT_PAGE
            assert view.prog.read(where, size) == before.prog.read(where, size)


@pytest.mark.parametrize(
    "name", [name for name in FAULTS if able(name, KERNELS) and not name.startswith(_COUNTS)]
)
def test_references_are_kept(dumps, name):
    """Where the counts themselves are not the fault, each frame has one per entry."""
    kernel = able(name)[0]
    view = dumps.view(name, kernel)
    entries = Counter()
    for record in image(name, kernel).kernel.pagemaps:
        for start, end in record.ranges:
            for _, shift, pfn, _ in view.leaves_of(start, end):
                if shift == 12:
                    entries[pfn] += 1
                elif shift == 21 and not record.altmap:
                    assert view.refcount(pfn) == 1
    for pfn, count in entries.items():
        if pfn == 0:
            assert view.refcount(pfn) == 1 + count
        elif pfn < 0x10000:
            assert view.refcount(pfn) == count


def test_lost_frames_are_free(dumps):
    lost = 0
    for name in (name for name in FAULTS if "7.2" in able(name)):
        view = dumps.view(name, "7.2")
        for planted in dumps.planted(name, "7.2"):
            old = planted.details.get("old_pfn")
            if old is not None and old < 0x10000 and view.refcount(old) == 0:
                assert view.words(old)[6] & 0xFFFFFFFF in (0xF0FFFFFF, 0xFFFFFFFF)
                lost += 1
    assert lost


def word(view, va):
    return view.prog.read_u64(va)


def section_of(view, pfn):
    return view.prog["mem_section"][(pfn >> 15) // 128][(pfn >> 15) % 128]


def zone(view, pfn):
    return view.words(pfn)[0] >> 51 & 7


def mapcount(view, pfn):
    return view.words(pfn)[6] & 0xFFFFFFFF


# What is not in the changes themselves.


def check_hole(view, planted):
    assert view.leaf(planted.vaddr) is None
    assert view.leaf(planted.vaddr - PAGE) is not None
    assert view.leaf(planted.vaddr + planted.details["size"]) is not None


def check_tail_wrong_frame(view, planted):
    start = planted.vaddr & ~0x7FFF
    frames = [view.leaf(start + i * PAGE).pfn for i in range(8)]
    wrong, tail, to = (
        (planted.vaddr - start) // PAGE,
        planted.details["old_pfn"],
        planted.details["to"],
    )
    assert frames[1:wrong] + frames[wrong + 1 :] == [tail] * 6
    assert frames[wrong] == planted.pfn != tail
    assert view.refcount(tail) == 6
    references = {"neighbour": {8}, "own-head": {2}, "private": {1}, "zero": {2}}
    # Of 2 MiB and of 1 GiB.
    references["other-pagemap"] = {8, 4096}
    if to == "outside":
        with pytest.raises(FaultError):
            view.prog.read(planted.vaddr, 8)
    else:
        assert view.refcount(planted.pfn) in references[to]
    if to == "neighbour":
        assert view.leaf(start + 0x9000).pfn == planted.pfn
    elif to == "own-head":
        assert planted.pfn == frames[0]
    elif to == "private":
        assert view.prog.read(planted.vaddr, PAGE) == view.prog.read(start + PAGE, PAGE)


def check_head_not_private(view, planted):
    to_tail = planted.details["to"] == "tail"
    other = planted.vaddr + (PAGE if to_tail else -4 * 8 * PAGE)
    assert view.leaf(other).pfn == planted.pfn
    assert view.refcount(planted.pfn) == (8 if to_tail else 2)


def check_missing_dedup(view, planted):
    frames = {view.leaf(planted.vaddr + i * PAGE).pfn for i in range(8)}
    assert len(frames) == planted.details["frames"] == 8
    assert {view.refcount(pfn) for pfn in frames} == {1}


def check_huge_leaf(view, planted):
    leaf = view.leaf(planted.vaddr)
    assert (leaf.shift, leaf.entry & ~0xFFFFFFFFFF000) == (21, 0x80000000000001E3)


def check_base_pages(view, planted):
    frames = [view.leaf(planted.vaddr + i * PAGE).pfn for i in range(512)]
    assert frames == planted.details["pfns"]
    assert {view.refcount(pfn) for pfn in frames} == {1}


def check_altmap_outside(view, planted):
    altmap = view.pgmap.altmap
    first = altmap.base_pfn + altmap.reserve
    assert view.leaf(planted.vaddr).shift == 21
    assert not first <= planted.pfn < first + altmap.free
    # What is there is what belongs there.
    assert zone(view, (planted.vaddr - view.vmemmap) // STRUCT_PAGE) == 4


def check_flags_of_leaf(view, planted):
    expected = {"read-only": 0x8000000000000161, "executable": 0x163}
    assert view.leaf(planted.vaddr).entry & ~0xFFFFFFFFFF000 == expected[planted.kind]


def check_refcount(view, planted):
    assert view.leaf(planted.vaddr).pfn == planted.pfn
    before, now = planted.details["expected"], planted.details["observed"]
    assert view.refcount(planted.pfn) == now
    assert (now < before) == (planted.kind != "refcount-high")


def check_frame_freed(view, planted):
    check_refcount(view, planted)
    assert mapcount(view, planted.pfn) in (0xF0FFFFFF, 0xFFFFFF7F)


def check_struct_page(view, planted):
    """It was written to one struct page of a kind; those beside it are as they should be."""
    offset = {"tail-wrong-head": 8, "mask-missing": 8, "tail-written": 24}[planted.kind]
    before, now = planted.details["expected"], planted.details["observed"]
    assert word(view, planted.vaddr + offset) == now != before
    beside = word(view, planted.vaddr + STRUCT_PAGE + offset)
    assert beside == before == {"tail-written": 0xDEAD000000000400}.get(planted.kind, before)


def check_head_flag_lost(view, planted):
    bit = view.prog["PG_head"].value_()
    assert not word(view, planted.vaddr) >> bit & 1
    assert word(view, planted.vaddr + 0x8000) >> bit & 1


def check_wrong_pgmap(view, planted):
    assert word(view, planted.vaddr + 8) == planted.details["observed"]
    assert view.pgmap.value_() == planted.details["expected"] != planted.details["observed"]


def check_wrong_order(view, planted):
    has_order = view.prog.type("struct page").has_member("compound_order")
    found = view.prog.read_u8(planted.vaddr + (17 if has_order else 0))
    assert found == planted.details["observed"] == 1


def check_early_uninitialised(view, planted):
    pfn, count = planted.details["first_pfn"], planted.details["count"]
    assert view.page_va(pfn) == planted.vaddr
    zones = [zone(view, page) for page in (pfn - 1, pfn, pfn + count - 1, pfn + count)]
    assert zones == [4, 1, 1, 4]


def check_early_stale(view, planted):
    pfn, count = planted.details["first_pfn"], planted.details["count"]
    assert view.page_va(pfn) == planted.vaddr
    assert {zone(view, page) for page in (pfn - 1, pfn, pfn + count - 1, pfn + count)} == {4}
    # Neither head nor tail, of another pagemap.
    words = [word(view, view.page_va(page) + 8) for page in (pfn - 1, pfn, pfn + count - 1)]
    assert [one & 1 for one in words] == [1, 0, 0]
    assert view.pgmap.value_() not in words
    assert words[1] == words[2]


def check_stray_head(view, planted):
    bit = view.prog["PG_head"].value_()
    assert word(view, planted.vaddr) >> bit & 1
    assert not word(view, planted.vaddr + STRUCT_PAGE) >> bit & 1


def check_wrong_zone(view, planted):
    before, now = planted.details["expected"], planted.details["observed"]
    # Zone, node, PG_reserved: one of these.
    assert before ^ now in (6 << 51, 1 << 54, 1 << view.prog["PG_reserved"].value_())
    assert before >> 51 == 4


def check_uninitialised(view, planted):
    count = planted.details["count"]
    found = view.prog.read(planted.vaddr, count * STRUCT_PAGE)
    assert found in (b"\0" * len(found), b"\xff" * len(found))
    assert word(view, planted.vaddr + count * STRUCT_PAGE) not in (0, (1 << 64) - 1)


def check_unreadable_table(view, planted):
    with pytest.raises(FaultError):
        view.leaf(planted.vaddr)
    assert view.leaf(view.page_va(0x100000)) is not None


def check_unreadable(view, planted):
    with pytest.raises(FaultError):
        view.prog.read(planted.vaddr, 8)
    assert view.prog["pgmap_array"].xa_head
    assert view.prog["mem_section"][0]


def check_unreadable_struct_page(view, planted):
    assert view.leaf(planted.vaddr).pfn == planted.pfn
    missing = planted.details["missing_pfn"]
    with pytest.raises(FaultError):
        view.prog.read(missing * PAGE, 8, physical=True)
    lost = planted.vaddr if missing == planted.pfn else view.page_va(planted.pfn)
    with pytest.raises(FaultError):
        view.prog.read(lost, 8)


def check_ranges(view, planted):
    pgmap = view.pgmaps()[planted.vaddr][0]
    others = [one.range for one, _ in view.pgmaps().values() if one != pgmap]
    inverted = pgmap.range.start > pgmap.range.end
    overlaps = [one for one in others if pgmap.range.start < one.start <= pgmap.range.end]
    assert (inverted, len(overlaps)) == ((planted.kind == "range-inverted"), not inverted)


def check_ref_dead(view, planted):
    assert view.pgmaps()[planted.vaddr][0].ref.percpu_count_ptr.value_() & 3 == 3


def check_kernel_entry(view, planted):
    ((at, _, _, before, after),) = planted.changes
    index = (planted.vaddr >> 48 & 511) * 8
    assert at % PAGE == index
    # The kernel's own is as it was.
    assert word(view, view.prog["init_mm"].pgd.value_() + index) == before != after
    assert view.leaf(view.page_va(0x100000)) is not None


def check_subsection_lost(view, planted):
    pfn = planted.details["first_pfn"]
    assert view.leaf(planted.vaddr) is not None
    bits = section_of(view, pfn).usage.subsection_map[0].value_()
    assert bits == 2**64 - 1 - (1 << pfn % 32768 // 512)


def check_subsection_stale(view, planted):
    pfn = planted.details["first_pfn"]
    assert view.page_va(pfn) == planted.vaddr
    assert view.leaf(planted.vaddr) is not None
    assert view.leaf(planted.vaddr + 8 * PAGE) is None
    assert section_of(view, pfn).usage.subsection_map[0].value_() >> (pfn % 32768 // 512) & 1
    assert zone(view, pfn) == 4
    assert pfn * PAGE > view.pgmap.range.end


def check_section(view, planted):
    pfn = (planted.vaddr - view.vmemmap) // STRUCT_PAGE
    section = section_of(view, pfn)
    assert section.address_of_().value_() == planted.details["section"]
    assert section.section_mem_map.value_() & 3 == 3
    assert bool(section.usage) == (planted.kind == "section-map")


def check_boot_memmap_hole(view, planted):
    pfn = (planted.vaddr - view.vmemmap) // STRUCT_PAGE
    assert pfn % 32768 == 0
    assert section_of(view, pfn).section_mem_map.value_() & 0xF == 0xF
    assert view.leaf(planted.vaddr) is None
    assert view.leaf(planted.vaddr - PAGE) is not None
    assert view.leaf(planted.vaddr + (2 << 20)) is not None


def check_leak(view, planted):
    pfn = (planted.vaddr - view.vmemmap) // STRUCT_PAGE
    assert view.leaf(planted.vaddr + planted.details["size"] - PAGE) is not None
    assert view.leaf(planted.vaddr + planted.details["size"]) is None
    assert not section_of(view, pfn).section_mem_map
    assert view.refcount(planted.pfn) == 1


def check_counter(view, planted):
    names = {view.prog[name].address_: name for name in ("nr_memmap_pages", "nr_memmap_boot_pages")}
    # 64 compound pages of two pages each; two sections of RAM, one large leaf each.
    sound = {"nr_memmap_pages": 128, "nr_memmap_boot_pages": 1024}[names[planted.vaddr]]
    found = view.prog[names[planted.vaddr]].counter.value_()
    assert found == sound + planted.details["by"]


def check_xarray_stray(view, planted):
    first, indices = planted.details["first_pfn"], view.pgmaps()[planted.vaddr][1]
    assert first in indices
    assert first * PAGE > view.pgmap.range.end


def check_xarray_cycle(view, planted):
    head = view.prog["pgmap_array"].xa_head.value_()
    assert planted.details["root"] == head - 2
    assert head in [change.after for change in planted.changes]


def check_resource_cycle(view, planted):
    resource, seen = view.prog["iomem_resource"].child, set()
    while resource and resource.value_() != planted.vaddr:
        inside = resource.name.string_() == b"Persistent Memory"
        resource = resource.child if inside else resource.sibling
    while resource and resource.value_() not in seen:
        seen.add(resource.value_())
        resource = resource.sibling
    assert resource


def check_name(view, planted):
    name = planted.details["name"]
    if planted.pagemap.startswith("pmem"):
        assert view.prog.read(planted.vaddr + 12, len(name) + 1) == name + b"\0"
    else:
        kobj = view.prog.type("struct dev_dax").member("dev").offset
        assert view.prog.read_c_string(word(view, planted.vaddr + kobj)) == name


def check_frame_marked(view, planted):
    assert view.leaf(planted.vaddr).pfn == planted.pfn
    assert view.refcount(planted.pfn) > 0
    use = planted.details.get("use", "buddy")
    types = {"buddy": 0xF0, "slab": 0xF5, "offline": 0xF1}
    cleared = {"buddy": 0xFFFFFF7F, "offline": 0xFFFFFEFF}
    if use in types and mapcount(view, planted.pfn) != 0xFFFFFFFF:
        # 6.1 has PG_offline, cleared, in page_type, and PG_slab in flags.
        kind = mapcount(view, planted.pfn)
        assert kind >> 24 == types[use] or kind == cleared[use]
        return
    assert view.words(planted.pfn)[0] >> view.prog.constant(f"PG_{use}").value_() & 1


def check_frame_node(view, planted):
    # NODES_SHIFT is 10.
    assert view.words(planted.pfn)[0] >> 54 == planted.details["nid"] == 1
    assert view.words(planted.details["old_pfn"])[0] >> 54 == 0


CHECKS = {
    **{
        name.removeprefix("check_").replace("_", "-"): check
        for name, check in globals().items()
        if name.startswith("check_")
    },
    **dict.fromkeys(("read-only", "executable"), check_flags_of_leaf),
    **dict.fromkeys(("refcount-low", "refcount-high"), check_refcount),
    **dict.fromkeys(("tail-wrong-head", "mask-missing", "tail-written"), check_struct_page),
    **dict.fromkeys(("unreadable-node", "unreadable-sections"), check_unreadable),
    **dict.fromkeys(("range-inverted", "range-overlap"), check_ranges),
    **dict.fromkeys(("section-map", "usage-lost"), check_section),
    **dict.fromkeys(("frame-free", "frame-foreign", "frame-poisoned"), check_frame_marked),
}  # fmt: skip


@pytest.mark.parametrize("kernel", ["6.1", "7.2"])
def test_back_link_of_a_single_page(dumps, kernel):
    device = _DEVICE.replace("devdax", "fsdax").replace("dax0.0", "pmem0")
    text = f'{device}[[fault]]\nkind = "wrong-pgmap"\npagemap = "pmem0"\nstruct_page = 199\n'
    view, (planted,) = dumps.view(text, kernel), dumps.planted(text, kernel)
    assert planted.vaddr == view.page_va(0x100000 + 199)
    check_wrong_pgmap(view, planted)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ('kind = "hole"\ncompound = 64', "that is outside dax0.0"),
        ('kind = "hole"\npage = 8', "that is outside dax0.0"),
        ('kind = "hole"\nrange = 1', "dax0.0 has no range 1"),
        ('kind = "tail-wrong-frame"\npage = 1', "pages 0 and 1 of a compound are its own"),
        ('kind = "tail-wrong-frame"\nto = "other-pagemap"', "say which pagemap with other"),
        ('kind = "base-pages"', "there is no large leaf of RAM"),
        ('kind = "altmap-outside"', "dax0.0 has no altmap"),
        ('kind = "tail-wrong-head"\nstruct_page = 0', "struct page 0 is the head"),
        ('kind = "refcount-low"\nby = 2', "the reference count is 1 only"),
        ('kind = "huge-leaf"\nsection = 1', "that is outside dax0.0"),
        ('kind = "name"', "a name has 1 to 31 bytes"),
        ('kind = "name"\nhex = "zz"', "hex must be hexadecimal digits"),
        ('kind = "counter"', "this kernel has no such counters"),
        ('kind = "kernel-entry"\nprocess = 9', "there is no process 9"),
        ('kind = "boot-memmap-hole"\nsection = 9', "section 9 has no RAM"),
    ],
)
def test_places_that_there_are_not(fault, message):
    text = f'{_DEVICE}\n[[fault]]\npagemap = "dax0.0"\n{fault}\n'
    with pytest.raises(UsageError, match=message) as e:
        build(parse_scenario(text, "test"))
    assert "\n" not in str(e.value)


def test_faults_are_registered_whole():
    for kind in (*KINDS.values(), *HUGETLB_FAULTS.values()):
        assert (kind.plant.__doc__ or "").strip(), kind.name
        assert set(kind.kernels) <= set(SIMULATED)
        assert {command for command, _ in kind.rules} <= {"pgmap", "memmap", "hugetlb"}
        for option in kind.options:
            assert not option.choices or option.default == option.choices[0]
