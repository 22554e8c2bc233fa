# SPDX-License-Identifier: LGPL-2.1-or-later
"""Rules about the ``struct page``s of compound pages: head, tails, order, pagemap."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from . import CATALOGUE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..findings import Collector
    from ..kernel.dev_pagemap import Pagemap
    from ..kernel.page import PageLayout
    from ..layout import Geometry

__all__ = ("CompoundPages", "check_contents", "holds_mask", "resolve_heads")


class CompoundPages(NamedTuple):
    """
    What was read of some compound pages: for each the vpage with the head, and
    one with tail pages alone, usually the last.
    """

    #: page frame of each head, shape ``(n,)`` (int64)
    head: NDArray[np.int64]
    #: page frame that the first ``struct page`` in ``tails`` describes, shape ``(n,)`` (int64)
    tail: NDArray[np.int64]
    #: the head's vpage, shape ``(n, struct pages in a vpage, words)`` (uint64)
    heads: NDArray[np.uint64]
    #: the tails' vpage, same shape
    tails: NDArray[np.uint64]
    #: frames behind the two, shape ``(n,)`` (uint64)
    head_frame: NDArray[np.uint64]
    tail_frame: NDArray[np.uint64]
    #: whether each could be read, shape ``(n,)`` (bool)
    head_read: NDArray[np.bool_]
    tail_read: NDArray[np.bool_]
    #: whether there is no vpage with tail pages alone, shape ``(n,)`` (bool)
    head_alone: NDArray[np.bool_]


def holds_mask(words: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """
    Tell which ``compound_info`` words hold a mask and not a pointer (7.1+).

    A mask is all ones from bit 63 down to some bit, zeros below but for bit 0.
    No pointer into the vmemmap looks like that.
    """
    inverse = ~(words & ~np.uint64(1))
    mask: NDArray[np.bool_] = ((inverse & (inverse + np.uint64(1))) == 0) & (
        (words & np.uint64(1)) != 0
    )
    return mask


def resolve_heads(words: NDArray[np.uint64], addresses: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """
    Resolve tail pages to their heads as the kernel does (``compound_head()``).

    :param words: ``compound_head`` or ``compound_info`` of each page
    :param addresses: virtual address of each ``struct page``, in bytes
    :return: virtual address that each resolves to; itself where bit 0 is clear
    """
    is_tail = (words & np.uint64(1)) != 0
    pointed = np.where(holds_mask(words), addresses & words & ~np.uint64(1), words - np.uint64(1))
    return np.where(is_tail, pointed, addresses)


def check_contents(
    pages: CompoundPages,
    pagemap: Pagemap,
    layout: PageLayout,
    geometry: Geometry,
    findings: Collector,
) -> None:
    """Check heads and tails of compound pages of a pagemap."""
    _check_heads(pages, pagemap, layout, geometry, findings)
    _check_tails(pages, layout, geometry, findings)


def _check_tails(
    pages: CompoundPages, layout: PageLayout, geometry: Geometry, findings: Collector
) -> None:
    """Report each compound page of which tail pages resolve to a wrong head, once."""
    count = pages.heads.shape[1]
    size, base = np.uint64(layout.size), np.uint64(geometry.vmemmap)
    head = base + pages.head.astype(np.uint64) * size
    index = np.arange(count, dtype=np.uint64) * size
    # struct pages 1 and up in the head's vpage, then all in the tails' vpage
    address = np.concatenate(
        (
            head[:, None] + index[None, 1:],
            (base + pages.tail.astype(np.uint64) * size)[:, None] + index[None, :],
        ),
        axis=1,
    )
    words = np.concatenate((pages.heads[:, 1:], pages.tails), axis=1)[:, :, layout.compound // 8]
    looked = np.concatenate(
        (
            np.repeat(pages.head_read[:, None], count - 1, axis=1),
            np.repeat(pages.tail_read[:, None], count, axis=1),
        ),
        axis=1,
    )
    resolved = resolve_heads(words, address)
    off = looked & (resolved != head[:, None])
    for i in np.flatnonzero(off.any(axis=1)).tolist():
        first = int(np.argmax(off[i]))
        frame = pages.head_frame if first < count - 1 else pages.tail_frame
        findings.add(
            CATALOGUE["compound-head"],
            f"{int(off[i].sum())} of {int(looked[i].sum())} tail pages looked at of the compound"
            f" page at pfn {int(pages.head[i]):#x} resolve to a wrong head",
            vaddr=int(address[i, first]),
            pfn=int(frame[i]),
            expected=f"{int(head[i]):#x}",
            observed=f"{int(resolved[i, first]):#x}",
        )


def _check_heads(
    pages: CompoundPages,
    pagemap: Pagemap,
    layout: PageLayout,
    geometry: Geometry,
    findings: Collector,
) -> None:
    head, first_tail = pages.heads[:, 0], pages.heads[:, 1]
    compound = head[:, layout.compound // 8]
    is_head = ((head[:, layout.flags // 8] & np.uint64(layout.pg_head)) != 0) & (
        (compound & np.uint64(1)) == 0
    )
    order = (first_tail[:, layout.order // 8] >> np.uint64(layout.order % 8 * 8)) & np.uint64(0xFF)
    pgmap = head[:, layout.pgmap // 8]
    shift = pagemap.vmemmap_shift or 0
    for rule_id, off, tail, what, expected, observed in (
        ("head-flag", ~is_head, 0, "is no head page", "PG_head set, no tail", None),
        (
            "pgmap-link",
            is_head & (pgmap != np.uint64(pagemap.address)),
            0,
            "does not point back to its pagemap",
            f"{pagemap.address:#x}",
            pgmap,
        ),
        (
            "compound-order",
            is_head & (order != np.uint64(shift)),
            1,
            "has a wrong order",
            shift,
            order,
        ),
    ):
        for i in np.flatnonzero(off & pages.head_read).tolist():
            seen: str | int
            if observed is None:
                flags = int(head[i, layout.flags // 8])
                seen = f"flags {flags:#x}, compound word {int(compound[i]):#x}"
            else:
                seen = int(observed[i]) if isinstance(expected, int) else f"{int(observed[i]):#x}"
            findings.add(
                CATALOGUE[rule_id],
                f"the compound page at pfn {int(pages.head[i]):#x} {what}",
                vaddr=geometry.page_address(int(pages.head[i]) + tail),
                pfn=int(pages.head_frame[i]),
                expected=expected,
                observed=seen,
            )
