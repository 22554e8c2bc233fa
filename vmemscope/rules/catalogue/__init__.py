# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What each rule says, and where it comes from in the kernel; a module a kind.

:data:`RULES` has them in the catalogue's order, which ``vmemscope rules`` and all
reports keep: from the pagemap down to the ``struct page``, HugeTLB last.
"""

from __future__ import annotations

from ..findings import Rule
from . import alignment, backing, contents, frame_state, hugetlb, mapping, pagemap, sections, target

__all__ = ("RULES",)

RULES: tuple[Rule, ...] = (
    *pagemap.RULES,
    *target.RULES,
    *alignment.RULES,
    *sections.RULES,
    *mapping.RULES,
    *backing.RULES,
    *frame_state.RULES,
    *contents.RULES,
    *hugetlb.RULES,
)
