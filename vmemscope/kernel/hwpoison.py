# SPDX-License-Identifier: LGPL-2.1-or-later
"""Frames whose memory failed: PG_hwpoison, ``mm/memory-failure.c``."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np

from ..target.reads import READ_ERRORS

if TYPE_CHECKING:
    from drgn import Program
    from numpy.typing import NDArray

    from .page import PageLayout

__all__ = ("read_poisoned",)


def read_poisoned(
    prog: Program, page: PageLayout, vmemmap: int, pfns: NDArray[np.uint64]
) -> NDArray[np.bool_]:
    """
    Return which frames are marked as failed, shape ``(n,)``, or may be: that can't be read.

    :param vmemmap: virtual address of the ``struct page`` of pfn 0
    :param pfns: page frame numbers, shape ``(n,)``, few: each is a read
    """
    if not page.pg_hwpoison:
        return np.zeros(len(pfns), dtype=np.bool_)
    found = np.ones(len(pfns), dtype=np.bool_)
    for index, pfn in enumerate(pfns.tolist()):
        with suppress(*READ_ERRORS):
            flags = prog.read_u64(vmemmap + pfn * page.size + page.flags)
            found[index] = flags & page.pg_hwpoison
    return found
