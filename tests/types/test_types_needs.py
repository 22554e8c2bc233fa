# SPDX-License-Identifier: LGPL-2.1-or-later
"""The check that all names an audit relies on are there."""

from __future__ import annotations

import btf_writer as w
import pytest
from btf_writer import BtfWriter
from test_types_finders import make_program

from vmemscope.errors import ExitStatus, TypesError
from vmemscope.types import Need, NeedKind, Shape, check_needs


@pytest.fixture
def prog():
    b = BtfWriter()
    number = b.int("int", 4, w.SIGNED)
    altmap = b.struct("vmem_altmap", 8, ("base_pfn", number, 0), ("free", number, 32, 3))
    union = b.union(None, 8, ("range", number, 0), ("ranges", b.array(altmap, 0), 0))
    b.struct("dev_pagemap", 16, ("altmap", altmap, 0), (None, union, 64))
    b.struct("xarray", 16)
    b.struct("task_struct", 16)
    b.add(w.FWD, "device")
    b.enum("pageflags", {"PG_head": 6})
    b.add(w.TYPEDEF, "pfn_t", number)
    symbols = {"pgmap_array": 0x1000, "vmemmap_populate": 0x2000, "init_task": 0x3000}
    return make_program(b, symbols=symbols)


MET = [
    ("pgmap_array", NeedKind.VARIABLE),
    ("struct dev_pagemap", NeedKind.TYPE),
    ("enum pageflags", NeedKind.TYPE),
    ("pfn_t", NeedKind.TYPE),
    ("struct dev_pagemap.altmap", NeedKind.MEMBER),
    ("struct dev_pagemap.altmap.base_pfn", NeedKind.MEMBER),
    ("struct dev_pagemap.altmap.free", NeedKind.MEMBER),
    ("struct dev_pagemap.ranges", NeedKind.MEMBER),
    ("struct dev_pagemap.ranges[2].base_pfn", NeedKind.MEMBER),
    ("PG_head", NeedKind.ENUMERATOR),
]
UNMET = [
    ("mem_section", NeedKind.VARIABLE),
    ("vmemmap_populate", NeedKind.VARIABLE),
    ("PG_head", NeedKind.VARIABLE),
    ("struct page", NeedKind.TYPE),
    ("struct device", NeedKind.TYPE),
    ("union dev_pagemap", NeedKind.TYPE),
    ("struct dev_pagemap.vmemmap_shift", NeedKind.MEMBER),
    ("struct dev_pagemap.altmap.reserve", NeedKind.MEMBER),
    ("struct dev_pagemap.range.start", NeedKind.MEMBER),
    ("struct page.flags", NeedKind.MEMBER),
    ("struct device.id", NeedKind.MEMBER),
    ("pfn_t.val", NeedKind.MEMBER),
    ("PG_reserved", NeedKind.ENUMERATOR),
    ("pgmap_array", NeedKind.ENUMERATOR),
]


def test_all_met(prog):
    needs = [Need(name, kind, "find pagemaps") for name, kind in MET]
    check_needs(prog, needs)


@pytest.mark.parametrize(("name", "kind"), UNMET)
def test_unmet(prog, name, kind):
    needs = [Need("PG_head", NeedKind.ENUMERATOR, "find heads"), Need(name, kind, "count frames")]
    with pytest.raises(TypesError) as raised:
        check_needs(prog, needs)
    assert f"{kind.value} {name} (needed to count frames)" in str(raised.value)
    assert "find heads" not in str(raised.value)
    assert raised.value.exit_status == ExitStatus.CANNOT_AUDIT


def test_all_that_is_missing_is_reported(prog):
    needs = [
        Need("mem_section", NeedKind.VARIABLE, "find sections"),
        Need("struct page.flags", NeedKind.MEMBER, "find heads"),
        Need("PG_reserved", NeedKind.ENUMERATOR, "find heads"),
    ]
    with pytest.raises(TypesError) as raised:
        check_needs(prog, needs)
    assert raised.value.message == (
        "the kernel's types lack variable mem_section (needed to find sections); "
        "member struct page.flags, enumerator PG_reserved (needed to find heads)"
    )


def test_optional(prog):
    needs = [Need(name, kind, "count", optional=True) for name, kind in [*MET, *UNMET]]
    check_needs(prog, needs)


def test_alternatives(prog):
    # 7.1 renamed compound_head; either will do.
    need = Need("pgmap_tree", NeedKind.VARIABLE, "find pagemaps", alternatives=("pgmap_array",))
    check_needs(prog, [need])
    need = need._replace(alternatives=("pgmap_radix",))
    with pytest.raises(TypesError, match="variable pgmap_tree or variable pgmap_radix"):
        check_needs(prog, [need])


@pytest.mark.parametrize(
    ("member", "shape", "what"),
    [
        ("altmap", Shape.STRUCT, None),
        ("altmap", Shape.INTEGER, "struct vmem_altmap"),
        ("altmap.base_pfn", Shape.INTEGER, None),
        ("altmap.base_pfn", Shape.POINTER, "int"),
        ("range", Shape.STRUCT, "int"),
        ("ranges", Shape.ARRAY, None),
        ("ranges", Shape.STRUCT, "struct vmem_altmap []"),
    ],
)
@pytest.mark.parametrize("optional", [False, True])
def test_shape(prog, member, shape, what, optional):
    name = f"struct dev_pagemap.{member}"
    need = Need(name, NeedKind.MEMBER, "find pagemaps", optional, shape=shape)
    if what is None:
        check_needs(prog, [need])
        return
    with pytest.raises(TypesError) as raised:
        check_needs(prog, [need])
    assert raised.value.message == (
        f"the kernel's types make no sense: {name} is {what}, not {shape.value}"
    )


def test_shape_of_what_is_there(prog):
    # Of two names one is there; an optional one is not.
    either = ("struct dev_pagemap.altmap",)
    need = Need("struct dev_pagemap.a", NeedKind.MEMBER, "audit", False, either, Shape.STRUCT)
    absent = Need("struct dev_pagemap.b", NeedKind.MEMBER, "audit", True, shape=Shape.STRUCT)
    check_needs(prog, [need, absent])


def test_shape_where_the_struct_of_a_name_is_not_there(prog):
    # 5.10 has no struct folio.
    either = ("struct dev_pagemap.altmap",)
    need = Need("struct folio.pgmap", NeedKind.MEMBER, "audit", False, either, Shape.STRUCT)
    check_needs(prog, [need])


def test_kernel_without_symbols_of_variables():
    prog = make_program(BtfWriter(), symbols={"vmemmap_populate": 0x2000})
    with pytest.raises(TypesError) as raised:
        check_needs(prog, [Need("pgmap_array", NeedKind.VARIABLE, "find pagemaps")])
    assert "CONFIG_KALLSYMS_ALL" in raised.value.hint
    with pytest.raises(TypesError) as raised:
        check_needs(prog, [Need("struct page", NeedKind.TYPE, "audit")])
    assert "CONFIG_KALLSYMS_ALL" not in raised.value.hint
