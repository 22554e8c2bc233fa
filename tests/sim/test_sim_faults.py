# SPDX-License-Identifier: LGPL-2.1-or-later
"""Each fault is where the simulator says it is, and nothing else is wrong."""

from __future__ import annotations

from collections import Counter

import pytest
from drgn import FaultError, Object
from drgn.helpers.linux.cpumask import for_each_possible_cpu
from drgn.helpers.linux.list import list_for_each_entry
from drgn.helpers.linux.percpu import per_cpu_ptr
from drgn.helpers.linux.xarray import xa_for_each

from vmemscope.errors import UsageError
from vmemscope.sim import build, load_scenario
from vmemscope.sim.faults import PLANTERS
from vmemscope.sim.scenario import FAULTS, parse_scenario

from .images import FIXTURES, PAGE, STRUCT_PAGE, View

NAMES = sorted(path.name for path in FIXTURES.glob("*.toml"))
#: fixtures in which the counts are the fault, can't be read, or are not the pagemap's own
_COUNTS = (
    "refcount", "frame-freed", "unreadable", "altmap", "early-uninitialised", "several-faults",
)  # fmt: skip
_DEVICE = """
[[pagemap]]
name = "dax0.0"
type = "devdax"
start = 0x100000000
size = "128M"
"""


def able(name, kernel):
    """Get a kernel that can have the fault."""
    return "6.12" if name.startswith("counter") and kernel == "6.1" else kernel


def test_kinds_are_complete():
    assert sorted(PLANTERS) == sorted(FAULTS)
    planted = {fault.kind for name in NAMES for fault in load_scenario(FIXTURES / name).faults}
    assert planted == set(FAULTS) == set(CHECKS)


@pytest.mark.parametrize("kernel", ["6.1", "7.2"])
@pytest.mark.parametrize("name", NAMES)
def test_fixture(images, name, kernel):
    kernel = able(name, kernel)
    image = images.image(name, kernel)
    scenario = load_scenario(FIXTURES / name)
    assert [(p.kind, p.pagemap) for p in image.planted] == [
        (fault.kind, fault.pagemap) for fault in scenario.faults
    ]
    for planted in image.planted:
        CHECKS[planted.kind](images.view(name, kernel), planted)


@pytest.mark.parametrize("kernel", ["6.1", "7.2"])
def test_back_link_of_a_single_page(tmp_path, kernel):
    device = _DEVICE.replace("devdax", "fsdax").replace("dax0.0", "pmem0")
    fault = '[[fault]]\nkind = "wrong-pgmap"\npagemap = "pmem0"\nstruct_page = 199\n'
    image = build(parse_scenario(device + fault, "test"), kernel=kernel)
    image.write(tmp_path / "vmcore")
    view = View(tmp_path / "vmcore")
    assert image.planted[0].vaddr == view.page_va(0x100000 + 199)
    check_wrong_pgmap(view, image.planted[0])


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith(_COUNTS)])
def test_references_are_kept(images, name):
    """Where the counts themselves are not the fault, each frame has one per entry."""
    kernel = able(name, "6.1")
    view = images.view(name, kernel)
    entries = Counter()
    for record in images.image(name, kernel).kernel.pagemaps:
        for start, end in record.ranges:
            for _, shift, pfn, _ in view.entries(start, end):
                if shift == 12:
                    entries[pfn] += 1
                elif shift == 21 and not record.altmap:
                    assert view.refcount(pfn) == 1
    for pfn, count in entries.items():
        if pfn == 0:
            assert view.refcount(pfn) == 1 + count
        elif pfn < 0x10000:
            assert view.refcount(pfn) == count


@pytest.mark.parametrize("name", NAMES)
def test_lost_frames_are_free(images, name):
    view = images.view(name, "7.2")
    for planted in images.image(name, "7.2").planted:
        old = planted.details.get("old_pfn")
        if old is not None and old < 0x10000 and view.refcount(old) == 0:
            page_type = view.words(old)[6] & 0xFFFFFFFF
            assert page_type in (0xF0FFFFFF, 0xFFFFFFFF)


def is_mapped_to(view, planted):
    shift, entry = view.walk(planted.vaddr)
    assert (entry & 0xFFFFFFFFFF000) >> 12 == planted.pfn
    return shift, entry


def frame_of(view, va):
    shift, entry = view.walk(va)
    assert shift == 12
    return (entry & 0xFFFFFFFFFF000) >> 12


def word(view, va):
    return view.prog.read_u64(va)


