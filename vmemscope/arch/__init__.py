# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Architectures, as data.

An :class:`Architecture` describes the kernel's page tables and how the kernel populates
the vmemmap. No code outside this package asks for the name of the architecture. A new
architecture is a new module with one :class:`Architecture`, and a line in
:data:`_MODULES` and :data:`_MARKS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple, cast

from msgspec import Struct, field

from ..errors import UnsupportedError
from ..vmcoreinfo import number

if TYPE_CHECKING:
    from drgn import Platform

__all__ = (
    "AddressBits",
    "Architecture",
    "Bits",
    "EntryFlag",
    "EntryFormat",
    "Level",
    "PageTable",
    "architecture_of",
    "architecture_of_elf",
    "architecture_of_qemu",
    "architecture_of_utsname",
    "levels_of",
    "vmcoreinfo_marks",
    "vmemmap_of_note",
)


class Bits(NamedTuple):
    """A property of page-table entries: those with ``entry & mask == value`` have it."""

    mask: int
    value: int


class AddressBits(NamedTuple):
    """Bits of an entry that hold a part of a physical address."""

    mask: int
    #: bits that they are shifted left by to be that part; negative: right
    left: int = 0


class EntryFormat(Struct, frozen=True):
    """The format of the entries of one level."""

    #: the entry maps memory or points to a table
    present: Bits
    #: a present entry points to a table: ``None`` in the last level, where all are leaves
    table: Bits | None
    #: bits of a leaf that hold the address of its first frame; the address is aligned to
    #: the leaf's size, so the bits below are ignored
    frame: tuple[AddressBits, ...]
    #: bits of a pointer that hold the address of the table
    pointer: tuple[AddressBits, ...]
    #: memory can be written to through the entry
    writable: Bits
    #: code can't be executed through the entry
    no_execute: Bits


class Level(Struct, frozen=True):
    """One level of a page table, as the kernel names it (``pgd`` ... ``pte``)."""

    name: str
    #: log2 of the bytes of virtual address space that one entry covers
    shift: int
    #: log2 of the number of entries in one table
    bits: int
    format: EntryFormat

    @property
    def entries(self) -> int:
        """Entries in one table."""
        return 1 << self.bits

    @property
    def size(self) -> int:
        """Bytes of virtual address space that one entry covers."""
        return 1 << self.shift

    @property
    def span(self) -> int:
        """Bytes of virtual address space that one table covers."""
        return 1 << (self.shift + self.bits)


class EntryFlag(NamedTuple):
    """A flag of page-table entries."""

    name: str
    mask: int
    #: whether it has this meaning in entries that point to a table, in large leaves, and
    #: in leaves of base pages
    table: bool = True
    large: bool = True
    base: bool = True


class PageTable(Struct, frozen=True):
    """The format of a kernel's page tables, and their root."""

    #: physical address of the top-level table
    root: int
    #: top level first, the level of base pages last
    levels: tuple[Level, ...]
    #: numpy dtype of an entry, with its byte order, which may be another than the kernel's
    dtype: str
    #: names of flags
    flags: tuple[EntryFlag, ...] = ()

    @property
    def page_size(self) -> int:
        """Bytes in a base page."""
        return self.levels[-1].size

    def __post_init__(self) -> None:
        if any(
            upper.shift != lower.shift + lower.bits
            for upper, lower in zip(self.levels, self.levels[1:], strict=False)
        ):
            raise ValueError("page table levels leave a gap")


#: names of levels below the top level, which is always ``pgd``
_LOWER = ("p4d", "pud", "pmd", "pte")


def vmemmap_of_note(
    vmcoreinfo: Mapping[str, str], variable: Callable[[str], int]
) -> tuple[int, int]:
    """
    Return the bounds of the vmemmap that VMCOREINFO gives (:attr:`Architecture.vmemmap`).

    ``arch/arm64/kernel/vmcore_info.c``, ``arch/riscv/kernel/vmcore_info.c``.

    :returns: first virtual address, and the one after the last
    """
    return number(vmcoreinfo, "VMEMMAP_START", 0), number(vmcoreinfo, "VMEMMAP_END", 1 << 64)


def levels_of(
    bits: int, page_shift: int, index_bits: int, upper: EntryFormat, last: EntryFormat
) -> tuple[Level, ...]:
    """
    Return the levels of a page table that is a page at each level.

    :param bits: of a virtual address that the tables translate
    :param page_shift: log2 of the bytes in a base page
    :param index_bits: log2 of the entries in a table; the top level can have fewer
    """
    count = -(-(bits - page_shift) // index_bits)
    names = ("pgd", *_LOWER[len(_LOWER) - count + 1 :])
    shifts = [page_shift + index_bits * n for n in reversed(range(count))]
    return tuple(
        Level(name, shift, min(index_bits, bits - shift), last if shift == page_shift else upper)
        for name, shift in zip(names, shifts, strict=True)
    )


class Architecture(Struct, frozen=True):
    """An architecture: what differs between architectures."""

    #: as ``uname -m`` prints it
    name: str
    #: makes the :class:`PageTable` from the keys of VMCOREINFO, and words of physical
    #: memory by address, in the byte order of ``word``
    page_table: Callable[[Mapping[str, str], Callable[[int], int]], PageTable]
    #: whether ``arch/*/Kconfig`` selects ARCH_WANT_OPTIMIZE_DAX_VMEMMAP
    #: (ARCH_WANT_HUGETLB_PAGE_OPTIMIZE_VMEMMAP before 6.6)
    optimizes_dax_vmemmap: bool
    #: bytes of a base page -> bytes of the leaf that ``vmemmap_populate()`` uses if the
    #: memory map of a section fills it
    vmemmap_leaf: Callable[[int], int]
    #: the first virtual address that can be the kernel's, with its widest page tables
    kernel_space: int
    #: first address that can be the vmemmap's, and the first after it, from the keys of
    #: VMCOREINFO and words that are variables of the kernel (0 for one that it lacks)
    vmemmap: Callable[[Mapping[str, str], Callable[[str], int]], tuple[int, int]]
    #: whether ``vmemmap_populate()`` uses large leaves for parts of sections, too
    leaves_in_parts: bool = False
    #: whether it does so only if the CPU can
    leaves_by_cpu: bool = False
    #: whether base pages of the vmemmap come from an altmap, too
    altmap_base_pages: bool = False
    #: whether compound pages of the vmemmap are laid out by their address, and not from the
    #: start of the range
    aligns_compounds: bool = False
    #: whether the kernel has a read-only protection for its own pages (PAGE_KERNEL_RO)
    read_only: bool = True
    #: whether each process has a top-level table with copies of the kernel's entries
    copies_kernel_entries: bool = False
    #: numpy dtype of an ``unsigned long`` in the kernel's memory, with its byte order
    word: str = "<u8"
    #: base of the kernel's poisoned pointers (CONFIG_ILLEGAL_POINTER_VALUE)
    poison: int = 0xDEAD_0000_0000_0000
    #: numpy dtype of a constant in the bytes of an instruction, ``None`` if instructions
    #: split constants
    constant: str | None = None
    #: addresses ``[first, end)`` that the CPU maps without page tables, to physical memory from
    #: 0 on
    windows: tuple[tuple[int, int], ...] = ()
    #: whether drgn can walk the page tables, from the keys of VMCOREINFO
    drgn_walks: Callable[[Mapping[str, str]], bool] = lambda keys: True
    #: variables that only this architecture has -> their C types, newest first
    variables: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    #: whether libkdumpfile 0.5 opens the kdump files of its kernels, QEMU's too, and translates
    #: their addresses
    libkdumpfile: bool = False
    #: names of the words in a note with a CPU's registers, separated by spaces
    registers: str = ""
    #: whether addresses in these registers, by name, are the kernel's: ``False`` if a process
    #: ran, ``None`` if they may be either's. Where no address of a process is one of the
    #: kernel's, an address says so itself.
    in_kernel: Callable[[Mapping[str, int]], bool | None] = lambda registers: True


#: drgn's ``Architecture`` name, little-endian or not -> module of this package
_MODULES = {
    ("X86_64", True): "x86_64",
    ("AARCH64", True): "arm64",
    ("RISCV64", True): "riscv64",
    ("PPC64", True): "ppc64le",
    ("S390X", False): "s390x",
}
#: drgn's ``Architecture`` name -> a VMCOREINFO key that no other architecture has
_MARKS = {
    "X86_64": "NUMBER(pgtable_l5_enabled)",
    "AARCH64": "NUMBER(kimage_voffset)",
    "RISCV64": "NUMBER(va_kernel_pa_offset)",
    "PPC64": "SYMBOL(cur_cpu_spec)",
    "S390X": "SYMBOL(lowcore_ptr)",
}


def vmcoreinfo_marks() -> Iterable[tuple[str, str]]:
    """Return drgn's name of each architecture, and a VMCOREINFO key that only it has."""
    return _MARKS.items()


#: ``machine`` of struct new_utsname -> drgn's ``Architecture`` name
_UTS_MACHINES = {
    "x86_64": "X86_64",
    "aarch64": "AARCH64",
    "riscv64": "RISCV64",
    "ppc64le": "PPC64",
    "s390x": "S390X",
}
#: QEMU's names of what it emulates -> drgn's ``Architecture`` name
_QEMU_TARGETS = {
    "x86_64": "X86_64",
    "aarch64": "AARCH64",
    "riscv64": "RISCV64",
    "ppc64": "PPC64",
    "s390x": "S390X",
}
#: e_machine of ELF files -> drgn's ``Architecture`` name
_MACHINES = {62: "X86_64", 183: "AARCH64", 243: "RISCV64", 21: "PPC64", 22: "S390X"}
#: of other machines that run Linux
_OTHER_MACHINES = {
    3: "i386",
    8: "mips",
    15: "parisc",
    20: "ppc",
    40: "arm",
    42: "sh",
    43: "sparc64",
    50: "ia64",
    258: "loongarch",
    0x9026: "alpha",
}


def architecture_of_elf(machine: int, wide: bool) -> str:
    """
    Return drgn's name of the architecture of an ELF file.

    :param machine: ``e_machine``
    :param wide: whether the file is a 64-bit file
    :raises UnsupportedError: if the architecture is not supported
    """
    if wide and machine in _MACHINES:
        return _MACHINES[machine]
    name = _OTHER_MACHINES.get(machine, _MACHINES.get(machine, f"number {machine}")).lower()
    if machine in _MACHINES:
        # The same number for both.
        name += " (32-bit)"
    elif wide and machine in (8, 258):
        name += "64"
    raise _unsupported(name)


def architecture_of_utsname(machine: str) -> str:
    """
    Return drgn's name of the architecture that a kernel calls itself.

    :param machine: as ``uname -m`` prints it, and printable
    :raises UnsupportedError: if the architecture is not supported
    """
    return _known(_UTS_MACHINES, machine)


def architecture_of_qemu(target: str) -> str:
    """
    Return drgn's name of the architecture that a QEMU emulates.

    :param target: as QMP's query-target calls it, and printable
    :raises UnsupportedError: if the architecture is not supported
    """
    return _known(_QEMU_TARGETS, target)


def _known(architectures: Mapping[str, str], name: str) -> str:
    try:
        return architectures[name]
    except KeyError:
        raise _unsupported(name) from None


def _unsupported(name: str) -> UnsupportedError:
    return UnsupportedError(
        f"architecture {name} is not supported",
        "supported: " + ", ".join(sorted(_MODULES.values())),
    )


def architecture_of(platform: Platform | None) -> Architecture:
    """
    Return the description of a platform's architecture.

    :raises UnsupportedError: if the architecture is not supported
    """
    from drgn import PlatformFlags

    name, little = "unknown", True
    if platform is not None:
        name = platform.arch.name
        little = bool(platform.flags & PlatformFlags.IS_LITTLE_ENDIAN)
    try:
        module = _MODULES[name, little]
    except KeyError:
        order = (
            ""
            if not any(known == name for known, _ in _MODULES)
            else (" (little-endian)" if little else " (big-endian)")
        )
        raise _unsupported(f"{name.lower()}{order}") from None
    return cast(Architecture, import_module(f".{module}", __name__).ARCHITECTURE)
