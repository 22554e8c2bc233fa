# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Where things are in the kernel's virtual address space, KASLR included.

Sources: Documentation/arch/x86/x86_64/mm.rst; ``arch/x86/mm/kaslr.c:
kernel_randomize_memory()``, which moves the direct map, vmalloc space and the
vmemmap by multiples of 1 GiB and keeps their order;
``arch/x86/boot/compressed/kaslr.c: choose_random_location()``, which moves the
kernel image, physically and virtually, by multiples of 2 MiB.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from .units import GIB, MIB, PAGE_SHIFT

__all__ = ("STRUCT_PAGE_SIZE", "AddressSpace", "randomize")

#: where the image would be without KASLR, less 16 MiB (``__START_KERNEL_map``)
START_KERNEL_MAP = 0xFFFF_FFFF_8000_0000
#: CONFIG_PHYSICAL_START: _text without KASLR, less __START_KERNEL_map
PHYSICAL_START = 16 * MIB
#: KERNEL_IMAGE_SIZE with RANDOMIZE_BASE; modules come after it
KERNEL_IMAGE_SIZE = GIB
MODULES_VADDR = START_KERNEL_MAP + KERNEL_IMAGE_SIZE
#: sizeof(struct page): what the positions of struct pages follow from
STRUCT_PAGE_SIZE = 64

# First address of direct map, vmalloc space and vmemmap without KASLR; bytes of
# address space from the direct map on that randomisation may use.
_BASES = {
    4: (0xFFFF_8880_0000_0000, 0xFFFF_C900_0000_0000, 0xFFFF_EA00_0000_0000),
    5: (0xFF11_0000_0000_0000, 0xFFA0_0000_0000_0000, 0xFFD4_0000_0000_0000),
}
_MAX_PHYSMEM_BITS = {4: 46, 5: 52}


@dataclass(frozen=True)
class AddressSpace:
    """Bases of one kernel's address space, as its variables hold them."""

    levels: int
    page_offset_base: int
    vmalloc_base: int
    vmemmap_base: int
    #: virtual and physical address of ``_text``
    text: int
    text_phys: int
    #: sizeof(struct page)
    struct_page_size: int = STRUCT_PAGE_SIZE

    @property
    def max_physmem_bits(self) -> int:
        return _MAX_PHYSMEM_BITS[self.levels]

    @property
    def kernel_offset(self) -> int:
        """How far KASLR moved the image virtually."""
        return self.text - START_KERNEL_MAP - PHYSICAL_START

    @property
    def phys_base(self) -> int:
        """What to add to ``va - __START_KERNEL_map``; may be negative."""
        return self.text_phys - (self.text - START_KERNEL_MAP)

    def va(self, pa: int) -> int:
        """The kernel's ``__va()``."""
        return self.page_offset_base + pa

    def pa(self, va: int) -> int:
        """The kernel's ``__pa()``: for the direct map and the kernel image."""
        if va >= START_KERNEL_MAP:
            return va - START_KERNEL_MAP + self.phys_base
        return va - self.page_offset_base

    def pfn_to_page(self, pfn: int) -> int:
        """Address of a frame's struct page."""
        return self.vmemmap_base + pfn * self.struct_page_size

    def page_to_pfn(self, va: int) -> int:
        return (va - self.vmemmap_base) // self.struct_page_size

    def va_to_pfn(self, va: int) -> int:
        return self.pa(va) >> PAGE_SHIFT


def randomize(levels: int, end: int, image_size: int, ram_end: int, random: Random) -> AddressSpace:
    """
    Choose the bases.

    :param end: end of physical address space in use, in bytes
    :param image_size: bytes of the kernel image, a multiple of 2 MiB
    :param ram_end: end of the RAM that the image must fit in, in bytes
    """
    direct_map, vmalloc, vmemmap = _BASES[levels]
    # The direct map keeps clear of vmalloc space at its unshuffled place; the
    # real kernel shrinks what it reserves to the memory there is and shuffles
    # more widely.
    rooms = (
        (vmalloc - direct_map - _round_up(end, GIB)) // GIB // 2,
        (vmemmap - vmalloc) // GIB // 2,
        (START_KERNEL_MAP - vmemmap) // GIB // 64,
    )
    page_offset_base, vmalloc_base, vmemmap_base = (
        base + random.randrange(max(room, 1)) * GIB
        for base, room in zip((direct_map, vmalloc, vmemmap), rooms, strict=True)
    )
    text = START_KERNEL_MAP + PHYSICAL_START
    text += (
        2 * MIB * random.randrange((KERNEL_IMAGE_SIZE - PHYSICAL_START - image_size) // (2 * MIB))
    )
    slots = max((ram_end - PHYSICAL_START - image_size) // (2 * MIB) // 2, 1)
    text_phys = PHYSICAL_START + 2 * MIB * random.randrange(slots)
    return AddressSpace(levels, page_offset_base, vmalloc_base, vmemmap_base, text, text_phys)


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
