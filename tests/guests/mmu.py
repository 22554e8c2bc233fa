# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The witness for guests of any architecture: what QEMU's MMU and the guest itself say.

In: a running :class:`~tests.guests.guest.Guest`. Out: a plain dictionary, which can
be kept as JSON. Which frame backs a page of the memory map is asked of the
processor that QEMU emulates, page by page (``gva2gpa``). Where the memory map and
the devices are is what ``/proc/kcore``, ``/proc/iomem`` and sysfs of the guest say,
which pages are huge is what ``/proc/kpageflags`` says. No type, no debugging
information and nothing of the package under test is used.

Addresses and sizes are in bytes; pfns are physical addresses in units of the
kernel's page size; ranges are pairs of the first and last address (inclusive).
"""

from __future__ import annotations

import base64
import gzip
import re
import struct
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from .devices import Placed
from .guest import Guest, GuestError

__all__ = ("byte_order", "witness")

#: bits of ``/proc/kpageflags``
_HEAD, _TAIL, _HUGE = 1 << 15, 1 << 16, 1 << 17
_PT_LOAD = 1
#: p_paddr of what is not RAM in ``/proc/kcore``
_NOT_RAM = (1 << 64) - 1
#: pages whose flags are read at once
_FLAGS_BLOCK = 8192
#: times that an address must be unmapped
_ATTEMPTS = 4


def _file(guest: Guest, command: str) -> bytes:
    # What a command of the guest prints, which may be anything.
    output = guest.run(f"{command} 2>/dev/null | gzip -1 | base64 -w 0").stdout
    return gzip.decompress(base64.b64decode(output))


def _number(note: str, key: str) -> int:
    match = re.search(rf"^{re.escape(key)}=(\d+)$", note, re.M)
    if match is None:
        raise GuestError(f"the guest's VMCOREINFO has no {key}")
    return int(match[1])


def byte_order(guest: Guest) -> str:
    """Return the byte order of a guest's kernel, as :mod:`struct` spells it."""
    return ">" if guest.kernel.arch == "s390x" else "<"


class _Kcore(NamedTuple):
    # Segments of /proc/kcore: virtual and physical address, length.
    ram: list[tuple[int, int, int]]
    other: list[tuple[int, int, int]]


def _kcore(guest: Guest) -> _Kcore:
    order = byte_order(guest)
    header = _file(guest, "dd if=/proc/kcore bs=64k count=1")
    (offset,) = struct.unpack_from(order + "Q", header, 32)
    size, count = struct.unpack_from(order + "HH", header, 54)
    ram: list[tuple[int, int, int]] = []
    other: list[tuple[int, int, int]] = []
    for index in range(count):
        kind, _, _, start, at, length = struct.unpack_from(
            order + "IIQQQQ", header, offset + index * size
        )
        if kind == _PT_LOAD:
            (other if at == _NOT_RAM else ram).append((start, at, length))
    return _Kcore(ram, other)


