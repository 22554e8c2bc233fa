# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Architectures that can be simulated: what differs from x86-64.

The simulator keeps the entries of page tables in the format of x86-64. A dump of another
architecture has each entry in that architecture's format, and the keys of VMCOREINFO that
say where the tables are. Where an architecture's own memory layout does not matter to its
page tables, addresses are where x86-64 has them.

Sources: ``Kconfig``, ``asm/page.h``, ``asm/pgtable.h``, ``asm/sparsemem.h``, ``mm/init.c`` and
``vmcore_info.c`` (``crash_core.c``) of each; :mod:`.entry_formats` has those of the entries.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from random import Random
from typing import TYPE_CHECKING

from .addresses import AddressSpace, place_image, randomize
from .entry_formats import LOONGARCH_WINDOW, arm64, loongarch64, ppc64, riscv64, s390x
from .units import GIB, Units

if TYPE_CHECKING:
    from .kernel_image import KernelImage
    from .memory import Words

__all__ = ("ARCHITECTURES", "SimulatedArch")

#: shift, and log2 of the entries of a table, of each level, top level first
Shape = tuple[tuple[int, int], ...]


def _nothing(image: KernelImage) -> None:
    """Define no variables."""


@dataclass(frozen=True)
class SimulatedArch:
    """What the kernel does on one architecture."""

    #: as ``uname -m`` prints it, and as ELF files name it
    name: str
    elf: str
    units: Units
    #: levels of page tables that there can be -> their shape
    levels: Mapping[int, Shape]
    #: chooses addresses: levels, end of physical memory, end of the RAM that the image must fit
    #: in, both in bytes
    addresses: Callable[[int, int, int, Random], AddressSpace]
    #: the keys of VMCOREINFO that only this architecture has, from addresses of symbols
    keys: Callable[[AddressSpace, Mapping[str, int]], list[str] | None]
    #: converts entries of a table whose entries cover ``1 << shift`` bytes, of the last level or
    #: of another; ``None``: they have this format
    convert: Callable[[Words, int, bool], Words] | None = None
    #: e_machine, if the ELF files are not those of ``elf``
    machine: int | None = None
    #: directory entries that are empty point to a table without entries (``invalid_pte_table``)
    invalid_tables: bool = False
    #: byte order of entries, as numpy writes it
    entries: str = "<u8"
    #: the kernels that it can be simulated with; empty: all
    kernels: tuple[str, ...] = ()
    #: ARCH_WANT_OPTIMIZE_DAX_VMEMMAP, and ARCH_WANT_HUGETLB_PAGE_OPTIMIZE_VMEMMAP
    deduplicates: bool = False
    hvo: bool = True
    #: ``vmemmap_populate()`` has large leaves for parts of sections, too
    leaves_in_parts: bool = False
    #: it marks what of them is not used (PAGE_UNUSED)
    marks_unused: bool = False
    #: it goes on with base pages if the altmap has no room for a large leaf
    falls_back: bool = False
    #: base pages for parts of sections come from the altmap, too
    altmap_in_parts: bool = False
    #: the vmemmap is populated by :mod:`.radix`
    radix: bool = False
    #: HAVE_BOOTMEM_INFO_NODE
    bootmem_info: bool = False
    #: there is a PAGE_KERNEL_RO
    read_only: bool = True
    #: RAM and the image are in page tables, not in a window of the CPU
    maps_memory: bool = True
    #: processes' top-level tables have copies of the kernel's entries
    copies_entries: bool = False
    #: POISON_POINTER_DELTA
    poison: int = 0xDEAD_0000_0000_0000
    #: defines variables that only this architecture has
    define: Callable[[KernelImage], None] = field(default=_nothing)

    @property
    def off(self) -> tuple[str, ...]:
        """Options (:mod:`.options`) that it lacks."""
        return () if self.hvo else ("HUGETLB_PAGE_OPTIMIZE_VMEMMAP",)


def _shape(top: int, page_shift: int = 12, bits: int = 9) -> Shape:
    """Return levels of tables of a page each; the top level translates the rest of ``top`` bits."""
    shifts = range(page_shift, top, bits)
    return tuple((shift, min(bits, top - shift)) for shift in reversed(shifts))


def _x86_64_keys(addresses: AddressSpace, symbols: Mapping[str, int]) -> None:
    """Those of x86-64 are between the others."""


def _riscv64_keys(addresses: AddressSpace, symbols: Mapping[str, int]) -> list[str]:
    return [
        f"NUMBER(VA_BITS)={12 + 9 * addresses.levels}",
        f"NUMBER(VMEMMAP_START)={addresses.vmemmap_base:#x}",
        f"NUMBER(VMEMMAP_END)={addresses.vmemmap_end:#x}",
        f"NUMBER(va_kernel_pa_offset)={addresses.text - addresses.text_phys:#x}",
    ]


