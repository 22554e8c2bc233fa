# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which page a number given by the user means."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...errors import TargetError, UsageError
from ...report.documents.page import Meaning
from ...vmemmap.tables import Kind, trace

if TYPE_CHECKING:
    from ...vmemmap.direct_map import DirectMap
    from ...vmemmap.vmemmap import Vmemmap

__all__ = ("understand",)


def understand(
    number: int, forced: str | None, vmemmap: Vmemmap, bits: int, direct_map: DirectMap | None
) -> tuple[int, Meaning]:
    """
    Return the page that a number means, and how it was understood.

    :param forced: pfn, phys or address, if the user said so
    :param bits: of physical addresses, at the most
    :param direct_map: ``None`` if it could not be found
    :raises UsageError: if there can be no such page
    :raises TargetError: if the page tables that map it can't be read
    """
    page_size = vmemmap.geometry.page_size
    frames = 1 << bits >> page_size.bit_length() - 1
    if forced == "address" or (forced is None and number >> bits):
        return _virtual(number, vmemmap, frames, direct_map)
    as_pfn, as_physical = number, number // page_size
    if forced == "pfn":
        if as_pfn >= frames:
            raise UsageError(f"{number:#x} is no page frame number: there are {frames:#x}")
        return as_pfn, Meaning(number, "pfn", "page frame number")
    if forced == "phys":
        if number >> bits:
            raise UsageError(f"{number:#x} is no physical address: they have {bits} bits")
        return as_physical, Meaning(number, "physical", "physical address")
    if _is_present(as_pfn, vmemmap):
        words = "page frame number"
        if _is_present(as_physical, vmemmap):
            words += f"; as a physical address it would be in pfn {as_physical:#x} (--phys)"
        return as_pfn, Meaning(number, "pfn", words)
    if _is_present(as_physical, vmemmap):
        words = "physical address: there is no page of that number"
        return as_physical, Meaning(number, "physical", words)
    # Nothing is there either way: the reading that is nearer to what there is.
    sections = vmemmap.sections
    end = (int(sections.number[-1]) + 1) * sections.pages if len(sections.number) else frames
    none = "no section that could be read" if sections.damage else "no section that is present"
    if as_pfn < end:
        return as_pfn, Meaning(number, "pfn", f"page frame number, of {none}")
    return as_physical, Meaning(number, "physical", f"physical address, in {none}")


def _is_present(pfn: int, vmemmap: Vmemmap) -> bool:
    return vmemmap.sections.index(pfn // vmemmap.sections.pages) is not None


def _virtual(
    number: int, vmemmap: Vmemmap, frames: int, direct_map: DirectMap | None
) -> tuple[int, Meaning]:
    geometry = vmemmap.geometry
    if geometry.has(number, frames):
        pfn, into = geometry.pfn_at(number)
        words = "address of a struct page" if not into else f"{into} bytes into a struct page"
        return pfn, Meaning(number, "struct-page", words)
    # What the top table decodes, the kernel's addresses have in common above it.
    top = vmemmap.table.levels[0]
    above = top.shift + top.bits
    if number >> above != geometry.vmemmap >> above:
        raise UsageError(
            f"{number:#x} is no virtual address of the kernel",
            "give a page frame number, a physical address, or an address that is mapped",
        )
    way = trace(vmemmap.page_tables, vmemmap.table, number)
    if way.kind is Kind.UNREADABLE:
        raise TargetError(f"the page tables that map {number:#x} can't be read")
    direct = direct_map.pfn_at(number) if direct_map is not None else None
    if way.pfn is None and direct is not None:
        words = "virtual address of the direct map, at which nothing is mapped"
        return direct, Meaning(number, "virtual", words)
    if way.pfn is None:
        raise UsageError(
            f"the kernel has nothing mapped at {number:#x}",
            "give a page frame number, a physical address, or an address that is mapped",
        )
    physical = way.pfn * geometry.page_size + number % geometry.page_size
    where = " (the direct map)" if direct == way.pfn else ""
    words = f"virtual address{where}, which the page tables map to physical {physical:#x}"
    return way.pfn, Meaning(number, "virtual", words)
