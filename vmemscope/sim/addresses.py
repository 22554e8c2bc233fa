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

from .units import GIB, MIB

__all__ = ("IMAGE_SIZE", "STRUCT_PAGE_SIZE", "AddressSpace", "place_image", "randomize")

#: where the image would be without KASLR, less 16 MiB (``__START_KERNEL_map``)
START_KERNEL_MAP = 0xFFFF_FFFF_8000_0000
#: CONFIG_PHYSICAL_START: _text without KASLR, less __START_KERNEL_map
PHYSICAL_START = 16 * MIB
#: KERNEL_IMAGE_SIZE with RANDOMIZE_BASE; modules come after it
KERNEL_IMAGE_SIZE = GIB
MODULES_VADDR = START_KERNEL_MAP + KERNEL_IMAGE_SIZE
#: bytes of the kernel image
IMAGE_SIZE = 8 * MIB
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
    #: MAX_PHYSMEM_BITS
    max_physmem_bits: int
    page_offset_base: int
    vmalloc_base: int
    vmemmap_base: int
    #: virtual and physical address of ``_text``
    text: int
    text_phys: int
    #: where modules are
    modules: int
    #: KERNELOFFSET: how far KASLR moved the image virtually
    kernel_offset: int
    #: PAGE_SHIFT
    page_shift: int = 12
    #: sizeof(struct page)
    struct_page_size: int = STRUCT_PAGE_SIZE

    @property
    def phys_base(self) -> int:
        """x86-64: what to add to ``va - __START_KERNEL_map``; may be negative."""
        return self.text_phys - (self.text - START_KERNEL_MAP)

    def va(self, pa: int) -> int:
        """The kernel's ``__va()``."""
        return self.page_offset_base + pa

    def pa(self, va: int) -> int:
        """The kernel's ``__pa()``: for the direct map and the kernel image."""
        if self.text <= va < self.text + IMAGE_SIZE:
            return va - self.text + self.text_phys
        return va - self.page_offset_base

    def pfn_to_page(self, pfn: int) -> int:
        """Address of a frame's struct page."""
        return self.vmemmap_base + pfn * self.struct_page_size

    @property
    def vmemmap_end(self) -> int:
        """The first address after the struct pages of all frames that there can be."""
        return self.pfn_to_page(1 << self.max_physmem_bits - self.page_shift)

    def page_to_pfn(self, va: int) -> int:
        return (va - self.vmemmap_base) // self.struct_page_size

    def va_to_pfn(self, va: int) -> int:
        return self.pa(va) >> self.page_shift


def randomize(levels: int, end: int, ram_end: int, random: Random) -> AddressSpace:
    """
    Choose x86-64's bases.

    :param end: end of physical address space in use, in bytes
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
    offset = (
        2 * MIB * random.randrange((KERNEL_IMAGE_SIZE - PHYSICAL_START - IMAGE_SIZE) // (2 * MIB))
    )
    return AddressSpace(
        levels=levels,
        max_physmem_bits=_MAX_PHYSMEM_BITS[levels],
        page_offset_base=page_offset_base,
        vmalloc_base=vmalloc_base,
        vmemmap_base=vmemmap_base,
        text=START_KERNEL_MAP + PHYSICAL_START + offset,
        text_phys=place_image(ram_end, random),
        modules=MODULES_VADDR,
        kernel_offset=offset,
    )


def place_image(ram_end: int, random: Random) -> int:
    """
    Choose the physical address of the kernel image.

    :param ram_end: end of the RAM that it must fit in, in bytes
    """
    slots = max((ram_end - PHYSICAL_START - IMAGE_SIZE) // (2 * MIB) // 2, 1)
    return PHYSICAL_START + 2 * MIB * random.randrange(slots)


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