def _riscv64_addresses(levels: int, end: int, ram_end: int, random: Random) -> AddressSpace:
    """Sv39 as Documentation/arch/riscv/vm-layout.rst has it; its direct map holds 128 GiB."""
    found = randomize(max(levels, 4), end, ram_end, random)
    if levels > 3:
        return found
    return replace(
        found,
        levels=levels,
        max_physmem_bits=37,
        page_offset_base=0xFFFF_FFD6_0000_0000,
        vmalloc_base=0xFFFF_FFC6_0000_0000,
        vmemmap_base=0xFFFF_FFC5_0000_0000,
    )


def _arm64_keys(addresses: AddressSpace, symbols: Mapping[str, int]) -> list[str]:
    return [
        "NUMBER(VA_BITS)=48",
        "NUMBER(TCR_EL1_T1SZ)=0x10",
        f"NUMBER(VMEMMAP_START)={addresses.vmemmap_base:#x}",
        f"NUMBER(VMEMMAP_END)={addresses.vmemmap_end:#x}",
        f"NUMBER(kimage_voffset)={addresses.text - addresses.text_phys:#x}",
        "NUMBER(PHYS_OFFSET)=0x0",
    ]


def _arm64_addresses(levels: int, end: int, ram_end: int, random: Random) -> AddressSpace:
    return replace(randomize(4, end, ram_end, random), levels=levels)


#: MMU_FTR_TYPE_RADIX and MMU_FTR_HPTE_TABLE, and OFFSET(cpu_spec.mmu_features)
_RADIX_MMU = 0x41
_MMU_FEATURES = 20


def _ppc64_keys(addresses: AddressSpace, symbols: Mapping[str, int]) -> list[str]:
    return [
        f"SYMBOL(cur_cpu_spec)={symbols['cur_cpu_spec']:x}",
        f"OFFSET(cpu_spec.mmu_features)={_MMU_FEATURES}",
        # early_radix_enabled()
        "NUMBER(RADIX_MMU)=1",
    ]


def _ppc64_variables(image: KernelImage) -> None:
    spec = image.room("data", 64)
    image.memory.write_int(spec + _MMU_FEATURES, _RADIX_MMU, 4)
    image.define_word("cur_cpu_spec", spec)


def _ppc64_addresses(levels: int, end: int, ram_end: int, random: Random) -> AddressSpace:
    """``radix.h``; the image lies in the direct map."""
    base, physical = 0xC000_0000_0000_0000, place_image(ram_end, random)
    return AddressSpace(
        levels=levels,
        max_physmem_bits=46,
        page_offset_base=base,
        vmalloc_base=0xC008_0000_0000_0000,
        vmemmap_base=0xC00C_0000_0000_0000,
        text=base + physical,
        text_phys=physical,
        modules=0xC008_0000_0010_0000,
        kernel_offset=physical,
    )


def _s390x_keys(addresses: AddressSpace, symbols: Mapping[str, int]) -> list[str]:
    return [
        f"SYMBOL(lowcore_ptr)={symbols['lowcore_ptr']:x}",
        f"KERNELOFFPHYS={addresses.text_phys:x}",
    ]


