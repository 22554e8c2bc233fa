# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The second witness: what a kernel's memory says about its pagemaps, page by page.

In: a :class:`drgn.Program` with DWARF. Out: a plain dictionary for each struct
dev_pagemap. Every number comes from drgn's own helpers and from scalar reads,
one vmemmap page at a time; nothing of the package under test is imported, no
reads are batched, and no result of one page is used for another.

Addresses are virtual unless they are called physical, pfns are physical
addresses in units of 4 KiB, ranges are pairs of the first and last physical
address (inclusive, as in struct range), and a "vmemmap page" is 4 KiB of
virtual memory that holds struct pages. x86-64 only.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from drgn import Architecture, FaultError, Object, Platform, Program, cast, sizeof
from drgn.helpers.linux.mm import follow_phys, pfn_to_page
from drgn.helpers.linux.xarray import xa_for_each

__all__ = (
    "FRAME",
    "PRESENT",
    "PSE",
    "Step",
    "audit",
    "entry_of",
    "expected_names",
    "for_each_pgmap",
    "open_core",
    "open_qemu",
    "path_of",
    "root_of",
    "walk",
)

PAGE_SIZE = 4096
_PGMAP_ALTMAP_VALID = 1

#: of x86-64 page-table entries
PRESENT, PSE = 1 << 0, 1 << 7
FRAME = ((1 << 52) - 1) & ~(PAGE_SIZE - 1)


class Step(NamedTuple):
    """An entry on the way down the page tables."""

    #: log2 of the bytes that it covers
    shift: int
    #: its physical address
    at: int
    entry: int


def walk(read: Callable[[int], int], root: int, top: int, address: int) -> Iterator[Step]:
    """
    Go down the page tables, to a leaf or to an entry that is not present.

    :param read: reads a word at a physical address
    :param root: physical address of the top-level table
    :param top: log2 of what an entry of it covers: 48 with five levels, else 39
    """
    table = root
    for shift in range(top, 11, -9):
        at = table + (address >> shift & 511) * 8
        entry = read(at)
        yield Step(shift, at, entry)
        if not entry & PRESENT or (shift in (21, 30) and entry & PSE):
            return
        table = entry & FRAME


def root_of(prog: Program) -> tuple[int, int]:
    """Return the physical address of the top-level table, and log2 of what its entries cover."""
    match = re.search(rb"^NUMBER\(pgtable_l5_enabled\)=(\d+)$", prog["VMCOREINFO"].string_(), re.M)
    mm = prog["init_mm"]
    root = int(follow_phys(mm.address_of_(), mm.pgd.value_()).value_())
    return root, 48 if match and int(match[1]) else 39


def path_of(prog: Program, address: int) -> list[Step]:
    """Go down the kernel's page tables."""
    return list(walk(lambda at: prog.read_u64(at, True), *root_of(prog), address))


def entry_of(prog: Program, address: int) -> tuple[int, int, int] | None:
    """
    Find the leaf entry that maps a kernel address.

    :return: physical address of the entry, its value, and the bytes that it
        maps; ``None`` if there is none
    """
    shift, at, entry = path_of(prog, address)[-1]
    return (at, entry, 1 << shift) if entry & PRESENT else None


def open_core(path: Path | str, vmlinux: Path | str) -> Program:
    """
    Open a dump of a guest with debugging information.

    :param vmlinux: of the very same build
    """
    # QEMU leaves the machine out of a kdump's header.
    prog = Program(platform=Platform(Architecture.X86_64))
    prog.set_core_dump(str(path))
    return _load_debug_info(prog, vmlinux)


def open_qemu(address: str, vmlinux: Path | str) -> Program:
    """
    Attach to a running guest.

    :param address: path of a QMP socket that nobody else is connected to
    """
    prog = Program()
    prog.set_qemu_qmp(address)
    return _load_debug_info(prog, vmlinux)


def _load_debug_info(prog: Program, vmlinux: Path | str) -> Program:
    prog.load_debug_info([str(vmlinux)])
    # A file that does not fit is only logged by drgn.
    if prog.main_module().wants_debug_file():
        raise ValueError(f"{vmlinux} is not of the kernel in question")
    return prog


def for_each_pgmap(prog: Program) -> Iterator[Object]:
    """
    Iterate over the pagemaps that are in pgmap_array, in order of address.

    :return: iterator of ``struct dev_pagemap *``
    """
    # There is an entry for each aligned piece of a range.
    seen = set()
    for _, entry in xa_for_each(prog["pgmap_array"].address_of_()):
        if entry.value_() not in seen:
            seen.add(entry.value_())
            yield cast("struct dev_pagemap *", entry)


def _enumerator(prog: Program, type_name: str, value: int) -> str | None:
    enumerators = prog.type(type_name).enumerators or ()
    return next((name for name, number in enumerators if number == value), None)


def _ranges(pgmap: Object) -> list[tuple[int, int]]:
    count = pgmap.nr_range.value_()
    ranges = [pgmap.range] if count == 1 else [pgmap.ranges[i] for i in range(count)]
    return [(r.start.value_(), r.end.value_()) for r in ranges]


