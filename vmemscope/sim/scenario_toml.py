# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Reads scenarios from TOML. All keys::

    description = "one line"
    kernel = "6.1"            # one of layouts.VERSIONS; 7.2 where arch has no 6.1
    arch = "x86_64"           # architectures.ARCHITECTURES has all
    scale = true              # pages of 16, 64 KiB: 2M stands for what a table of them maps
    levels = 5                # of page tables: 4 or 5, on some 3; by default the most
    seed = 1                  # of the address space randomisation
    struct_page = 64          # sizeof(struct page) in bytes: 56 to 128
    off = ["NUMA"]            # options of the configuration; options.OFF has all
    randstruct = true         # members of structures are in random order
    sme_bit = 47              # of memory encryption, in page-table entries; 0: none
    lto = true                # built by clang with ThinLTO; by default by gcc
    ram = "512M"              # from address 0 (above 3G: from 4G), all on node 0 ...

    [[node]]                  # ... or, instead of ram, one table a range of RAM
    start = 0x100000000
    size = "320M"
    nid = 0

    [[block]]                 # RAM added after boot, in whole sections: 128M, on some 16M to 512M
    start = 0x180000000
    size = "256M"
    online = false            # by default: its struct pages are as they were allocated
    map = "mem"               # where they are; "self": memory_hotplug.memmap_on_memory
    nid = 0

    [[pagemap]]
    name = "dax0.0"           # of the device; pmemN for fsdax
    type = "devdax"           # devdax, hmem, fsdax, virtiofs, p2pdma, private or coherent
    start = 0x140000000       # of the namespace, BAR or range of the device
    size = "512M"
    ranges = [{start = 0x140000000, size = "512M"}]   # instead, for hmem: several
    align = "2M"              # devdax, hmem: 4K, 2M or 1G
    map = "mem"               # devdax, fsdax: where struct pages are; "dev" is an altmap
    nid = 0

    [[hugetlb]]               # huge pages
    size = "2M"               # 2M or 1G
    count = 4
    in_use = 1                # of them; the others are free
    optimized = true          # their vmemmap is (HVO)
    boot = false              # 1G: they are reserved at boot, in sections of that order
    restored = 0              # the last of them have their vmemmap back, and stay in the pool
    demoted = 0               # those before are pages of 2M now,
    freed = 0                 # and more went back to the page allocator
    nid = 0

    [[message]]               # of the kernel's log, after those that each boot writes
    time = 12.5               # seconds since boot
    text = "BUG: Bad page state in process x  pfn:100003"   # {page:0x100003} becomes the
                              # address of that struct page, {direct:0x1000} of that memory
    level = 4
    caller = 1                # pid of the process; with bit 31 set a CPU

    [crash]                   # the kernel stopped in a panic
    cpu = 0
    registers = {RDI = "{page:0x100003}"}

    [[hugetlb_fault]]         # faults.HUGETLB_FAULTS has all kinds and their options
    kind = "tail-writable"
    folio = 0                 # in the order of the above

    [[fault]]                 # faults.FAULTS has all kinds and their options
    kind = "hole"
    pagemap = "dax0.0"
    compound = 3
    page = 2

Sizes and addresses are integers in bytes or strings with a binary suffix. They are those of
a machine with base pages of 4 KiB and a PMD of 2 MiB. Where a PMD is larger (arm64 with pages
of 16 and 64 KiB), devices and blocks, their addresses and ``2M`` are larger in proportion, and
there is no ``1G``; RAM is as it is.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from .options import OFF
from .scenario import (
    SUBSECTION_SIZE,
    Block,
    Crash,
    Fault,
    HugePages,
    Message,
    Pagemap,
    Ram,
    Scenario,
    check_arch,
    check_kernel,
)
from .units import GIB, MIB

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from .faults import FaultKind

__all__ = ("parse_scenario",)

#: memory from here to 4 GiB belongs to devices
LOW_RAM_END = 3 * GIB
#: what the direct map of 4-level paging holds
MAX_ADDRESS = 1 << 46
#: below it is the kernel's
FIRST_DEVICE_ADDRESS = 64 * MIB

TYPES = ("coherent", "devdax", "fsdax", "hmem", "p2pdma", "private", "virtiofs")
ALIGNS = {4096: "4K", 2 * MIB: "2M", GIB: "1G"}
SECTION_SIZE = 128 * MIB

_SIZE = re.compile(r"(0x[0-9a-fA-F]+|[0-9]+)([KMGT]?)")
_SHIFTS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}


