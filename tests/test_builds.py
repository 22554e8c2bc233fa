# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Kernels that were built or booted otherwise: reports are the same.

Clang with ThinLTO changes names of static variables, RANDSTRUCT the order of members, and
memory encryption (SME) all entries of page tables.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from random import Random
from typing import Any

import pytest
from drgn import FaultError

from vmemscope.audits import page
from vmemscope.audits.pagemaps import once
from vmemscope.machine import Kernel
from vmemscope.report import to_document
from vmemscope.sim.image import Image
from vmemscope.sim.layouts import Layouts

from .kernels import FIXTURES, KERNELS, Dumps, filtered, image, write

#: what has a memory map, of all kinds
ALL = """
ram = "512M"

[[block]]
start = 0x180000000
size = "256M"
online = true
map = "self"

[[block]]
start = 0x190000000
size = "128M"

[[pagemap]]
name = "dax0.0"
type = "devdax"
start = 0x100000000
size = "256M"
align = "2M"

[[pagemap]]
name = "dax1.0"
type = "devdax"
start = 0x120000000
size = "768M"
map = "dev"

[[pagemap]]
name = "dax2.0"
type = "hmem"
ranges = [{start = 0x200000000, size = "128M"}, {start = 0x210000000, size = "256M"}]

[[pagemap]]
name = "pmem3"
type = "fsdax"
start = 0x220000000
size = "128M"

[[pagemap]]
name = "virtio4"
type = "virtiofs"
start = 0x240000000
size = "256M"

[[pagemap]]
name = "gpu5"
type = "coherent"
start = 0x260000000
size = "128M"

[[hugetlb]]
count = 3
in_use = 1
"""
#: ways to build or boot a kernel
BUILDS = (
    "lto = true",
    "randstruct = true",
    "sme_bit = 47",
    "seed = 7\nsme_bit = 51\nlevels = 4\nlto = true\nrandstruct = true",
)
#: faults in structures of each kind, in page tables and in struct pages
BROKEN = (
    "range-inverted", "xarray-cycle", "resource-cycle", "ref-leaked", "section-map", "usage-lost",
    "kernel-entry-other", "hole", "read-only", "frame-free", "tail-outside", "unreadable-table",
)  # fmt: skip
#: heads, tails, an altmap's own memory, what backs the memory map, RAM, offline RAM, no memory
PFNS = (0x100000, 0x100003, 0x100200, 0x120001, 0x121000, 0x200041, 0x220000, 0x240000, 0x260000,
        0x1000, 0x180000, 0x190000, 0x300000)  # fmt: skip


def documents(dumps: Dumps, scenario: str, kernel: str) -> list[dict[str, Any]]:
    """Return all reports of a dump, without what names it."""
    audited = dumps.audited(scenario, kernel)
    reports = [to_document(one) for one in (audited.pgmap, audited.memmap, audited.hugetlb)]
    # Findings may show entries of page tables.
    shown = re.compile(r'"(observed|expected)": "0x[0-9a-f]+"')
    return [
        json.loads(shown.sub('"observed": ""', json.dumps({**one, "target": 0, "timings": 0})))
        for one in reports
    ]


def pages(dumps: Dumps, scenario: str, kernel: str) -> list[dict[str, Any]]:
    """Return what is reported of some pages, without the entries of page tables."""
    opened = Kernel.open_core(str(dumps.core(scenario, kernel)))
    found = [to_document(page.audit(opened, pfn)) for pfn in PFNS]
    return [{**one, "target": None, "timings": None, "walk": None} for one in found]


def without_build(scenario: str) -> str:
    """Return the scenario of the same machine with the kernel as it usually is."""
    return re.sub("^(lto|randstruct|sme_bit) = .*$", "", scenario, flags=re.M)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("build", BUILDS)
def test_reports_are_the_same(dumps: Dumps, build: str, kernel: str) -> None:
    changed = f"{build}\n{ALL}"
    usual = without_build(changed)
    reports = documents(dumps, changed, kernel)
    assert [one["findings"] for one in reports] == [[], [], []]
    assert len(reports[0]["pgmaps"]) == 6
    assert reports == documents(dumps, usual, kernel)
    assert pages(dumps, changed, kernel) == pages(dumps, usual, kernel)


@pytest.mark.parametrize("fault", BROKEN)
def test_faults_are_the_same(dumps: Dumps, fault: str) -> None:
    build = BUILDS[-1]
    text = (FIXTURES / f"{fault}.toml").read_text(encoding="utf-8")
    changed = f"{build}\n{text}"
    audited = dumps.audited(changed, "6.12")
    assert audited.planted
    assert audited.found() == audited.expected()
    assert documents(dumps, changed, "6.12") == documents(dumps, without_build(changed), "6.12")


@pytest.mark.parametrize("kernel", KERNELS)
def test_thin_lto_renames_what_audits_need(dumps: Dumps, kernel: str) -> None:
    prog = Kernel.open_core(str(dumps.core(f"{BUILDS[0]}\n{ALL}", kernel))).prog
    names = {symbol.name for symbol in prog.symbols()}
    assert "pgmap_array" not in names
    assert any(re.fullmatch(r"pgmap_array\.llvm\.\d+", name) for name in names)
    assert prog["pgmap_array"].address_ == prog.symbol("pgmap_array").address


