# SPDX-License-Identifier: LGPL-2.1-or-later
"""Struct layouts against what real kernels say of themselves in VMCOREINFO."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from drgn.helpers.linux.kallsyms import load_vmlinux_kallsyms

from tests.kernels import KERNELS, SIMULATED, image
from vmemscope.sim import btf
from vmemscope.sim.layouts import VERSIONS, Layouts
from vmemscope.sim.layouts.extract import main

# From VMCOREINFO of booted Debian kernels.
REAL = {
    "6.1": {
        "SIZE(mem_section)": 32,
        "SIZE(page)": 64,
        "SIZE(pglist_data)": 174208,
        "SIZE(zone)": 1536,
        "SIZE(free_area)": 88,
        "SIZE(nodemask_t)": 128,
        "OFFSET(page._refcount)": 52,
        "OFFSET(page.mapping)": 24,
        "OFFSET(page.lru)": 8,
        "OFFSET(page._mapcount)": 48,
        "OFFSET(page.private)": 40,
        "OFFSET(page.compound_dtor)": 16,
        "OFFSET(page.compound_order)": 17,
        "OFFSET(page.compound_head)": 8,
        "OFFSET(pglist_data.nr_zones)": 171552,
        "OFFSET(pglist_data.node_start_pfn)": 171560,
        "OFFSET(pglist_data.node_spanned_pages)": 171576,
        "OFFSET(pglist_data.node_id)": 171584,
        "OFFSET(zone.free_area)": 256,
        "OFFSET(zone.vm_stat)": 1344,
        "OFFSET(zone.spanned_pages)": 144,
        "LENGTH(free_area.free_list)": 5,
        "NUMBER(PG_lru)": 4,
        "NUMBER(PG_slab)": 9,
        "NUMBER(PG_hwpoison)": 23,
        "NUMBER(PG_head_mask)": 65536,
        "NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)": -129,
        "NUMBER(HUGETLB_PAGE_DTOR)": 2,
    },
    "6.12": {
        "SIZE(pglist_data)": 174464,
        "SIZE(zone)": 1536,
        "OFFSET(page.compound_head)": 8,
        "OFFSET(zone.spanned_pages)": 160,
        "OFFSET(zone.vm_stat)": 1344,
        "NUMBER(PG_lru)": 5,
        "NUMBER(PG_hwpoison)": 20,
        "NUMBER(PG_head_mask)": 64,
        "NUMBER(PAGE_SLAB_MAPCOUNT_VALUE)": -184549376,
        "NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)": -268435456,
        "NUMBER(PAGE_HUGETLB_MAPCOUNT_VALUE)": -201326592,
        "NUMBER(PAGE_OFFLINE_MAPCOUNT_VALUE)": -251658240,
    },
    "7.2": {
        "SIZE(pglist_data)": 176256,
        "SIZE(zone)": 1856,
        "SIZE(free_area)": 104,
        "OFFSET(page.compound_info)": 8,
        "OFFSET(pglist_data.nr_zones)": 173152,
        "OFFSET(pglist_data.node_id)": 173184,
        "OFFSET(zone.vm_stat)": 1536,
        "OFFSET(zone.spanned_pages)": 160,
        "LENGTH(free_area.free_list)": 6,
        "NUMBER(PG_hwpoison)": 21,
        "NUMBER(PG_head_mask)": 64,
    },
}
# Keys that only some have: KERNEL-FACTS section 9.
KEYS = {
    "SYMBOL(vmemmap)": (False, True, True),
    "NUMBER(VMALLOC_START)": (False, True, True),
    "OFFSET(page.compound_head)": (True, True, False),
    "OFFSET(page.compound_info)": (False, False, True),
    "OFFSET(page.compound_dtor)": (True, False, False),
    "NUMBER(HUGETLB_PAGE_DTOR)": (True, False, False),
    "NUMBER(PAGE_HUGETLB_MAPCOUNT_VALUE)": (False, True, True),
    "SYMBOL(kallsyms_relative_base)": (True, True, False),
}


def test_versions():
    assert VERSIONS == SIMULATED


def test_vmcoreinfo(dumps, kernel):
    found = dumps.view("empty", kernel).keys
    assert {key: int(found[key], 0) for key in REAL[kernel]} == REAL[kernel]
    for key, present in KEYS.items():
        assert (key in found) == present[KERNELS.index(kernel)], key


#: layouts of kernels that no simulation is of
LAYOUTS = Path(__file__).parent.parent / "layouts"
#: what vmemscope reads of them
PAGE_MEMBERS = {
    "page": (
        *("flags", "compound_head", "lru", "mapping", "index", "private", "pgmap"),
        *("_mapcount", "_refcount", "compound_dtor", "compound_order"),
    ),
    "folio": ("flags", "mapping", "_flags_1", "_folio_dtor", "_folio_order", "_pincount"),
}


def test_drgn_sees_the_same_types(dumps, kernel):
    """Sizes and members, through the BTF in the image and the package's reader of it."""
    prog = dumps.view("empty", kernel).prog
    layouts = Layouts.load(kernel)
    for name in ("page", "folio", "dev_pagemap", "mem_section", "zone", "dev_dax", "device"):
        type_ = prog.type(f"struct {name}")
        assert type_.size == layouts.sizeof(name)
        for member in layouts.member_names(name):
            found = layouts.member(name, member)
            assert type_.member(member).bit_offset == found.offset * 8 + (
                found.bits[0] if found.bits else 0
            )


