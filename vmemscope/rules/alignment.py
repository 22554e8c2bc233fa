# SPDX-License-Identifier: LGPL-2.1-or-later
"""Rules about where compound pages start."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ..text import binary_size
from .rule import Severity, Skip, Violation, rule

if TYPE_CHECKING:
    from ..kernel.dev_pagemap import Pagemap, PhysicalRange
    from ..kernel.mem_section import Sections
    from ..vmemmap.layout import Geometry
    from ..vmemmap.schemes import Scheme

__all__ = (
    "HEAD_ALIGNMENT",
    "HeadFacts",
    "compound_alignment",
    "mask_alignment",
    "section_alignment",
)


@rule(
    "section-alignment",
    Severity.WARNING,
    holds="compound pages larger than a section start on a section boundary, and not in a section"
    " that was there at boot",
    source="mm/sparse-vmemmap.c: reuse_compound_section()",
    since="5.19",
    archs=("x86_64", "riscv64"),
    meaning="Compound pages larger than a section (1 GiB on x86) need the range to start on a"
    " section boundary. These kernels do not check it: reuse_compound_section() uses the"
    " offset in the range, while sections are cut at absolute boundaries, so a chunk that"
    " holds the head of a compound page can be taken for one that only continues the last. All"
    " heads but the first then lie in the frame of the tail pages: struct pages overwrite each"
    " other, and faults of 1 GiB go wrong. In a section that was there at boot, the entry that"
    " is copied is not even a page table entry, and the rest of the memory map ends up on page"
    " frame 0.",
    look_at="The findings of the same pagemap: frame-shared or frame-not-memory say that the"
    " damage is done. Make the namespace start on a boundary of the section, better of the"
    " compound page (ndctl create-namespace --align), or use 2 MiB pages, where this can't"
    " happen.",
)
def section_alignment(
    pagemap: Pagemap,
    ranges: Sequence[PhysicalRange],
    sections: Sections,
    geometry: Geometry,
    scheme: Scheme,
) -> Iterator[Violation | Skip]:
    if not pagemap.vmemmap_shift or 1 << pagemap.vmemmap_shift <= sections.pages:
        yield Skip("no compound pages larger than a section")
        return
    size = binary_size(geometry.page_size << pagemap.vmemmap_shift)
    for one in ranges:
        first, pages = one.start // geometry.page_size, one.size // geometry.page_size
        into = first % sections.pages
        vpages = geometry.vpage(pages)
        if into and sections.is_early(first // sections.pages):
            early = min(geometry.vpage(sections.pages - into), vpages)
            if early == vpages:
                continue
            where = "inside a section that was there at boot"
            lost, where_to = vpages - early, "a wrong frame (as a rule frame 0)"
        elif into and into + pages > sections.pages:
            where = "in the middle of a section"
            lost, where_to = vpages - 1, "one frame (among them all heads but the first)"
        else:
            continue
        what = f"maps {lost} of the {vpages} pages of its memory map to {where_to}"
        if scheme.per_zone:
            heads = -(-pages >> pagemap.vmemmap_shift)
            what = (
                f"puts {heads - 1} of its {heads} head pages into the frame of tail pages that all"
                " devices of the node share, until the next boot"
            )
        yield Violation(
            f"range {one.start:#x}-{one.end:#x} of compound pages of {size} starts {where}: this"
            f" kernel {what}, so that"
            " mapping the device fails (SIGBUS), or I/O to it hangs; recreate the device at a"
            f" multiple of {size}, or with smaller pages",
            vaddr=geometry.page_address(first),
            expected=f"a multiple of {sections.pages * geometry.page_size:#x}",
            observed=f"{one.start:#x}",
        )


class HeadFacts(NamedTuple):
    """Where a pagemap's compound pages start, and how their tail pages find the head."""

    pagemap: Pagemap
    #: page frame of the first compound page of each range
    heads: Sequence[int]
    #: whether tail pages hold a mask, ``None`` if none could be read
    masked: bool | None
    geometry: Geometry

    def violations(self, consequence: str) -> Iterator[Violation]:
        """Yield a violation of each range whose compound pages are not aligned to their size."""
        pages = 1 << (self.pagemap.vmemmap_shift or 0)
        bytes_ = self.geometry.page_size * pages
        for head in self.heads:
            if head % pages:
                start = f"{head * self.geometry.page_size:#x}"
                yield Violation(
                    f"compound pages of {binary_size(bytes_)} are laid out from {start}, which is"
                    f" not aligned to their size: {consequence}; recreate the device at a"
                    f" multiple of {binary_size(bytes_)}, or with smaller pages",
                    vaddr=self.geometry.page_address(head),
                    expected=f"a multiple of {bytes_:#x}",
                    observed=start,
                )


_NO_TAIL = Skip("no tail page could be read")


@rule(
    "mask-alignment",
    Severity.WARNING,
    holds="where tail pages find their head by a mask, compound pages are aligned to their size",
    source="include/linux/page-flags.h: compound_info_has_mask()",
    since="7.1",
    meaning="Since 7.1 tail pages do not point to their head, they hold a mask for their own"
    " address (compound_info), if HugeTLB's vmemmap optimization is built in. That only works"
    " for compound pages aligned to their size, while those of a device are laid out from the"
    " start of its range: every tail page of an unaligned device resolves to a wrong head,"
    " maybe of another device. vmf_insert_folio_pud() warns, faults of 1 GiB get SIGBUS,"
    " get_user_pages() counts references on another page.",
    look_at="Where the range starts: with a namespace of type devdax and map=mem it is the"
    " start of the namespace, not of its data. Make the namespace start on a boundary of its"
    " alignment, or take map=dev, where compound pages start with the data.",
)
def mask_alignment(facts: HeadFacts) -> Iterator[Violation | Skip]:
    if facts.masked is None:
        yield _NO_TAIL
    elif not facts.masked:
        yield Skip("tail pages of this kernel point to their head")
    else:
        yield from facts.violations(
            "with this kernel every tail page resolves to a wrong head, so that mapping the device"
            " fails (SIGBUS)"
        )


@rule(
    "compound-alignment",
    Severity.NOTE,
    holds="where tail pages point to their head, compound pages are aligned to their size all the"
    " same",
    source="mm/memremap.c: pagemap_range(); mm/mm_init.c: memmap_init_zone_device()",
    since="5.17",
    until="7.0",
    meaning="Nothing is wrong: compound pages are laid out from the start of the pagemap's"
    " range, which with map=mem is the start of the namespace and not that of its data, and"
    " tail pages point to their head wherever it is. But heads do not lie where the device's"
    " data has its large pages, and kernels from 7.1 on can't use the device that way (rule"
    " mask-alignment).",
    look_at="Before the kernel is replaced: make the namespace start on a boundary of its"
    " alignment, or take map=dev, where compound pages start with the data.",
)
def compound_alignment(facts: HeadFacts) -> Iterator[Violation | Skip]:
    if facts.masked is None:
        yield _NO_TAIL
    elif facts.masked:
        yield Skip("tail pages of this kernel hold a mask")
    else:
        yield from facts.violations(
            "of no consequence with this kernel, but from 7.1 on mapping the device fails (SIGBUS)"
        )


#: rules that depend on how tail pages find their head
HEAD_ALIGNMENT = (mask_alignment, compound_alignment)
