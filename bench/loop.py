# SPDX-License-Identifier: LGPL-2.1-or-later
"""The loop over pages that one would write by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from drgn import FaultError

if TYPE_CHECKING:
    from drgn import Program

    from vmemscope.report.documents.pgmap import Report

__all__ = ("PerPageLoop",)

#: pages of the vmemmap that it goes over
_SAMPLE = 2000
#: and how many of them are neighbours
_BLOCK = 100


class PerPageLoop:
    """
    ``follow_phys()`` and a ``_refcount`` for pages of the vmemmap: a sample of them.

    :param report: of an audit, which says where they are
    """

    def __init__(self, prog: Program, report: Report) -> None:
        self._prog = prog
        self._size = size = report.target.page_size
        self._pages = sum(one.vmemmap.pages for one in report.pagemaps)
        # Some blocks of neighbours: what is cached between two of them helps the loop.
        self.sample = [
            address
            for one in report.pagemaps
            if one.vmemmap.start is not None and one.vmemmap.end is not None
            for block in range(
                one.vmemmap.start,
                one.vmemmap.end,
                max(one.vmemmap.pages * _BLOCK // _SAMPLE, _BLOCK) * size,
            )
            for address in range(block, min(block + _BLOCK * size, one.vmemmap.end), size)
        ]

    def run(self, clock: Callable[[], float]) -> float:
        """Time it; seconds, scaled up to all pages."""
        from drgn.helpers.linux.mm import follow_phys

        prog = self._prog
        mm = prog["init_mm"].address_of_()
        pages = prog["vmemmap"]
        start = clock()
        for address in self.sample:
            frame = follow_phys(mm, address).value_() // self._size
            try:
                pages[frame]._refcount.counter.value_()
            except FaultError:
                # On a device, and not in the dump.
                continue
        return (clock() - start) * self._pages / len(self.sample)