class _Table:
    """A TOML table that knows where it is, and which of its keys were asked for."""

    def __init__(self, data: Mapping[str, Any], where: str) -> None:
        self.data = dict(data)
        self.where = where

    def error(self, message: str) -> UsageError:
        return UsageError(f"scenario {self.where}: {message}")

    def take(self, key: str, kind: type, default: Any = None) -> Any:
        value = self.data.pop(key, None)
        if value is None:
            if default is None:
                raise self.error(f"{key} is missing")
            return default
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise self.error(f"{key} must be {_KIND_NAMES[kind]}, not {value!r}")
        return value

    def take_size(self, key: str, default: int | None = None) -> int:
        value = self.data.pop(key, default)
        if value is None:
            raise self.error(f"{key} is missing")
        if isinstance(value, str) and (match := _SIZE.fullmatch(value)):
            value = int(match[1], 0) << _SHIFTS[match[2]]
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise self.error(f"{key} must be bytes, or a string such as '512M', not {value!r}")
        return value

    def take_tables(self, key: str) -> list[_Table]:
        tables = self.take(key, list, [])
        if not all(isinstance(table, dict) for table in tables):
            raise self.error(f"{key} must be a list of tables")
        return [_Table(table, f"{self.where}, {key} {i}") for i, table in enumerate(tables)]

    def done(self) -> None:
        if self.data:
            raise self.error(f"unknown key {next(iter(self.data))!r}")


_KIND_NAMES = {
    bool: "true or false",
    dict: "a table",
    int: "an integer",
    list: "a list",
    str: "a string",
}


def parse_scenario(text: str, name: str) -> Scenario:
    """
    Read a scenario.

    :param text: TOML
    :param name: used in messages and as the scenario's name
    :raises UsageError: if it is malformed, or asks for the impossible
    """
    try:
        top = _Table(tomllib.loads(text), name)
    except tomllib.TOMLDecodeError as e:
        raise UsageError(f"scenario {name} is not valid TOML: {e}") from None
    pagemaps = tuple(_parse_pagemap(table) for table in top.take_tables("pagemap"))
    arch = top.take("arch", str, "x86_64")
    kernel, levels = _defaults_of(arch)
    scenario = Scenario(
        name=name,
        description=top.take("description", str, ""),
        kernel=top.take("kernel", str, kernel),
        levels=top.take("levels", int, levels),
        arch=arch,
        scale=bool(top.take("scale", bool, True)),
        seed=top.take("seed", int, 1),
        ram=_parse_ram(top),
        off=tuple(top.take("off", list, [])),
        lto=bool(top.take("lto", bool, False)),
        randstruct=bool(top.take("randstruct", bool, False)),
        sme_bit=top.take("sme_bit", int, 0),
        struct_page=top.take("struct_page", int, 64),
        blocks=tuple(_parse_block(table) for table in top.take_tables("block")),
        pagemaps=pagemaps,
        faults=tuple(_parse_fault(table, pagemaps) for table in top.take_tables("fault")),
        hugetlb=tuple(_parse_hugetlb(table) for table in top.take_tables("hugetlb")),
        hugetlb_faults=tuple(
            _parse_hugetlb_fault(table) for table in top.take_tables("hugetlb_fault")
        ),
        messages=tuple(_parse_message(table) for table in top.take_tables("message")),
        crash=_parse_crash(top.take("crash", dict, {}), name),
    )
    top.done()
    check_kernel(scenario.kernel, name)
    if scenario.levels not in (3, 4, 5):
        raise top.error(f"levels must be 3, 4 or 5, not {scenario.levels}")
    check_arch(scenario)
    _check_ranges(scenario, top)
    if unknown := [one for one in scenario.off if one not in OFF]:
        raise top.error(f"no option {unknown[0]!r}: there are {', '.join(OFF)}")
    if not 56 <= scenario.struct_page <= 128 or scenario.struct_page % 8:
        raise top.error("struct_page must be a multiple of 8 from 56 to 128")
    if scenario.sme_bit and not 46 <= scenario.sme_bit < 52:
        raise top.error("sme_bit must be from 46 to 51, or 0")
    if scenario.struct_page != 64 and (scenario.faults or scenario.hugetlb_faults):
        raise top.error("faults can only be planted with a struct_page of 64")
    if scenario.pagemaps and "ZONE_DEVICE" in scenario.off:
        raise top.error("without ZONE_DEVICE there are no pagemaps")
    if scenario.hugetlb and "HUGETLB_PAGE" in scenario.off:
        raise top.error("without HUGETLB_PAGE there are no huge pages")
    if len(nids := {ram.nid for ram in scenario.ram}) > 1 and "NUMA" in scenario.off:
        raise top.error(f"without NUMA there is one node, not {len(nids)}")
    return scenario


def _defaults_of(name: str) -> tuple[str, int]:
    """Return an architecture's newest released kernel, and the most levels of page tables."""
    from .architectures import ARCHITECTURES

    arch = ARCHITECTURES.get(name)
    if arch is None:
        # Which is said later.
        return "6.1", 5
    released = [one for one in arch.kernels if one != "next"]
    return (released[-1] if released else "6.1"), max(arch.levels)