def check_hole(view, planted):
    assert view.walk(planted.vaddr) is None
    assert view.walk(planted.vaddr - PAGE) is not None
    assert view.walk(planted.vaddr + planted.details["size"]) is not None


def check_tail_wrong_frame(view, planted):
    is_mapped_to(view, planted)
    start = planted.vaddr & ~0x7FFF
    frames = [frame_of(view, start + i * PAGE) for i in range(8)]
    wrong = (planted.vaddr - start) // PAGE
    tail = planted.details["old_pfn"]
    assert frames[1:wrong] + frames[wrong + 1 :] == [tail] * 6
    assert frames[wrong] == planted.pfn != tail
    to = planted.details["to"]
    if to == "neighbour":
        assert frame_of(view, start + 0x9000) == planted.pfn
        assert view.refcount(planted.pfn) == 8
    elif to == "other-pagemap":
        assert view.refcount(planted.pfn) == 8
    elif to == "own-head":
        assert planted.pfn == frames[0]
        assert view.refcount(planted.pfn) == 2
    elif to == "private":
        assert view.refcount(planted.pfn) == 1
        tails = view.prog.read(start + PAGE, PAGE)
        assert view.prog.read(planted.vaddr, PAGE) == tails
    elif to == "zero":
        assert planted.pfn == 0
        assert view.refcount(0) == 2
    else:
        with pytest.raises(FaultError):
            view.prog.read(planted.vaddr, 8)
    assert view.refcount(tail) == 6


def check_head_not_private(view, planted):
    is_mapped_to(view, planted)
    if planted.details["to"] == "tail":
        assert frame_of(view, planted.vaddr + PAGE) == planted.pfn
        assert view.refcount(planted.pfn) == 8
    else:
        assert frame_of(view, planted.vaddr - 4 * 8 * PAGE) == planted.pfn
        assert view.refcount(planted.pfn) == 2


def check_missing_dedup(view, planted):
    frames = [frame_of(view, planted.vaddr + i * PAGE) for i in range(8)]
    assert len(set(frames)) == planted.details["frames"] == 8
    assert {view.refcount(pfn) for pfn in frames} == {1}
    tails = {view.prog.read(planted.vaddr + i * PAGE, PAGE) for i in range(1, 8)}
    assert len(tails) == 1