def _s390x_variables(image: KernelImage) -> None:
    addresses = image.memory.addresses
    image.define("lowcore_ptr", 8 * 512, "bss")
    image.define_word("VMALLOC_START", addresses.vmalloc_base)
    # A page each, between the vmemmap and vmalloc space (setup_kernel_memory_layout()).
    image.define_word("__memcpy_real_area", addresses.vmalloc_base - GIB)
    image.define_word("__abs_lowcore", addresses.vmalloc_base - GIB // 2)


def _s390x_addresses(levels: int, end: int, ram_end: int, random: Random) -> AddressSpace:
    """
    ``arch/s390/boot/startup.c: setup_kernel_memory_layout()``: from the top down the image,
    modules, vmalloc space and the vmemmap; all memory is mapped where it is.
    """
    top = 1 << 20 + 11 * (levels - 1)
    text = top - 2 * GIB + (random.randrange(64) << 20)
    bits = 46 if levels > 3 else 40
    vmalloc = text - (top >> 4)
    return AddressSpace(
        levels=levels,
        max_physmem_bits=bits,
        page_offset_base=0,
        vmalloc_base=vmalloc,
        vmemmap_base=(vmalloc - GIB >> 40 << 40) - (64 << bits - 12),
        text=text,
        text_phys=place_image(ram_end, random),
        modules=text - GIB,
        kernel_offset=text,
    )


_RISCV64 = SimulatedArch(
    name="riscv64",
    elf="riscv64",
    units=Units(),
    levels={3: _shape(39), 4: _shape(48), 5: _shape(57)},
    addresses=_riscv64_addresses,
    deduplicates=True,
    leaves_in_parts=True,
    bootmem_info=True,
    read_only=False,
    copies_entries=True,
    convert=riscv64,
    keys=_riscv64_keys,
)
_ARM64 = SimulatedArch(
    name="arm64",
    elf="arm64",
    units=Units(),
    levels={4: _shape(48)},
    addresses=_arm64_addresses,
    altmap_in_parts=True,
    bootmem_info=True,
    convert=arm64,
    keys=_arm64_keys,
)
_PPC64LE = SimulatedArch(
    name="ppc64le",
    elf="ppc64le",
    # SECTION_SIZE_BITS 24
    units=Units(section_bits=24),
    levels={4: ((39, 13), (30, 9), (21, 9), (12, 9))},
    addresses=_ppc64_addresses,
    # 6.1 does not deduplicate yet.
    kernels=("6.12", "7.2", "next"),
    deduplicates=True,
    hvo=False,
    leaves_in_parts=True,
    falls_back=True,
    altmap_in_parts=True,
    radix=True,
    convert=ppc64(12),
    entries=">u8",
    keys=_ppc64_keys,
    # CONFIG_ILLEGAL_POINTER_VALUE
    poison=0x5DEA_DBEE_F000_0000,
    define=_ppc64_variables,
)


def _loongarch64_keys(addresses: AddressSpace, symbols: Mapping[str, int]) -> list[str]:
    # There is no arch_crash_save_vmcoreinfo().
    return []


def _loongarch64_variables(image: KernelImage) -> None:
    """``arch/loongarch/mm/init.c: pagetable_init()``: what empty directory entries point to."""
    size = image.memory.units.page_size
    last = image.define("invalid_pte_table", size, "bss", size)
    image.memory.write(last, bytes(size))
    upper = image.define("invalid_pmd_table", size, "bss", size)
    image.memory.write(upper, last.to_bytes(8, image.memory.units.order) * (size // 8))


def _loongarch64_addresses(levels: int, end: int, ram_end: int, random: Random) -> AddressSpace:
    """``asm/addrspace.h``: image and direct map in a window of the CPU, the rest in page tables."""
    physical = place_image(ram_end, random)
    return AddressSpace(
        levels=levels,
        # 48; but the tables of holes are there, and take long to go through.
        max_physmem_bits=43,
        page_offset_base=LOONGARCH_WINDOW,
        vmalloc_base=0xFFFF_8000_2000_0000,
        vmemmap_base=0xFFFF_8A00_0000_0000,
        text=LOONGARCH_WINDOW + physical,
        text_phys=physical,
        modules=0xFFFF_8000_0010_0000,
        kernel_offset=0,
    )


#: by what a scenario calls them: with the size of base pages where there are several
ARCHITECTURES = {
    "x86_64": SimulatedArch(
        name="x86_64",
        elf="x86_64",
        units=Units(),
        levels={4: _shape(48), 5: _shape(57)},
        addresses=randomize,
        deduplicates=True,
        marks_unused=True,
        bootmem_info=True,
        copies_entries=True,
        keys=_x86_64_keys,
    ),
    "riscv64": _RISCV64,
    "arm64": _ARM64,
    "arm64-16k": replace(
        _ARM64,
        units=Units(page_shift=14, pmd_shift=25, pud_shift=36, large_leaves=False),
        levels={4: _shape(48, 14, 11)},
    ),
    "arm64-64k": replace(
        _ARM64,
        # SECTION_SIZE_BITS is 29 with these
        units=Units(page_shift=16, section_bits=29, pmd_shift=29, pud_shift=42, large_leaves=False),
        levels={3: _shape(48, 16, 13)},
    ),
    "ppc64le": _PPC64LE,
    "ppc64le-64k": replace(
        _PPC64LE,
        units=Units(page_shift=16, section_bits=24),
        levels={4: ((39, 13), (30, 9), (21, 9), (16, 5))},
        convert=ppc64(16),
    ),
    # The worked example of docs/architectures.md: the audits refuse it.
    "loongarch64": SimulatedArch(
        name="loongarch64",
        # kdumpling does not know it: the machine's number is written over.
        elf="riscv64",
        machine=258,
        units=Units(page_shift=14, section_bits=29, pmd_shift=25, pud_shift=36),
        levels={3: _shape(47, 14, 11)},
        addresses=_loongarch64_addresses,
        kernels=("7.2",),
        leaves_in_parts=True,
        read_only=False,
        convert=loongarch64,
        invalid_tables=True,
        maps_memory=False,
        keys=_loongarch64_keys,
        define=_loongarch64_variables,
    ),
    "s390x": SimulatedArch(
        name="s390x",
        elf="s390x",
        units=Units(section_bits=28, pmd_shift=20, pud_shift=31, order="big"),
        levels={
            3: ((31, 11), (20, 11), (12, 8)),
            4: ((42, 11), (31, 11), (20, 11), (12, 8)),
        },
        addresses=_s390x_addresses,
        # Debian's 6.1 and 6.12 have no ZONE_DEVICE.
        kernels=("7.2", "next"),
        hvo=False,
        leaves_in_parts=True,
        marks_unused=True,
        falls_back=True,
        altmap_in_parts=True,
        convert=s390x,
        entries=">u8",
        keys=_s390x_keys,
        define=_s390x_variables,
    ),
}