def test_enumerators(dumps, kernel):
    prog = dumps.view("empty", kernel).prog
    layouts = Layouts.load(kernel)
    for name in ("PG_head", "PG_reserved", "ZONE_DEVICE", "MEMORY_DEVICE_FS_DAX", "N_ONLINE"):
        assert prog[name].value_() == layouts.constant(name)


def test_another_size_is_as_in_a_real_kernel():
    """6.1 with SLAB and without MEMCG has 56 bytes (tests/layouts/README.md)."""
    data = json.loads((LAYOUTS / "6.1-page56.json").read_text())
    real, simulated = Layouts(data["release"], data["types"]), Layouts.load("6.1").resized(56)
    assert real.sizeof("page") == simulated.sizeof("page") == 56
    for name, members in PAGE_MEMBERS.items():
        for member in members:
            assert simulated.member(name, member) == real.member(name, member), member
    assert not real.has_member("page", "memcg_data")
    assert not simulated.has_member("page", "memcg_data")


def test_members():
    layouts = Layouts.load("6.1")
    assert layouts.offsetof("dev_pagemap", "altmap.alloc") == 40
    assert layouts.offsetof("dev_pagemap", "ranges[2].end") == 136 + 2 * 16 + 8
    assert layouts.offsetof("dev_pagemap", "range.start") == 136
    assert layouts.member("subsys_private", "drivers_autoprobe").bits == (0, 1)
    assert not layouts.has_member("page", "compound_info")
    with pytest.raises(KeyError):
        layouts.offsetof("page", "flags[1]")


@pytest.mark.parametrize("version", KERNELS)
def test_extraction_of_what_was_written(version, tmp_path):
    """Through BTF and back."""
    layouts = Layouts.load(version)
    (tmp_path / "raw.btf").write_bytes(btf.encode(layouts.types))
    output = tmp_path / "out.json"
    assert main([str(tmp_path / "raw.btf"), "--release", layouts.release, "-o", str(output)]) == 0
    data = json.loads(output.read_text())
    again = Layouts(data["release"], data["types"])
    assert again.release == layouts.release
    assert len(again.types) == len(layouts.types)

    def count(types):
        return sorted((t["kind"], t.get("name", ""), t.get("size", 0)) for t in types)

    assert count(again.types) == count(layouts.types)
    for name in ("page", "folio", "dev_pagemap", "zone", "module", "mm_struct"):
        assert again.member_names(name) == layouts.member_names(name)
        for member in layouts.member_names(name):
            assert again.member(name, member) == layouts.member(name, member)


def test_extraction_of_junk(tmp_path, capsys):
    (tmp_path / "junk").write_bytes(bytes(100))
    output = tmp_path / "out.json"
    assert main([str(tmp_path / "junk"), "--release", "1", "-o", str(output)]) == 1
    assert "not raw little-endian BTF" in capsys.readouterr().err
    assert main([str(tmp_path / "none"), "--release", "1", "-o", str(output)]) == 1


def test_btf_header(dumps, kernel):
    view = dumps.view("empty", kernel)
    symbols = {s.name: s.address for s in image("empty", kernel).kernel.image.symbols}
    size = symbols["__stop_BTF"] - symbols["__start_BTF"]
    data = view.prog.read(symbols["__start_BTF"], size)
    magic, _, _, header, type_off, type_len, str_off, str_len = struct.unpack_from(
        "<HBBIIIII", data
    )
    assert (magic, header, type_off, str_off) == (0xEB9F, 24, 0, type_len)
    assert header + type_len + str_len == size


def test_kallsyms(dumps, kernel):
    """drgn's own loader finds all symbols, where they are."""
    built = image("empty", kernel).kernel.image
    prog = dumps.view("empty", kernel).prog
    index = load_vmlinux_kallsyms(prog)
    found = {(s.name, s.address) for s in index(prog, None, None, False)}
    assert found == {(s.name, s.address) for s in built.symbols}
    for name in ("pgmap_array", "init_mm", "dax_bus_type", "vmemmap_populate", "modules"):
        assert index(prog, name, None, True)
