# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Faults in dumps of real kernels of other architectures.

Each changes one word of a dump: an entry of a page table, in the architecture's format, or
a word of a ``struct page``. What must be found follows from the kernel's rules.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from vmemscope.target.elf import read_elf

__all__ = ("Fault", "Format", "faults_in", "planted")

#: offsets in a struct page of 64 bytes
_COMPOUND, _REFCOUNT = 8, 52


class Format(NamedTuple):
    """What of an entry's format faults need; of leaves of any level."""

    #: byte order of entries, and of the kernel
    entries: str
    kernel: str
    #: an entry of base pages that is not present
    hole: int
    #: makes an entry read-only, and one executable
    read_only: Callable[[int], int]
    executable: Callable[[int], int]


#: by the tool's names of architectures
FORMATS = {
    # PTE_RDONLY, PTE_WRITE, PTE_PXN
    "arm64": Format(
        "little", "little", 0, lambda e: (e | 1 << 7) & ~(1 << 51), lambda e: e & ~(1 << 53)
    ),
    # _PAGE_WRITE, _PAGE_EXEC
    "riscv64": Format("little", "little", 0, lambda e: e & ~(1 << 2), lambda e: e | 1 << 3),
    # _PAGE_WRITE, _PAGE_EXEC
    "ppc64le": Format("big", "little", 0, lambda e: e & ~(1 << 1), lambda e: e | 1),
    # _PAGE_INVALID, _PAGE_PROTECT, _PAGE_NOEXEC (of a segment, too)
    "s390x": Format("big", "big", 0x400, lambda e: e | 0x200, lambda e: e & ~0x100),
}


class Fault(NamedTuple):
    """A change of a dump, and the finding that it must give."""

    what: str
    #: physical address, and what is written there
    address: int
    data: bytes
    rule: str
    #: virtual address that the finding must have
    vaddr: int


def faults_in(core: Path, witness: dict[str, Any]) -> Iterator[Fault]:
    """
    Yield faults of the first device with compound pages.

    :param witness: what QEMU's MMU said of the guest
    """
    truth = next(one for one in witness["pgmaps"] if one["vmemmap_shift"] and one["map"] == "mem")
    arch = {"ppc64el": "ppc64le"}.get(witness["arch"], witness["arch"])
    form, page_size = FORMATS[arch], witness["page_size"]
    start = truth["range"][0] // page_size
    head = start + (1 << truth["vmemmap_shift"])
    on_head, on_tail = _page(core, head), _page(core, head + 1)

    leaf = on_head["walk"][-1]
    assert leaf["kind"] == "leaf"
    entry, at = int(leaf["entry"], 16), int(leaf["entry_address"], 16)
    address = int(on_head["page"]["address"], 16)
    first = address - address % leaf["size"]

    def changed(entry: int) -> bytes:
        return entry.to_bytes(8, form.entries)  # type: ignore[arg-type]

    yield Fault("hole", at, changed(form.hole), "hole", max(first, truth["first"]))
    yield Fault("read-only", at, changed(form.read_only(entry)), "read-only", first)
    yield Fault("executable", at, changed(form.executable(entry)), "executable", first)

    def word(page: dict[str, Any], offset: int, value: int, size: int = 8) -> tuple[int, bytes]:
        into = int(page["page"]["address"], 16) % page_size
        place = page["frame"]["pfn"] * page_size + into + offset
        return place, value.to_bytes(size, form.kernel)  # type: ignore[arg-type]

    yield Fault("pagemap", *word(on_head, _COMPOUND, 0xDEAD0000), "pgmap-link", address)
    tail = int(on_tail["page"]["address"], 16)
    yield Fault("head", *word(on_tail, _COMPOUND, tail + 1), "compound-head", tail)
    yield Fault("count", *word(on_tail, _REFCOUNT, 5, 4), "page-refcount", tail)


@contextmanager
def planted(core: Path, fault: Fault) -> Iterator[None]:
    """Have a fault in a dump, which is as it was afterwards."""
    loads, _ = read_elf(str(core))
    (place,) = {
        load.offset + fault.address - load.paddr
        for load in loads
        if load.paddr <= fault.address < load.paddr + load.filesz
    }
    core.chmod(0o600)
    with core.open("r+b") as file:
        file.seek(place)
        before = file.read(len(fault.data))
        file.seek(place)
        file.write(fault.data)
        file.flush()
        try:
            yield
        finally:
            file.seek(place)
            file.write(before)


def _page(core: Path, pfn: int) -> dict[str, Any]:
    command = ["page", "--pfn", f"{pfn:#x}", "--format", "json", "-c", str(core)]
    result = subprocess.run(
        [sys.executable, "-m", "vmemscope", *command], capture_output=True, text=True, check=True
    )
    document: dict[str, Any] = json.loads(result.stdout)
    return document
