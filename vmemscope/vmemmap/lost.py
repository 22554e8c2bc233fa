# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the vmemmap and the section table say of pagemaps and RAM whose own lists are lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..columns import numbered
from ..kernel import SUBSECTION_SIZE
from ..kernel.dev_pagemap import read_pagemap
from ..kernel.device import dax_pagemaps
from ..kernel.mem_section_usage import read_subsections
from ..spans import Spans, subtract, union
from .struct_pages import read_struct_pages

if TYPE_CHECKING:
    from drgn import Program

    from ..kernel.dev_pagemap import Pagemap
    from .vmemmap import Vmemmap

__all__ = ("online_memory", "recovered_pagemaps")

#: subsections whose struct pages are asked for pagemaps, and pagemaps found so
_MAX_SAMPLES, _MAX_RECOVERED = 1 << 16, 1 << 12


def recovered_pagemaps(prog: Program, vmemmap: Vmemmap, known: set[int]) -> list[Pagemap]:
    """
    Find the pagemaps that an unreadable part of ``pgmap_array`` has.

    Devices on the dax bus have theirs, and the first ``struct page`` of a subsection
    can be a head, which points to its pagemap.

    :param known: addresses of the other pagemaps
    """
    page, sections, geometry = vmemmap.page, vmemmap.sections, vmemmap.geometry
    size = geometry.page_size
    valid = read_subsections(prog, sections, size, np.flatnonzero(~sections.online)).valid
    pages = SUBSECTION_SIZE // size
    which, nth = numbered(-(-(valid.end - valid.start) // pages))
    pfns = (valid.start[which] + nth * pages)[:: max(len(which) // _MAX_SAMPLES, 1)]
    read = read_struct_pages(vmemmap, pfns)
    pointers = read.word(page.pgmap, vmemmap.word)
    plausible = (pointers >= np.uint64(geometry.arch.kernel_space)) & (pointers % np.uint64(8) == 0)
    named = set(pointers[plausible & read.readable].tolist())
    found = []
    for address in sorted((named | dax_pagemaps(prog)[0].keys()) - known)[:_MAX_RECOVERED]:
        one = read_pagemap(prog, address)
        frames = Spans.of(
            [r.start // size for r in one.ranges], [(r.end + 1) // size for r in one.ranges]
        )
        # Its ranges are valid subsections, as a whole: nothing else looks like that.
        if one.ranges and not one.damage and not subtract(frames, valid).total:
            found.append(one)
    return found


def online_memory(
    prog: Program, vmemmap: Vmemmap, devices: Spans, physmem_bits: int
) -> list[tuple[int, int]]:
    """
    Find System RAM without resources: valid subsections of online sections.

    They are 2 MiB each, so the holes in them count as memory. What pagemaps have of
    sections of RAM is theirs. If the section table is lost, too, all else may be RAM.

    :param devices: page frames in pagemaps
    :param physmem_bits: of physical addresses, at the most
    :return: physical addresses, both inclusive
    """
    sections, size = vmemmap.sections, vmemmap.geometry.page_size
    if sections.damage:
        memory = Spans.of([0], [1 << physmem_bits >> size.bit_length() - 1])
    else:
        found = read_subsections(prog, sections, size, np.flatnonzero(sections.online))
        memory = union((found.valid, found.unknown))
    return [(first * size, end * size - 1) for first, end in subtract(memory, devices).pairs()]