def _vmemmap_shift(pgmap: Object) -> int:
    # Since Linux kernel commit c4386bd8ee3a ("mm/memremap: add ZONE_DEVICE
    # support for compound pages") (in v5.17).
    try:
        return int(pgmap.vmemmap_shift.value_())
    except AttributeError:
        return 0


def _altmap(pgmap: Object) -> dict[str, int] | None:
    if not pgmap.flags.value_() & _PGMAP_ALTMAP_VALID:
        return None
    names = ("base_pfn", "end_pfn", "reserve", "free", "align", "alloc")
    return {name: pgmap.altmap.member_(name).value_() for name in names}


def _translate(prog: Program, address: int) -> int | None:
    # The pfn that backs a vmemmap page, by drgn's own walker.
    try:
        return int(follow_phys(prog["init_mm"].address_of_(), address).value_()) // PAGE_SIZE
    except FaultError:
        return None


def _refcount(prog: Program, pfn: int) -> int | None:
    try:
        return int(pfn_to_page(prog, pfn)._refcount.counter.value_())
    except FaultError:
        return None


def _audit_pgmap(pgmap: Object, names: Mapping[int, str]) -> dict[str, Any]:
    prog = pgmap.prog_
    struct_page_size = sizeof(prog.type("struct page"))
    ranges = _ranges(pgmap)
    pfns: list[int | None] = []
    leaf_sizes: list[int | None] = []
    unreadable = 0
    for start, end in ranges:
        first = pfn_to_page(prog, start // PAGE_SIZE).value_()
        size = (end + 1 - start) // PAGE_SIZE * struct_page_size
        for address in range(first, first + size, PAGE_SIZE):
            pfn = _translate(prog, address)
            leaf_size = None
            try:
                entry = entry_of(prog, address)
            except FaultError:
                unreadable += 1
            else:
                leaf_size = entry[2] if entry else None
            # Two walkers, one result.
            assert (pfn is None) == (leaf_size is None), hex(address)
            pfns.append(pfn)
            leaf_sizes.append(leaf_size)
    entries_per_frame = Counter(pfn for pfn in pfns if pfn is not None)
    mapped = entries_per_frame.total()
    backing = len(entries_per_frame)
    return {
        "name": names.get(ranges[0][0]),
        # of the struct dev_pagemap
        "address": pgmap.value_(),
        "type": _enumerator(prog, "enum memory_type", pgmap.type.value_()),
        "vmemmap_shift": _vmemmap_shift(pgmap),
        "altmap": _altmap(pgmap),
        "ranges": ranges,
        # counted in vmemmap pages; mapped + unmapped + unreadable = all
        "vmemmap_pages": len(pfns),
        "mapped": mapped,
        "unmapped": len(pfns) - mapped - unreadable,
        "unreadable": unreadable,
        # of each vmemmap page in order of address: the pfn of the frame that
        # backs it and the bytes that its leaf entry maps, or None
        "pfns": pfns,
        "leaf_sizes": leaf_sizes,
        # frames that back the vmemmap, each counted once
        "backing": backing,
        # {entries that map a frame: frames}
        "sharing": dict(Counter(entries_per_frame.values())),
        # {pfn: page->_refcount of the frame, None if that can't be read}
        "refcounts": {pfn: _refcount(prog, pfn) for pfn in entries_per_frame},
        "saved_bytes": (mapped - backing) * PAGE_SIZE,
    }


def audit(prog: Program, names: Mapping[int, str] | None = None) -> list[dict[str, Any]]:
    """
    Describe every pagemap of a kernel.

    :param names: what :func:`expected_names` returned for this guest
    :return: in order of address; the keys are explained where they are made
    """
    return [_audit_pgmap(pgmap, names or {}) for pgmap in for_each_pgmap(prog)]


def expected_names(iomem: str, namespaces: Sequence[Mapping[str, Any]]) -> dict[int, str]:
    """
    Return what user space calls the device at the start of a pagemap's range.

    :param iomem: contents of the guest's ``/proc/iomem``
    :param namespaces: what ``ndctl list --namespaces`` printed, decoded
    :return: ``{physical address: name}``, such as ``dax0.0`` or ``pmem4``
    """
    # A namespace with a driver has a device node. What has no namespace is a
    # dax device of its own (hmem, CXL).
    nodes = {
        namespace["dev"]: namespace.get("chardev") or namespace["blockdev"]
        for namespace in namespaces
        if "chardev" in namespace or "blockdev" in namespace
    }
    names: dict[int, str] = {}
    for start, name in re.findall(
        r"^ *([0-9a-f]+)-[0-9a-f]+ : ((?:namespace|dax)\d+\.\d+)$", iomem, re.M
    ):
        if name in nodes:
            names[int(start, 16)] = nodes[name]
        elif name.startswith("dax") and name not in nodes.values():
            names[int(start, 16)] = name
    return names
