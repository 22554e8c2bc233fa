# SPDX-License-Identifier: LGPL-2.1-or-later
"""Rules about the ``struct page``s of compound pages: head, tails, order, pagemap."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from . import CATALOGUE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..findings import Collector, Rule
    from ..kernel.dev_pagemap import Pagemap
    from ..kernel.page import PageLayout
    from ..layout import Geometry

__all__ = ("CompoundPages", "check_contents", "holds_mask", "resolve_heads")


class CompoundPages(NamedTuple):
    """What was read of some compound pages: for each a few vpages, that of the head first."""

    #: page frame of each head, shape ``(n,)`` (int64)
    head: NDArray[np.int64]
    #: page frame that the first ``struct page`` of each vpage describes,
    #: shape ``(n, vpages)`` (int64)
    first: NDArray[np.int64]
    #: shape ``(n, vpages, struct pages in a vpage, words)`` (uint64), zeros where unreadable
    words: NDArray[np.uint64]
    #: frame behind each vpage, shape ``(n, vpages)`` (uint64)
    frame: NDArray[np.uint64]
    #: whether each could be read, shape ``(n, vpages)`` (bool)
    readable: NDArray[np.bool_]
    #: whether it could not because nothing is mapped there, shape ``(n, vpages)`` (bool)
    hole: NDArray[np.bool_]


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


def _record(
    asked: NDArray[np.bool_], pages: CompoundPages, rule: Rule, findings: Collector
) -> None:
    """
    Record whether a rule was held against anything.

    :param asked: which of the struct pages that could be read the rule is about
    """
    if asked.any():
        findings.checked(rule)
    elif pages.readable.any():
        findings.skipped("no struct page that could be read is a head", rule)
    if not pages.readable.all():
        findings.skipped("struct pages that are not mapped, or could not be read", rule)


def _check_tails(
    pages: CompoundPages, layout: PageLayout, geometry: Geometry, findings: Collector
) -> None:
    """Report each compound page of which tail pages resolve to a wrong head, once."""
    count = pages.words.shape[2]
    size, base = np.uint64(layout.size), np.uint64(geometry.vmemmap)
    head = base + pages.head.astype(np.uint64) * size
    pfn = pages.first[:, :, None] + np.arange(count)
    address = base + pfn.astype(np.uint64) * size
    resolved = resolve_heads(pages.words[:, :, :, layout.compound // 8], address)
    is_tail = pages.readable[:, :, None] & (pfn != pages.head[:, None, None])
    _record(is_tail, pages, CATALOGUE["compound-head"], findings)
    off = is_tail & (resolved != head[:, None, None])
    for i in np.flatnonzero(off.any(axis=(1, 2))).tolist():
        vpage, slot = np.unravel_index(int(np.argmax(off[i])), off[i].shape)
        # Compound pages of few vpages have the last one twice.
        wrong, looked = len(set(pfn[i][off[i]].tolist())), len(set(pfn[i][is_tail[i]].tolist()))
        findings.add(
            CATALOGUE["compound-head"],
            f"{wrong} of {looked} tail pages looked at of the compound page at pfn"
            f" {int(pages.head[i]):#x} {'resolves' if wrong == 1 else 'resolve'} to a wrong head",
            vaddr=int(address[i, vpage, slot]),
            pfn=int(pages.frame[i, vpage]),
            expected=f"{int(head[i]):#x}",
            observed=f"{int(resolved[i, vpage, slot]):#x}",
        )


def _check_heads(
    pages: CompoundPages,
    pagemap: Pagemap,
    layout: PageLayout,
    geometry: Geometry,
    findings: Collector,
) -> None:
    head, first_tail = pages.words[:, 0, 0], pages.words[:, 0, 1]
    compound = head[:, layout.compound // 8]
    is_head = ((head[:, layout.flags // 8] & np.uint64(layout.pg_head)) != 0) & (
        (compound & np.uint64(1)) == 0
    )
    order = (first_tail[:, layout.order // 8] >> np.uint64(layout.order % 8 * 8)) & np.uint64(0xFF)
    pgmap = head[:, layout.pgmap // 8]
    shift = pagemap.vmemmap_shift or 0
    everywhere = np.ones(len(head), dtype=np.bool_)
    for rule_id, asked, off, tail, what, expected, observed in (
        ("head-flag", everywhere, ~is_head, 0, "is no head page", "PG_head set, no tail", None),
        (
            "pgmap-link",
            is_head,
            pgmap != np.uint64(pagemap.address),
            0,
            "does not point back to its pagemap",
            f"{pagemap.address:#x}",
            pgmap,
        ),
        (
            "compound-order",
            is_head,
            order != np.uint64(shift),
            1,
            "has a wrong order",
            shift,
            order,
        ),
    ):
        rule = CATALOGUE[rule_id]
        _record(asked & pages.readable[:, 0], pages, rule, findings)
        for i in np.flatnonzero(asked & off & pages.readable[:, 0]).tolist():
            seen: str | int
            if observed is None:
                flags = int(head[i, layout.flags // 8])
                seen = f"flags {flags:#x}, compound word {int(compound[i]):#x}"
            else:
                seen = int(observed[i]) if isinstance(expected, int) else f"{int(observed[i]):#x}"
            findings.add(
                rule,
                f"the compound page at pfn {int(pages.head[i]):#x} {what}",
                vaddr=geometry.page_address(int(pages.head[i]) + tail),
                pfn=int(pages.frame[i, 0]),
                expected=expected,
                observed=seen,
            )