def check_huge_leaf(view, planted):
    shift, entry = is_mapped_to(view, planted)
    assert shift == 21
    assert entry & ~0xFFFFFFFFFF000 == 0x80000000000001E3
    assert view.words((planted.vaddr - view.vmemmap) // STRUCT_PAGE + 511)[1] & 1


def check_base_pages(view, planted):
    frames = [frame_of(view, planted.vaddr + i * PAGE) for i in range(512)]
    assert frames == planted.details["pfns"]
    assert {view.refcount(pfn) for pfn in frames} == {1}


def check_altmap_outside(view, planted):
    shift, _ = is_mapped_to(view, planted)
    assert shift == 21
    altmap = view.pgmap().altmap
    first = altmap.base_pfn + altmap.reserve
    assert not first <= planted.pfn < first + altmap.free
    # What is there is what belongs there.
    assert view.words((planted.vaddr - view.vmemmap) // STRUCT_PAGE)[0] >> 51 & 7 == 4


def check_read_only(view, planted):
    _, entry = is_mapped_to(view, planted)
    assert entry & ~0xFFFFFFFFFF000 == 0x8000000000000161


def check_executable(view, planted):
    _, entry = is_mapped_to(view, planted)
    assert entry & ~0xFFFFFFFFFF000 == 0x163


def check_refcount(view, planted):
    is_mapped_to(view, planted)
    assert view.refcount(planted.pfn) == planted.details["observed"]
    by = planted.details["observed"] - planted.details["expected"]
    assert by == {"refcount-low": -2, "refcount-high": 1}.get(planted.kind) or abs(by) == 1


def check_frame_freed(view, planted):
    is_mapped_to(view, planted)
    assert view.refcount(planted.pfn) == 0
    assert view.words(planted.pfn)[6] & 0xFFFFFFFF in (0xF0FFFFFF, 0xFFFFFF7F)


def check_tail_wrong_head(view, planted):
    wrong = view.page_va(planted.details["wrong_head_pfn"])
    assert word(view, planted.vaddr + 8) == wrong + 1
    assert wrong == (planted.vaddr & ~0x7FFF) - 0x8000


def check_mask_missing(view, planted):
    assert word(view, planted.vaddr + 8) == 0
    assert word(view, planted.vaddr + STRUCT_PAGE + 8) == planted.details["expected"]


def check_head_flag_lost(view, planted):
    assert not word(view, planted.vaddr) >> view.prog["PG_head"].value_() & 1
    assert word(view, planted.vaddr + 0x8000) >> view.prog["PG_head"].value_() & 1


def check_wrong_order(view, planted):
    if view.prog.type("struct page").has_member("compound_order"):
        found = view.prog.read_u8(planted.vaddr + 17)
    else:
        found = word(view, planted.vaddr) & 0xFF
    assert found == planted.details["observed"] == 1


def check_wrong_pgmap(view, planted):
    assert word(view, planted.vaddr + 8) == planted.details["observed"]
    assert view.pgmap().value_() == planted.details["expected"] != planted.details["observed"]


def check_early_uninitialised(view, planted):
    pfn = planted.details["first_pfn"]
    assert view.page_va(pfn) == planted.vaddr
    assert view.words(pfn - 1)[0] >> 51 & 7 == 4
    for page in (pfn, pfn + planted.details["count"] - 1):
        assert view.words(page)[0] >> 51 & 7 == 1
    assert view.words(pfn + planted.details["count"])[0] >> 51 & 7 == 4


def check_stray_head(view, planted):
    head = view.prog["PG_head"].value_()
    assert word(view, planted.vaddr) >> head & 1
    assert not word(view, planted.vaddr + STRUCT_PAGE) >> head & 1


def check_tail_written(view, planted):
    assert word(view, planted.vaddr + 24) == planted.details["observed"]
    assert planted.details["expected"] == 0xDEAD000000000400
    assert word(view, planted.vaddr + STRUCT_PAGE + 24) == planted.details["expected"]


def check_page_refcount(view, planted):
    before, now = planted.details["expected"], planted.details["observed"]
    assert view.prog.read_u32(planted.vaddr + 52) == now != before


def check_wrong_zone(view, planted):
    flags = word(view, planted.vaddr)
    before, now = planted.details["expected"], planted.details["observed"]
    assert flags == now
    reserved = 1 << view.prog["PG_reserved"].value_()
    # Zone, node, PG_reserved: one of these.
    assert before ^ now in (6 << 51, 1 << 54, reserved)
    assert before >> 51 == 4


def check_uninitialised(view, planted):
    count = planted.details["count"]
    found = view.prog.read(planted.vaddr, count * STRUCT_PAGE)
    assert found in (b"\0" * len(found), b"\xff" * len(found))
    assert word(view, planted.vaddr + count * STRUCT_PAGE) not in (0, (1 << 64) - 1)


def check_unreadable_table(view, planted):
    with pytest.raises(FaultError):
        view.walk(planted.vaddr)
    assert view.walk(view.page_va(0x100000)) is not None


def check_unreadable(view, planted):
    with pytest.raises(FaultError):
        view.prog.read(planted.vaddr, 8)
    assert view.prog["pgmap_array"].xa_head
    assert view.prog["mem_section"][0]


def check_unreadable_struct_page(view, planted):
    is_mapped_to(view, planted)
    missing = planted.details["missing_pfn"]
    with pytest.raises(FaultError):
        view.prog.read(missing * PAGE, 8, physical=True)
    if missing == planted.pfn:
        with pytest.raises(FaultError):
            view.prog.read(planted.vaddr, 8)
    else:
        with pytest.raises(FaultError):
            view.refcount(planted.pfn)


def pgmap_at(view, planted):
    return view.pgmaps()[planted.vaddr][0]


def check_range_inverted(view, planted):
    pgmap = pgmap_at(view, planted)
    assert pgmap.range.start > pgmap.range.end
    assert pgmap.range.start == planted.details["start"]


def check_range_overlap(view, planted):
    pgmap = pgmap_at(view, planted)
    (other,) = (p for p, _ in view.pgmaps().values() if p != pgmap)
    assert pgmap.range.start < other.range.start <= pgmap.range.end


def check_nr_range_absurd(view, planted):
    assert pgmap_at(view, planted).nr_range == 0x7FFFFFFF


def check_shift_absurd(view, planted):
    assert pgmap_at(view, planted).vmemmap_shift == 63


def check_ref_dead(view, planted):
    assert pgmap_at(view, planted).ref.percpu_count_ptr.value_() & 3 == 3


def check_ref_leaked(view, planted):
    check_references(view, 64 + planted.details["by"])


def check_references(view, count):
    pointer = Object(view.prog, "unsigned long *", view.pgmap().ref.percpu_count_ptr)
    cpus = for_each_possible_cpu(view.prog)
    total = sum(per_cpu_ptr(pointer, cpu)[0].value_() for cpu in cpus)
    assert total % 2**64 == count


def check_ref_lost(view, planted):
    check_references(view, 64 - planted.details["by"])


def check_kernel_entry(view, planted):
    wrong = []
    tasks = view.prog["init_task"].tasks.address_of_()
    for task in list_for_each_entry("struct task_struct", tasks, "tasks"):
        if task.mm:
            index = planted.vaddr >> 48 & 511
            entry = word(view, task.mm.pgd.value_() + 8 * index)
            if entry != planted.details["expected"]:
                wrong.append(entry)
    assert wrong == [planted.details["observed"]]
    assert view.walk(view.page_va(0x100000)) is not None


def check_subsection_lost(view, planted):
    pfn = planted.details["first_pfn"]
    assert view.page_va(pfn) == planted.vaddr
    assert view.walk(planted.vaddr) is not None
    root = view.prog["mem_section"][(pfn >> 15) // 128]
    bits = root[(pfn >> 15) % 128].usage.subsection_map[0].value_()
    assert bits == 2**64 - 1 - (1 << pfn % 32768 // 512)


def test_counters_before_there_were_any():
    text = f'{_DEVICE}\n[[fault]]\npagemap = "dax0.0"\nkind = "counter"\n'
    with pytest.raises(UsageError, match="this kernel has no such counters"):
        build(parse_scenario(text, "test"), kernel="6.1")


def check_xarray_stray(view, planted):
    first = planted.details["first_pfn"]
    index, entry = next(
        (i, e) for i, e in xa_for_each(view.prog["pgmap_array"].address_of_()) if i >= first
    )
    assert (index, entry.value_()) == (first, planted.vaddr)
    assert planted.vaddr == view.pgmap().value_()
    assert first * PAGE > view.pgmap().range.end


def section_of(view, pfn):
    return view.prog["mem_section"][(pfn >> 15) // 128][(pfn >> 15) % 128]


def check_subsection_stale(view, planted):
    pfn = planted.details["first_pfn"]
    assert view.page_va(pfn) == planted.vaddr
    assert view.walk(planted.vaddr) is not None
    assert view.walk(planted.vaddr + 8 * PAGE) is None
    assert section_of(view, pfn).usage.subsection_map[0].value_() >> (pfn % 32768 // 512) & 1
    assert view.words(pfn)[0] >> 51 & 7 == 4
    assert pfn * PAGE > view.pgmap().range.end


def check_section_map(view, planted):
    pfn = (planted.vaddr - view.vmemmap) // STRUCT_PAGE
    assert section_of(view, pfn).section_mem_map.value_() == planted.details["observed"]
    assert section_of(view, pfn - 32768).section_mem_map.value_() == planted.details["expected"]


def check_usage_lost(view, planted):
    pfn = (planted.vaddr - view.vmemmap) // STRUCT_PAGE
    assert section_of(view, pfn).section_mem_map.value_() & 3 == 3
    assert not section_of(view, pfn).usage


def check_boot_memmap_hole(view, planted):
    pfn = (planted.vaddr - view.vmemmap) // STRUCT_PAGE
    assert pfn % 32768 == 0
    assert section_of(view, pfn).section_mem_map.value_() & 0xF == 0xF
    assert view.walk(planted.vaddr) is None
    assert view.walk(planted.vaddr - PAGE) is not None
    assert view.walk(planted.vaddr + (2 << 20)) is not None


def check_leak(view, planted):
    pfn = (planted.vaddr - view.vmemmap) // STRUCT_PAGE
    is_mapped_to(view, planted)
    assert view.walk(planted.vaddr + planted.details["size"] - PAGE) is not None
    assert view.walk(planted.vaddr + planted.details["size"]) is None
    assert not section_of(view, pfn).section_mem_map
    assert view.refcount(planted.pfn) == 1


def check_counter(view, planted):
    names = {view.prog[name].address_: name for name in ("nr_memmap_pages", "nr_memmap_boot_pages")}
    # 64 compound pages of two pages each; two sections of RAM, one large leaf each.
    sound = {"nr_memmap_pages": 128, "nr_memmap_boot_pages": 1024}[names[planted.vaddr]]
    found = view.prog[names[planted.vaddr]].counter.value_()
    assert found == sound + planted.details["by"]


def check_xarray_cycle(view, planted):
    node = view.prog["pgmap_array"].xa_head.value_()
    assert planted.details["root"] == node - 2
    slots = planted.vaddr + view.prog.type("struct xa_node").member("slots").offset
    assert word(view, slots + 8 * planted.details["slot"]) == node


def check_resource_cycle(view, planted):
    prog = view.prog
    resource = prog["iomem_resource"].child
    seen = set()
    while resource and resource.value_() != planted.vaddr:
        resource = (
            resource.child
            if resource.name.string_() == b"Persistent Memory"
            else (resource.sibling)
        )
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


def mapcount_of(view, pfn):
    return view.words(pfn)[6] & 0xFFFFFFFF


def check_frame_free(view, planted):
    is_mapped_to(view, planted)
    assert view.refcount(planted.pfn) > 0
    assert mapcount_of(view, planted.pfn) in (0xFFFFFF7F, 0xF0FFFFFF)


def check_frame_marked(view, planted):
    is_mapped_to(view, planted)
    assert view.refcount(planted.pfn) > 0
    use = planted.details["use"]
    types = {"slab": 0xF5, "offline": 0xF1}
    if use in types and mapcount_of(view, planted.pfn) != 0xFFFFFFFF:
        # 6.1 has PG_offline, cleared, in page_type, and PG_slab in flags.
        kind = mapcount_of(view, planted.pfn)
        assert kind >> 24 == types[use] or (use, kind) == ("offline", 0xFFFFFEFF)
        return
    bit = view.prog.constant(f"PG_{use}").value_()
    assert view.words(planted.pfn)[0] >> bit & 1


def check_frame_node(view, planted):
    is_mapped_to(view, planted)
    # NODES_SHIFT is 10.
    assert view.words(planted.pfn)[0] >> 54 == planted.details["nid"] == 1
    assert view.words(planted.details["old_pfn"])[0] >> 54 == 0


CHECKS = {
    "frame-free": check_frame_free,
    "frame-foreign": check_frame_marked,
    "frame-poisoned": check_frame_marked,
    "frame-node": check_frame_node,
    "hole": check_hole,
    "tail-wrong-frame": check_tail_wrong_frame,
    "head-not-private": check_head_not_private,
    "missing-dedup": check_missing_dedup,
    "huge-leaf": check_huge_leaf,
    "base-pages": check_base_pages,
    "altmap-outside": check_altmap_outside,
    "read-only": check_read_only,
    "executable": check_executable,
    "refcount-low": check_refcount,
    "refcount-high": check_refcount,
    "frame-freed": check_frame_freed,
    "tail-wrong-head": check_tail_wrong_head,
    "head-flag-lost": check_head_flag_lost,
    "wrong-order": check_wrong_order,
    "wrong-pgmap": check_wrong_pgmap,
    "mask-missing": check_mask_missing,
    "early-uninitialised": check_early_uninitialised,
    "stray-head": check_stray_head,
    "tail-written": check_tail_written,
    "page-refcount": check_page_refcount,
    "wrong-zone": check_wrong_zone,
    "uninitialised": check_uninitialised,
    "unreadable-table": check_unreadable_table,
    "unreadable-struct-page": check_unreadable_struct_page,
    "unreadable-node": check_unreadable,
    "unreadable-sections": check_unreadable,
    "range-inverted": check_range_inverted,
    "range-overlap": check_range_overlap,
    "nr-range-absurd": check_nr_range_absurd,
    "shift-absurd": check_shift_absurd,
    "ref-dead": check_ref_dead,
    "ref-leaked": check_ref_leaked,
    "ref-lost": check_ref_lost,
    "kernel-entry": check_kernel_entry,
    "subsection-lost": check_subsection_lost,
    "subsection-stale": check_subsection_stale,
    "section-map": check_section_map,
    "usage-lost": check_usage_lost,
    "boot-memmap-hole": check_boot_memmap_hole,
    "leak": check_leak,
    "counter": check_counter,
    "xarray-stray": check_xarray_stray,
    "xarray-cycle": check_xarray_cycle,
    "resource-cycle": check_resource_cycle,
    "name": check_name,
}


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
    ],
)
def test_places_that_there_are_not(fault, message):
    text = f'{_DEVICE}\n[[fault]]\npagemap = "dax0.0"\n{fault}\n'
    with pytest.raises(UsageError, match=message) as e:
        build(parse_scenario(text, "test"))
    assert "\n" not in str(e.value)
