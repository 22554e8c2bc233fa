# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a kernel's memory has to offer for faults to be planted in it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..layouts import Member
    from .planted import Record

__all__ = ("Primitives",)


class Primitives(ABC):
    """A kernel's memory, types and page tables, to be read and written."""

    @abstractmethod
    def member(self, name: str, path: str) -> Member:
        """Find a member of a structure; KeyError if there is none."""

    @abstractmethod
    def constant(self, name: str) -> int:
        """Return the value of an enumerator; KeyError if there is none."""

    @abstractmethod
    def symbol(self, name: str) -> int:
        """Return the address of a variable; KeyError if there is none."""

    @abstractmethod
    def page_va(self, pfn: int) -> int:
        """Return the address of a struct page."""

    @abstractmethod
    def read_bytes(self, va: int, size: int) -> bytes:
        """Read kernel memory; a structure is never cut by the end of a page."""

    @abstractmethod
    def write_bytes(self, va: int, data: bytes) -> None:
        """Write to kernel memory."""

    @abstractmethod
    def frame_bytes(self, pfn: int) -> bytes:
        """Read a page of physical memory."""

    @abstractmethod
    def set_frame_bytes(self, pfn: int, data: bytes) -> None:
        """Write a page of physical memory."""

    @abstractmethod
    def path(self, va: int) -> Sequence[tuple[int, int, int]]:
        """Go down the page tables: shift, pfn of the table, entry of each level."""

    @abstractmethod
    def write_entry(self, va: int, shift: int, entry: int) -> None:
        """Write an entry of a page table, making the tables above it."""

    @abstractmethod
    def alloc_pages(self, order: int = 0, nid: int = 0) -> int:
        """Allocate frames, of which the first gets a reference; return the first."""

    @abstractmethod
    def free_page(self, pfn: int) -> None:
        """Give a frame to the page allocator, its reference count being 0."""

    @abstractmethod
    def is_ram(self, pfn: int) -> bool:
        """Whether a frame is RAM, so that references to it count."""

    @abstractmethod
    def pagemap(self, name: str) -> Record:
        """Return another pagemap."""

    @property
    @abstractmethod
    def memory_end(self) -> int:
        """The page frame after all memory and devices."""

    @abstractmethod
    def per_cpu(self, pointer: int, cpu: int) -> int:
        """Return the address of a CPU's own counter."""

    @abstractmethod
    def process_pgd(self, number: int) -> int:
        """Return the address of the top-level table of a process; IndexError if there is none."""

    @abstractmethod
    def resource(self) -> int:
        """Return the address of the innermost ``struct resource`` of the pagemap."""