def _parse_ram(top: _Table) -> tuple[Ram, ...]:
    nodes = top.take_tables("node")
    if not nodes:
        size = top.take_size("ram", 256 * MIB)
        low = min(size, LOW_RAM_END)
        ranges = [Ram(0, low)]
        if size > low:
            ranges.append(Ram(4 * GIB, size - low))
    else:
        if "ram" in top.data:
            raise top.error("give either ram or node, not both")
        ranges = []
        for table in nodes:
            ranges.append(
                Ram(table.take_size("start"), table.take_size("size"), table.take("nid", int, 0))
            )
            table.done()
    for ram in ranges:
        if ram.size == 0 or ram.start % MIB or ram.size % MIB:
            raise top.error("RAM must come in whole megabytes")
        if not 0 <= ram.nid < 64:
            raise top.error(f"no node {ram.nid}: there are at most 64")
        if ram.start < 4 * GIB and ram.end > LOW_RAM_END:
            raise top.error("RAM must leave 3G to 4G to devices")
    ranges.sort(key=lambda ram: ram.start)
    if ranges[0].start != 0 or ranges[0].end < 64 * MIB:
        raise top.error("the first range of RAM must start at 0 and hold 64M or more")
    return tuple(ranges)


def _parse_block(table: _Table) -> Block:
    where = table.take("map", str, "mem")
    if where not in ("mem", "self"):
        raise table.error(f"map must be 'mem' or 'self', not {where!r}")
    block = Block(
        table.take_size("start"),
        table.take_size("size"),
        table.take("nid", int, 0),
        bool(table.take("online", bool, False)),
        where == "self",
    )
    table.done()
    # scenario.scaled() knows how large they are.
    if not block.size:
        raise table.error("a block must consist of whole sections")
    if block.start < 4 * GIB or block.end > MAX_ADDRESS:
        raise table.error("a block must lie between 4G and 64T")
    return block


def _parse_pagemap(table: _Table) -> Pagemap:
    kind = table.take("type", str)
    if kind not in TYPES:
        raise table.error(f"no type {kind!r}: there are {', '.join(TYPES)}")
    ranges = []
    for piece in table.take_tables("ranges"):
        ranges.append((piece.take_size("start"), piece.take_size("size")))
        piece.done()
    if not ranges:
        ranges = [(table.take_size("start"), table.take_size("size"))]
    elif kind != "hmem" and len(ranges) > 1:
        raise table.error("only hmem has several ranges")
    altmap = table.take("map", str, "mem")
    if altmap not in ("mem", "dev"):
        raise table.error(f"map must be 'mem' or 'dev', not {altmap!r}")
    if altmap == "dev" and kind not in ("devdax", "fsdax"):
        raise table.error("only devdax and fsdax can have map = 'dev'")
    align = table.take_size("align", 2 * MIB)
    if align not in ALIGNS:
        raise table.error(f"align must be one of {', '.join(ALIGNS.values())}")
    pagemap = Pagemap(
        name=table.take("name", str),
        type=kind,
        ranges=tuple(ranges),
        align=align,
        altmap=altmap == "dev",
        nid=table.take("nid", int, 0),
    )
    table.done()
    if not pagemap.name or len(pagemap.name.encode()) > 31 or "\0" in pagemap.name:
        raise table.error(f"name must have 1 to 31 bytes, not {pagemap.name!r}")
    if kind == "fsdax" and not re.fullmatch(r"pmem\d+", pagemap.name):
        raise table.error(f"an fsdax device is called pmemN, not {pagemap.name!r}")
    if kind in ("devdax", "hmem") and not re.fullmatch(r"dax\d+\.\d+", pagemap.name):
        raise table.error(f"a device-dax device is called daxN.N, not {pagemap.name!r}")
    for start, size in ranges:
        # memremap_compat_align(): a namespace starts and ends on a subsection.
        if size == 0 or start % SUBSECTION_SIZE or size % SUBSECTION_SIZE:
            raise table.error("ranges must be multiples of 2M")
        if kind == "hmem" and (start % align or size % align):
            raise table.error("ranges of an hmem device must be multiples of its align")
        if start < FIRST_DEVICE_ADDRESS or start + size > MAX_ADDRESS:
            raise table.error("ranges must lie between 64M and 64T")
    if ranges != sorted(ranges):
        raise table.error("ranges must ascend")
    return pagemap


def _parse_fault(table: _Table, pagemaps: tuple[Pagemap, ...]) -> Fault:
    from .faults import FAULTS

    kind = _parse_kind(table, FAULTS)
    pagemap = table.take("pagemap", str)
    names = [p.name for p in pagemaps]
    if pagemap not in names:
        raise table.error(f"there is no pagemap {pagemap!r}")
    options = _parse_options(table, kind)
    if isinstance(options.get("other"), str) and options["other"] not in ("", *names):
        raise table.error(f"there is no pagemap {options['other']!r}")
    return Fault(kind.name, pagemap, options)