@pytest.mark.parametrize("version", KERNELS)
def test_members_are_shuffled(version: str) -> None:
    plain = Layouts.load(version)
    shuffled = plain.shuffled(Random(1))
    for name in ("resource", "dev_pagemap", "xa_node", "pglist_data", "zone", "hstate", "dev_dax",
                 "mem_section", "task_struct", "mm_struct", "percpu_ref"):  # fmt: skip
        assert shuffled.sizeof(name) == plain.sizeof(name)
        spans = [
            [(one.member(name, member).offset, one.member(name, member).size) for member in members]
            for one in (plain, shuffled)
            for members in [sorted(set(plain.member_names(name)))]
        ]
        assert spans[0] != spans[1], name
        # Each member is whole, and as far from those that it overlapped as before.
        assert all(at + size <= plain.sizeof(name) for at, size in spans[1])
        assert sum(size for _, size in spans[0]) == sum(size for _, size in spans[1])
    for name in ("page", "folio", "list_head"):
        for member in plain.member_names(name):
            assert shuffled.member(name, member) == plain.member(name, member)
    # What has no length stays at the end.
    last = shuffled.member("dev_pagemap", "ranges")
    assert last.offset + 16 == shuffled.sizeof("dev_pagemap")


@pytest.mark.parametrize("bit", [47, 51])
@pytest.mark.parametrize("levels", [4, 5])
def test_encrypted_entries(dumps: Dumps, bit: int, levels: int) -> None:
    core = dumps.core(f"sme_bit = {bit}\nlevels = {levels}\n{ALL}", "6.12")
    opened = Kernel.open_core(str(core))
    one = page.audit(opened, 0x100003)
    assert len(one.walk) == levels
    for step in one.walk:
        # The entry as it is in memory.
        assert opened.prog.read_u64(step.entry_address, True) == step.entry
        assert step.entry >> bit & 1
        assert "ENCRYPTED" in step.flags
    # The end of each page, and across pages and leaves.
    text = opened.prog["VMCOREINFO"].string_()
    start, end = (opened.prog.symbol(f"__{name}_BTF").address for name in ("start", "stop"))
    assert opened.prog.read(start, end - start)[:4] == b"\x9f\xeb\x01\x00"
    at = opened.prog["init_uts_ns"].address_
    whole = opened.prog.read(at - 5000, 9000)
    assert b"".join(opened.prog.read(at - 5000 + n, 1) for n in range(0, 9000, 900)) == whole[::900]
    assert f"NUMBER(sme_mask)={1 << bit}\n".encode() in text
    with pytest.raises(FaultError, match="not mapped"):
        opened.prog.read(opened.prog.symbol("_stext").address - 8, 8)


def test_encrypted_dump_without_a_note(dumps: Dumps, tmp_path: Path) -> None:
    scenario = f"{BUILDS[3]}\n{ALL}"
    core = filtered(dumps.core(scenario, "7.2"), tmp_path / "core", (), note=False)
    opened = Kernel.open_core(str(core))
    assert any("VMCOREINFO was found" in note for note in opened.target.notes)
    assert once(opened).pagemaps == dumps.audited(scenario, "7.2").pgmap.pagemaps


#: what drivers can have before the struct dev_pagemap of their device: a size, nothing, an
#: address of no memory, of memory that is no gendisk, and of a gendisk of another driver
BEFORE = {
    "size": lambda built: 152,
    "nothing": lambda built: 0,
    "no memory": lambda built: 0xDEAD_0000_0000_0100,
    "no address": lambda built: (1 << 64) - 1,
    "no gendisk": lambda built: built.kernel.pagemap("dax0.0").va,
    "other gendisk": lambda built: _gendisk(built, b"vda"),
    "no text": lambda built: _gendisk(built, b"\xff\x01\n"),
}


def _gendisk(built: Image, name: bytes) -> int:
    gendisk = built.kernel.slab.struct("gendisk")
    gendisk.set_bytes("disk_name", name)
    return gendisk.va


@pytest.mark.parametrize("kernel", ["6.1", "7.2"])
@pytest.mark.parametrize("before", BEFORE)
def test_virtiofs_has_the_name_of_its_resource(tmp_path: Path, before: str, kernel: str) -> None:
    built = image(ALL, kernel)
    record = built.kernel.pagemap("virtio4")
    built.kernel.memory.write_int(record.va - 8, BEFORE[before](built))
    report = once(Kernel.open_core(write(built, tmp_path)))
    assert report.findings == ()
    assert {one.name: one.type for one in report.pagemaps} == {
        "dax0.0": "generic", "dax1.0": "generic", "dax2.0": "generic", "pmem3": "fsdax",
        "virtio4": "fsdax", "gpu5": "coherent",
    }  # fmt: skip


@pytest.mark.parametrize("kernel", KERNELS)
def test_device_coherent_memory(dumps: Dumps, kernel: str) -> None:
    opened = Kernel.open_core(str(dumps.core(ALL, kernel)))
    one = page.audit(opened, 0x260000)
    assert one.place is not None
    assert (one.place.name, one.place.type) == ("gpu5", "coherent")
    assert (one.node, one.zone) == (0, "Device")
    # include/linux/memremap.h: pages of the driver have no reference until it hands them out
    assert one.page.refcount == 0
    audited = dumps.audited(ALL, kernel)
    (area,) = [area for area in audited.memmap.areas if area.label == "gpu5"]
    assert (area.kind, area.pages, area.frames) == ("pagemap", 512, 512)
    gpu = next(pagemap for pagemap in audited.pgmap.pagemaps if pagemap.name == "gpu5")
    assert (gpu.type, gpu.state, gpu.findings) == ("coherent", "not-optimized", ())