def _memory_map(kcore: _Kcore, page_size: int, struct_page_size: int) -> int:
    # Address of the struct page of frame 0. For each piece of RAM, kcore has a segment,
    # and one of as many struct pages.
    ram, other = kcore
    votes: Counter[int] = Counter()
    for _, at, length in ram:
        first = at // page_size * struct_page_size
        last = (at + length) // page_size * struct_page_size
        start = first // page_size * page_size
        end = -(-last // page_size) * page_size
        for address, _, bytes_ in other:
            if bytes_ == end - start:
                votes[(address - start) % (1 << 64)] += 1
    if not votes:
        raise GuestError(f"the guest's kcore has no memory map: {ram} {other}")
    ((base, most),) = votes.most_common(1)
    if list(votes.values()).count(most) > 1:
        raise GuestError(f"the guest's kcore is ambiguous: {votes}")
    return base


def _resources(iomem: str, name: str) -> list[tuple[int, int]]:
    # Ranges of a name in /proc/iomem, inclusive.
    found = re.findall(rf"^ *([0-9a-f]+)-([0-9a-f]+) : {re.escape(name)}$", iomem, re.M)
    return [(int(start, 16), int(end, 16)) for start, end in found]


def _boot_memory(guest: Guest, ram: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    # What the kernel took for memory when it booted: whole memory blocks, adjacent ones as one.
    command = "cd /sys/devices/system/memory 2>/dev/null && cat block_size_bytes memory*/phys_index"
    lines = guest.run(command, check=False).stdout.split()
    if len(lines) < 2:
        return [(ram[0][0], ram[-1][1])]
    size, *indices = [int(line, 16) for line in lines]
    merged: list[tuple[int, int]] = []
    for index in sorted(indices):
        start, end = index * size, (index + 1) * size - 1
        if merged and merged[-1][1] + 1 == start:
            start = merged.pop()[0]
        merged.append((start, end))
    return merged


def _ask(guest: Guest, addresses: Sequence[int], page_size: int) -> list[int | None]:
    # The pfn behind each address, None where nothing is mapped. The processor is asked as it
    # is at that moment: while it runs a process, it may not have the kernel's addresses (one
    # answer of 2048 was wrong in some boots of s390x and ppc64). So "Unmapped" holds if it is
    # said each time.
    frames: dict[int, int | None] = dict.fromkeys(addresses)
    for attempt in range(_ATTEMPTS):
        left = [address for address, frame in frames.items() if frame is None]
        if attempt and left:
            time.sleep(0.2)
        frames |= zip(left, _ask_once(guest, left, page_size), strict=True)
    return [frames[address] for address in addresses]


def _ask_once(guest: Guest, addresses: Sequence[int], page_size: int) -> list[int | None]:
    if not addresses:
        return []
    with guest.monitor() as monitor:
        answers = monitor([f"gva2gpa {address:#x}" for address in addresses])
    frames: list[int | None] = []
    for address, answer in zip(addresses, answers, strict=True):
        match = re.fullmatch(r"(?:gpa: (0x[0-9a-f]+)|Unmapped)\s*", answer)
        if match is None:
            raise GuestError(f"gva2gpa {address:#x}: {answer!r}")
        frames.append(int(match[1], 16) // page_size if match[1] else None)
    return frames


def _described(placed: Placed, guest: Guest, iomem: str, page_size: int) -> dict[str, Any]:
    # The pagemap of a device: all that the kernel reserved for it, its info block included.
    ranges = _resources(iomem, placed.name)
    if placed.namespace:
        ranges += _resources(iomem, placed.namespace)
    start, end = min(first for first, _ in ranges), max(last for _, last in ranges)
    if start != placed.start:
        raise GuestError(f"{placed.name} is not where it was: {ranges}")
    align = page_size
    if placed.device.mode == "devdax":
        align = int(guest.run(f"cat /sys/bus/dax/devices/{placed.name}/align").stdout)
    return {
        "name": placed.name,
        "mode": placed.device.mode,
        "map": placed.device.map,
        "align": align,
        "vmemmap_shift": (align // page_size).bit_length() - 1,
        "range": [start, end],
    }


def _mark_writable(guest: Guest, ranges: Sequence[dict[str, Any]], page_size: int) -> None:
    # How many pages of each memory map the kernel can write to, where QEMU prints its tables.
    if guest.kernel.arch != "riscv64":
        return
    with guest.monitor() as monitor:
        (table,) = monitor(["info mem"])
    writable = [
        range(int(start, 16), int(start, 16) + int(size, 16))
        for start, size, flags in re.findall(
            r"^([0-9a-f]{16}) [0-9a-f]{16} ([0-9a-f]{16}) ([-rwxugad]+)\s*$", table, re.M
        )
        if "w" in flags
    ]
    for one in ranges:
        first = one["first"] // page_size * page_size
        pages = range(first, first + len(one["frames"]) * page_size, page_size)
        one["writable"] = sum(any(page in part for part in writable) for page in pages)


def _huge_pages(guest: Guest, ram: Sequence[tuple[int, int]], page_size: int) -> list[list[int]]:
    # Heads of HugeTLB pages: [pfn, number of pages].
    first, last = ram[0][0] // page_size, ram[-1][1] // page_size
    skip = first // _FLAGS_BLOCK
    count = last // _FLAGS_BLOCK + 1 - skip
    size = _FLAGS_BLOCK * 8
    content = _file(guest, f"dd if=/proc/kpageflags bs={size} skip={skip} count={count}")
    flags = [one for (one,) in struct.iter_unpack(byte_order(guest) + "Q", content)]
    heads: list[list[int]] = []
    for index, one in enumerate(flags):
        if one & _HUGE and one & _HEAD:
            heads.append([skip * _FLAGS_BLOCK + index, 1])
        elif one & _HUGE and one & _TAIL:
            heads[-1][1] += 1
    return heads


def _backing(frames: Sequence[int | None]) -> dict[str, Any]:
    entries = Counter(pfn for pfn in frames if pfn is not None)
    return {
        "mapped": entries.total(),
        "unmapped": len(frames) - entries.total(),
        "backing": len(entries),
        # [entries that map a frame, frames]
        "sharing": sorted(Counter(entries.values()).items()),
        "frames": list(frames),
    }


def witness(guest: Guest, *, pause: bool = False) -> dict[str, Any]:
    """
    Describe the memory map of a guest.

    :param pause: leave the guest stopped, so that a dump shows the same
    :return: the keys are explained where they are made
    """
    note = guest.vmcoreinfo().decode()
    page_size, struct_page_size = _number(note, "PAGESIZE"), _number(note, "SIZE(page)")
    kcore = _kcore(guest)
    base = _memory_map(kcore, page_size, struct_page_size)
    # The kernel's image is in a small one of its own on some architectures.
    mapped_at, paddr, _ = max(kcore.ram, key=lambda one: one[2])
    report = guest.report()
    ram = _resources(report.iomem, "System RAM")
    pgmaps = [_described(one, guest, report.iomem, page_size) for one in guest.devices]
    pgmaps.sort(key=lambda one: one["range"])
    huge = [
        {"pages": pages, "range": [pfn * page_size, (pfn + pages) * page_size - 1]}
        for pfn, pages in _huge_pages(guest, ram, page_size)
    ]
    pieces = [{"range": [ram[0][0], ram[-1][1]]}]
    boot = [{"range": list(part)} for part in _boot_memory(guest, ram)]
    if pause:
        guest.execute("stop")
    known: dict[int, int | None] = {}
    for one in (*pgmaps, *pieces, *boot, *huge):
        start, end = one["range"]
        first = base + start // page_size * struct_page_size
        last = base + (end + 1) // page_size * struct_page_size
        one["first"] = first % (1 << 64)
        # Sums may pass the end of the address space.
        aligned = range(first // page_size * page_size, last, page_size)
        pages = [page % (1 << 64) for page in aligned]
        unknown = [page for page in pages if page not in known]
        known.update(zip(unknown, _ask(guest, unknown, page_size), strict=True))
        one.update(_backing([known[page] for page in pages]))
    _mark_writable(guest, huge, page_size)
    return {
        "release": guest.release,
        "arch": guest.kernel.arch,
        "page_size": page_size,
        "struct_page_size": struct_page_size,
        # address of the struct page of frame 0
        "vmemmap": base,
        # of physical address 0, where the kernel maps all memory
        "direct_map": (mapped_at - paddr) % (1 << 64),
        # In each of these, "first" is the address of the first struct page and "frames"
        # has the pfn of what backs each page of struct pages, or None.
        "pgmaps": pgmaps,
        # all between the first and the last byte of RAM, with the holes in it
        "ram": pieces,
        "ram_ranges": ram,
        # what the kernel took for memory when it booted: firmware's, too, and the rest of
        # a section
        "boot": boot,
        # each HugeTLB page; "writable" are the pages of it that the kernel can write to,
        # as far as QEMU says so
        "hugetlb": huge,
        "iomem": report.iomem,
        "namespaces": report.namespaces,
        "dax": report.dax,
        # counters of /proc/vmstat
        "memmap": report.memmap,
    }
