# SPDX-License-Identifier: LGPL-2.1-or-later
"""The ``struct page``s of compound pages: which are looked into, and the looking."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..layout import first_compound
from ..rules import CATALOGUE
from ..rules.contents import CompoundPages, check_contents, holds_mask
from ..rules.ranges import check_mask_alignment
from .subject import NO_RANGE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..vmemmap import Vmemmap
    from .subject import Subject

__all__ = ("ContentsChecked", "look_into")

#: compound pages of a range that are looked into; of more, so many spread
#: evenly, the first and the last among them
_SAMPLE = 1024


#: the rules that are evaluated here
_RULES = tuple(
    CATALOGUE[rule]
    for rule in ("head-flag", "compound-head", "compound-order", "pgmap-link", "mask-alignment")
)


class ContentsChecked(NamedTuple):
    """How many compound pages there are, were looked into, could not be read in full."""

    compounds: int
    checked: int
    unreadable: int


def look_into(subject: Subject, vmemmap: Vmemmap) -> ContentsChecked:
    """Look into the ``struct page``s of a pagemap's compound pages, all or a sample."""
    geometry, order = vmemmap.geometry, subject.order
    reason = subject.no_compounds
    if reason is None and geometry.compound_vpages(order) < 2:
        reason = "compound pages that share a page of the vmemmap"
    if reason is None and geometry.page_size % geometry.struct_page_size:
        reason = "struct pages that lie across pages of the vmemmap"
    if reason is not None:
        subject.findings.skipped(reason, *_RULES)
        return ContentsChecked(0, 0, 0)
    total, starts, heads, ends = 0, [], [], []
    for one in subject.ranges:
        end = (one.end + 1) // geometry.page_size
        first = first_compound(subject.pagemap, one.start // geometry.page_size)
        if first >= end:
            continue
        count = -(-(end - first) >> order)
        total += count
        starts.append(first)
        head = first + (_sample(count) << order)
        heads.append(head)
        ends.append(np.minimum(head + (1 << order), end))
    if not heads:
        subject.findings.skipped(
            "no compound page behind the altmap" if subject.ranges else NO_RANGE, *_RULES
        )
        return ContentsChecked(0, 0, 0)
    if subject.foreign:
        subject.findings.skipped("compound pages in a frame that is another's", *_RULES)
    pages = _read(np.concatenate(heads), np.concatenate(ends), vmemmap, subject.foreign)
    check_contents(pages, subject.pagemap, vmemmap.page, geometry, subject.findings)
    words = pages.words[pages.readable[:, 0], 0, 1, vmemmap.page.compound // 8]
    masked = bool(holds_mask(words).any()) if len(words) else None
    check_mask_alignment(subject.pagemap, starts, masked, geometry, subject.findings)
    return ContentsChecked(
        total,
        int(np.count_nonzero(pages.readable.any(axis=1))),
        int(np.count_nonzero((~pages.readable & ~pages.hole).any(axis=1))),
    )


def _sample(count: int) -> NDArray[np.int64]:
    """Pick numbers out of ``range(count)``."""
    picked = min(count, _SAMPLE)
    return np.arange(picked, dtype=np.int64) * (count - 1) // max(picked - 1, 1)


def _read(
    head: NDArray[np.int64], end: NDArray[np.int64], vmemmap: Vmemmap, foreign: set[int]
) -> CompoundPages:
    """
    Read the first three vpages of compound pages and the last.

    The kernel writes the first two of a deduplicated compound page, which are
    all there is; of one that isn't, some kernels forgot the rest.

    :param head: page frames of the heads, shape ``(n,)``
    :param end: page frames after the compound pages, shape ``(n,)``
    :param foreign: compound pages with one of these vpages are left out: that
        they map somebody else's frame is known, and what is read there is his
    """
    per_page = vmemmap.geometry.page_size // vmemmap.geometry.struct_page_size
    first, last = head // per_page, end // per_page - 1
    if foreign:
        # The shared frame of the tails is known by the first of them.
        own = ~np.isin(np.stack((first, first + 1, last)), list(foreign)).any(axis=0)
        head, first, last = head[own], first[own], last[own]
    # A compound page that the end of the range cuts short may have fewer vpages.
    vpages = np.stack((first, first + 1, first + 2, last), axis=1)
    vpages = np.minimum(vpages, np.maximum(first, last)[:, None])
    pages = vmemmap.read(vpages.ravel())
    words = pages.data.view(vmemmap.table.dtype).astype(np.uint64, copy=False)
    return CompoundPages(
        head=head,
        first=vpages * per_page,
        words=words.reshape(*vpages.shape, per_page, vmemmap.page.size // 8),
        frame=pages.pfn.reshape(vpages.shape),
        readable=pages.readable.reshape(vpages.shape),
        hole=pages.hole.reshape(vpages.shape),
    )
