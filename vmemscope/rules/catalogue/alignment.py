# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where compound pages that a pagemap asks for do harm."""

from __future__ import annotations

from ..legacy import Rule
from ..rule import Severity

__all__ = ("RULES",)

RULES = (
    Rule(
        "section-alignment",
        Severity.WARNING,
        "compound pages larger than a section start on a section boundary, and not in a section"
        " that was there at boot",
        "mm/sparse-vmemmap.c: reuse_compound_section()",
        since="5.19",
        archs=("x86_64", "riscv64"),
        meaning="Compound pages larger than a section (1 GiB on x86) need the range to start on a"
        " section boundary. These kernels do not check it: reuse_compound_section() goes by the"
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
    ),
    Rule(
        "mask-alignment",
        Severity.WARNING,
        "where tail pages find their head by a mask, compound pages are aligned to their size",
        "include/linux/page-flags.h: compound_info_has_mask()",
        since="7.1",
        meaning="Since 7.1 tail pages do not point to their head, they hold a mask for their own"
        " address (compound_info), if HugeTLB's vmemmap optimization is built in. That only works"
        " for compound pages aligned to their size, while those of a device are laid out from the"
        " start of its range: every tail page of such a device resolves to a wrong head, maybe of"
        " another device. vmf_insert_folio_pud() warns, faults of 1 GiB get SIGBUS,"
        " get_user_pages() counts references on a foreign page.",
        look_at="Where the range starts: with a namespace of type devdax and map=mem it is the"
        " start of the namespace, not of its data. Make the namespace start on a boundary of its"
        " alignment, or take map=dev, where compound pages start with the data.",
    ),
    Rule(
        "compound-alignment",
        Severity.NOTE,
        "where tail pages point to their head, compound pages are aligned to their size all the"
        " same",
        "mm/memremap.c: pagemap_range(); mm/mm_init.c: memmap_init_zone_device()",
        since="5.17",
        until="7.0",
        meaning="Nothing is wrong: compound pages are laid out from the start of the pagemap's"
        " range, which with map=mem is the start of the namespace and not that of its data, and"
        " tail pages point to their head wherever it is. But heads do not lie where the device's"
        " data has its large pages, and kernels from 7.1 on can't use the device so (rule"
        " mask-alignment).",
        look_at="Before the kernel is replaced: make the namespace start on a boundary of its"
        " alignment, or take map=dev, where compound pages start with the data.",
    ),
)
