# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Architectures that can be simulated: what differs from x86-64.

The simulator keeps page tables in the format of x86-64, and addresses where x86-64 has
them. A dump of another architecture whose tables have the same geometry (pages of 4 KiB,
9 bits of index a level) has each entry in that architecture's format, and the keys of
VMCOREINFO that say where the tables are.

Sources: ``arch/arm64/include/asm/pgtable-hwdef.h``, ``arch/riscv/include/asm/pgtable-64.h``,
``pgtable-bits.h``, and the ``vmcore_info.c`` (``crash_core.c``) of each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .pagetable import ADDRESS, NX, PRESENT, PSE, RW
from .units import PAGE_SHIFT

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .addresses import AddressSpace
    from .memory import Words

    Flags = NDArray[np.bool_]

__all__ = ("ARCHITECTURES", "SimulatedArch")


@dataclass(frozen=True)
class SimulatedArch:
    """What the kernel does on one architecture."""

    #: as ELF dumps call it
    name: str
    #: levels of page tables that there can be
    levels: tuple[int, ...]
    #: ARCH_WANT_OPTIMIZE_DAX_VMEMMAP
    deduplicates: bool
    #: ``vmemmap_populate()`` has large leaves for parts of sections, too
    leaves_in_parts: bool
    #: base pages for parts of sections come from the altmap, too
    altmap_in_parts: bool
    #: there is a PAGE_KERNEL_RO
    read_only: bool
    #: converts a table of the last level, or of another
    convert: Callable[[Words, bool], Words]
    #: the keys of VMCOREINFO that only this architecture has
    keys: Callable[[AddressSpace, int], list[str]]


def _x86_64_keys(addresses: AddressSpace, pgd: int) -> list[str]:
    return []


def _riscv64(entry: Words, last: bool) -> Words:
    present, leaf = _kinds(entry, last)
    flags = np.where(leaf, np.uint64(0xE3), np.uint64(1))
    flags |= np.where(leaf & (entry & np.uint64(RW) != 0), np.uint64(1 << 2), np.uint64(0))
    flags |= np.where(leaf & (entry & np.uint64(NX) == 0), np.uint64(1 << 3), np.uint64(0))
    pfn = (entry & np.uint64(ADDRESS)) >> np.uint64(PAGE_SHIFT)
    found: Words = np.where(present, pfn << np.uint64(10) | flags, entry & ~np.uint64(PRESENT))
    return found


def _riscv64_keys(addresses: AddressSpace, pgd: int) -> list[str]:
    end = addresses.pfn_to_page(1 << addresses.max_physmem_bits - PAGE_SHIFT)
    return [
        f"NUMBER(VA_BITS)={12 + 9 * addresses.levels}",
        f"NUMBER(VMEMMAP_START)={addresses.vmemmap_base:#x}",
        f"NUMBER(VMEMMAP_END)={end:#x}",
        f"NUMBER(va_kernel_pa_offset)={addresses.text - addresses.text_phys:#x}",
    ]


def _arm64(entry: Words, last: bool) -> Words:
    present, leaf = _kinds(entry, last)
    # PTE_AF, inner shareable, PTE_UXN; a block has bit 1 clear.
    block = 0x0040_0000_0000_0701 | (2 if last else 0)
    flags = np.where(leaf, np.uint64(block), np.uint64(3))
    written = entry & np.uint64(RW) != 0
    flags |= np.where(leaf & written, np.uint64(1 << 51), np.uint64(0))
    flags |= np.where(leaf & ~written, np.uint64(1 << 7), np.uint64(0))
    flags |= np.where(leaf & (entry & np.uint64(NX) != 0), np.uint64(1 << 53), np.uint64(0))
    address = entry & np.uint64(ADDRESS & (1 << 48) - 1)
    found: Words = np.where(present, address | flags, entry & ~np.uint64(PRESENT))
    return found


def _arm64_keys(addresses: AddressSpace, pgd: int) -> list[str]:
    end = addresses.pfn_to_page(1 << addresses.max_physmem_bits - PAGE_SHIFT)
    return [
        "NUMBER(VA_BITS)=48",
        "NUMBER(TCR_EL1_T1SZ)=0x10",
        f"NUMBER(VMEMMAP_START)={addresses.vmemmap_base:#x}",
        f"NUMBER(VMEMMAP_END)={end:#x}",
        f"NUMBER(kimage_voffset)={addresses.text - addresses.text_phys:#x}",
        "NUMBER(PHYS_OFFSET)=0x0",
    ]


def _kinds(entry: Words, last: bool) -> tuple[Flags, Flags]:
    """Return which entries are present, and which of them are leaves."""
    present = entry & np.uint64(PRESENT) != 0
    return present, present if last else present & (entry & np.uint64(PSE) != 0)


ARCHITECTURES = {
    "x86_64": SimulatedArch(
        name="x86_64",
        levels=(4, 5),
        deduplicates=True,
        leaves_in_parts=False,
        altmap_in_parts=False,
        read_only=True,
        convert=lambda entry, last: entry,
        keys=_x86_64_keys,
    ),
    "riscv64": SimulatedArch(
        name="riscv64",
        levels=(4, 5),
        deduplicates=True,
        leaves_in_parts=True,
        altmap_in_parts=False,
        read_only=False,
        convert=_riscv64,
        keys=_riscv64_keys,
    ),
    "arm64": SimulatedArch(
        name="arm64",
        levels=(4,),
        deduplicates=False,
        leaves_in_parts=False,
        altmap_in_parts=True,
        read_only=True,
        convert=_arm64,
        keys=_arm64_keys,
    ),
}