def _parse_hugetlb_fault(table: _Table) -> Fault:
    from .faults import HUGETLB_FAULTS

    kind = _parse_kind(table, HUGETLB_FAULTS)
    return Fault(kind.name, "", _parse_options(table, kind))


def _parse_kind(table: _Table, kinds: Mapping[str, FaultKind]) -> FaultKind:
    kind = table.take("kind", str)
    if kind not in kinds:
        raise table.error(f"no fault {kind!r}: there are {', '.join(kinds)}")
    return kinds[kind]


def _parse_options(table: _Table, kind: FaultKind) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for option in kind.options:
        value = table.take(option.name, type(option.default), option.default)
        if option.choices and value not in option.choices:
            raise table.error(f"{option.name} must be one of {', '.join(option.choices)}")
        options[option.name] = value
    table.done()
    return options


def _parse_hugetlb(table: _Table) -> HugePages:
    size = table.take_size("size", 2 * MIB)
    if size not in (2 * MIB, GIB):
        raise table.error("size must be 2M or 1G")
    pages = HugePages(
        gigantic=size == GIB,
        count=table.take("count", int, 1),
        in_use=table.take("in_use", int, 0),
        optimized=bool(table.take("optimized", bool, True)),
        nid=table.take("nid", int, 0),
        boot=bool(table.take("boot", bool, False)),
        restored=table.take("restored", int, 0),
        demoted=table.take("demoted", int, 0),
        freed=table.take("freed", int, 0),
    )
    table.done()
    if not 0 < pages.count <= 1 << 16 or not 0 <= pages.in_use <= pages.count:
        raise table.error("count must be 1 or more, in_use no more than count")
    changed = pages.restored, pages.demoted, pages.freed
    if min(changed) < 0 or sum(changed) > pages.count - pages.in_use:
        raise table.error("no more can be restored, demoted and freed than are free")
    if pages.restored and not pages.optimized:
        raise table.error("only what is optimized can be restored")
    if pages.demoted and not pages.gigantic:
        raise table.error("only pages of 1G can be demoted")
    if pages.boot and not pages.gigantic:
        raise table.error("only pages of 1G are reserved at boot")
    return pages


def _parse_message(table: _Table) -> Message:
    time = table.data.pop("time", 0.0)
    if isinstance(time, bool) or not isinstance(time, (int, float)) or not 0 <= time < 1 << 32:
        raise table.error(f"time must be seconds, not {time!r}")
    message = Message(
        float(time),
        table.take("text", str),
        table.take("level", int, 4),
        table.take("caller", int, 1),
    )
    table.done()
    if not 0 <= message.level < 8 or not 0 <= message.caller < 1 << 32:
        raise table.error("level must be from 0 to 7, caller a number of 32 bits")
    return message


def _parse_crash(data: Mapping[str, Any], name: str) -> Crash | None:
    if not data:
        return None
    table = _Table(data, f"{name}, crash")
    crash = Crash(table.take("cpu", int, 0), table.take("registers", dict, {}))
    table.done()
    if not all(isinstance(value, str) for value in crash.registers.values()):
        raise table.error("registers must be strings")
    return crash


def _check_ranges(scenario: Scenario, top: _Table) -> None:
    """Names and ranges must be distinct; a pagemap carves its range out of RAM, whole or not."""
    names = [pagemap.name for pagemap in scenario.pagemaps]
    if len(set(names)) != len(names):
        raise top.error("two pagemaps have the same name")
    nids = {ram.nid for ram in scenario.ram}
    for pagemap in scenario.pagemaps:
        if pagemap.nid not in nids:
            raise top.error(f"{pagemap.name} is on node {pagemap.nid}, which has no RAM")
    for pages in scenario.hugetlb:
        if pages.nid not in nids:
            raise top.error(f"huge pages are on node {pages.nid}, which has no RAM")
    for block in scenario.blocks:
        if block.nid not in nids:
            raise top.error(f"a block is on node {block.nid}, which has no RAM")
    blocks = [(block.start, block.size, "a block") for block in scenario.blocks]
    for what, ranges in (
        ("RAM", blocks + [(ram.start, ram.size, "RAM") for ram in scenario.ram]),
        ("pagemap", blocks + [(*r, p.name) for p in scenario.pagemaps for r in p.ranges]),
    ):
        ranges.sort()
        for (start, size, name), (next_start, _, next_name) in pairwise(ranges):
            if start + size > next_start:
                raise top.error(f"{what} ranges overlap: {name} and {next_name}")
