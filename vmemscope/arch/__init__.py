# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Architectures, as data.

An :class:`Architecture` says how an architecture's kernel page tables are
laid out and how its vmemmap is populated; nothing outside this package asks
which architecture it is looking at. A new architecture is a new module that
fills in one :class:`Architecture` and a line in :data:`_MODULES`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple, cast

from ..errors import UnsupportedError

if TYPE_CHECKING:
    from drgn import Platform

__all__ = (
    "Architecture",
    "EntryFlag",
    "Level",
    "PageTable",
    "architecture_of",
    "vmcoreinfo_marks",
)


@dataclass(frozen=True)
class Level:
    """One level of a page table, as the kernel names it (``pgd`` ... ``pte``)."""

    name: str
    #: log2 of the bytes of virtual address space that one entry covers
    shift: int
    #: log2 of the number of entries in one table
    bits: int

    @property
    def entries(self) -> int:
        """Entries in one table."""
        return 1 << self.bits

    @property
    def size(self) -> int:
        """Bytes of virtual address space that one entry covers."""
        return 1 << self.shift


class EntryFlag(NamedTuple):
    """A flag of page-table entries, as people who read them call it."""

    name: str
    mask: int
    #: what it means that in: entries that point to a table, large leaves, base pages
    table: bool = True
    large: bool = True
    base: bool = True


@dataclass(frozen=True)
class PageTable:
    """The format of one kernel's page tables, and where their root is."""

    #: physical address of the top-level table
    root: int
    #: top level first, the level of base pages last
    levels: tuple[Level, ...]
    #: numpy dtype of an entry, with its byte order
    dtype: str
    #: an entry maps or points to something iff ``entry & present == present``
    present: int
    #: above the last level, ``entry & leaf`` tells a leaf from a pointer to a table
    leaf: int
    #: bits of an entry that hold the physical address of the table or frame
    address: int
    #: set in an entry that can be written through
    writable: int
    #: set in an entry that can't be executed from
    no_execute: int
    #: names of flags, for people
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


@dataclass(frozen=True)
class Architecture:
    """What vmemscope has to know about an architecture."""

    #: as ``uname -m`` spells it
    name: str
    #: builds the :class:`PageTable` from the VMCOREINFO keys
    page_table: Callable[[Mapping[str, str]], PageTable]
    #: whether ``arch/*/Kconfig`` selects ARCH_WANT_OPTIMIZE_DAX_VMEMMAP
    #: (ARCH_WANT_HUGETLB_PAGE_OPTIMIZE_VMEMMAP before 6.6)
    optimizes_dax_vmemmap: bool
    #: size in bytes of the leaf that ``vmemmap_populate()`` uses where the
    #: memory map of a whole section fills it
    vmemmap_leaf: int
    #: the first virtual address that can be the kernel's, with its widest page tables
    kernel_space: int
    #: virtual address in bytes that the vmemmap ends before, wherever it starts:
    #: what lies from there on is something else
    vmemmap_limit: int = 1 << 64
    #: whether each process has a top-level table with copies of the kernel's entries
    copies_kernel_entries: bool = False
    #: what the kernel's poisoned pointers are counted from (CONFIG_ILLEGAL_POINTER_VALUE)
    poison: int = 0xDEAD_0000_0000_0000
    #: numpy dtype of a constant as it stands in the bytes of an instruction, ``None``
    #: if it is not in one piece there
    constant: str | None = None
    #: variables that only this architecture has -> their C types, newest first
    variables: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


#: drgn's ``Architecture`` name -> module of this package
_MODULES = {"X86_64": "x86_64"}
#: drgn's ``Architecture`` name -> a VMCOREINFO key that no other architecture has
_MARKS = {"X86_64": "NUMBER(pgtable_l5_enabled)"}


def vmcoreinfo_marks() -> Iterable[tuple[str, str]]:
    """Get drgn's name of each architecture and a VMCOREINFO key that only it has."""
    return _MARKS.items()


def architecture_of(platform: Platform | None) -> Architecture:
    """
    Get the description of a program's architecture.

    :raises UnsupportedError: if there is none
    """
    name = platform.arch.name if platform is not None else "unknown"
    try:
        module = _MODULES[name]
    except KeyError:
        raise UnsupportedError(
            f"architecture {name.lower()} is not supported",
            "supported: " + ", ".join(sorted(_MODULES.values())),
        ) from None
    return cast(Architecture, import_module(f".{module}", __name__).ARCHITECTURE)
