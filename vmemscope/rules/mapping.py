# SPDX-License-Identifier: LGPL-2.1-or-later
"""Rules about page-table entries: holes, leaf sizes, permissions, whose frame they map."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..columns import select
from ..text import binary_size
from ..vmemmap.layout import Populated
from ..vmemmap.tables import Kind
from . import RULES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..arch import PageTable
    from ..vmemmap.layout import Geometry, Piece
    from ..vmemmap.runs import Judged, Runs
    from ..vmemmap.tables import Leaves
    from .findings import Collector
    from .rule import Rule

__all__ = ("check_compounds", "check_holes", "check_leaves", "skip_compounds")

_NOT_MAPPED = "parts that are not mapped, or could not be read"
_EARLY = "parts in sections that were there at boot, whose memory map is RAM's"
_UNKNOWN = "it can't be told what the kernel should have built"
#: why the size of leaves is not asked of a piece, by what the kernel should have built
_NO_SIZE = {
    Populated.LEAF: "whole sections without deduplication may have leaves of any size",
    Populated.EARLY: _EARLY,
    Populated.UNKNOWN: _UNKNOWN,
}
_NO_FALLBACK = {
    Populated.COMPOUND: "deduplicated parts have base pages",
    Populated.BASE: "parts of sections have base pages",
    Populated.EARLY: _EARLY,
    Populated.UNKNOWN: _UNKNOWN,
}


def check_holes(runs: Runs, geometry: Geometry, findings: Collector) -> None:
    """Check that all of a piece is mapped."""
    rule = RULES["hole"]
    unreadable = runs.kind == Kind.UNREADABLE
    if unreadable.any():
        findings.skipped("page tables that could not be read", rule)
    if not unreadable.all():
        findings.checked(rule)
    holes = select(runs, runs.kind == Kind.HOLE)
    for vpage, length in zip(*_first(holes, findings.room(rule)), strict=True):
        findings.add(
            rule,
            f"{_pages(length)} of the vmemmap not mapped",
            vaddr=geometry.address(vpage),
            expected="mapped",
            observed="not mapped",
        )
    findings.add_uncounted(rule, max(len(holes.vpage) - findings.room(rule), 0))


def _first(runs: Runs, count: int) -> tuple[list[int], list[int]]:
    return runs.vpage[:count].tolist(), runs.length[:count].tolist()


def _pages(count: int) -> str:
    return "1 page" if count == 1 else f"{count} pages"


def check_leaves(
    leaves: Leaves, piece: Piece, table: PageTable, geometry: Geometry, findings: Collector
) -> None:
    """Check the size and the permissions of a batch of leaves of a piece."""
    size, fallback, read_only, executable = (
        RULES[rule] for rule in ("leaf-size", "leaf-fallback", "read-only", "executable")
    )
    mapped = leaves.kind == Kind.MAPPED
    if not mapped.any():
        findings.skipped(_NOT_MAPPED, size, fallback, read_only, executable)
        return
    large = mapped & (leaves.shift > table.levels[-1].shift)
    if piece.populated in _NO_SIZE:
        findings.skipped(_NO_SIZE[piece.populated], size)
    else:
        _report(
            leaves,
            large,
            size,
            "a large leaf where "
            + (
                "tail pages should share a frame"
                if piece.populated is Populated.COMPOUND
                else "part of a section should have base pages"
            ),
            (binary_size(table.page_size), None),
            findings,
        )
    if piece.populated in _NO_FALLBACK:
        findings.skipped(_NO_FALLBACK[piece.populated], fallback)
    else:
        pages = leaves.apart()
        base = (pages.kind == Kind.MAPPED) & (pages.shift == table.levels[-1].shift)
        # One note for each large leaf's worth of base pages.
        region = pages.address // np.uint64(geometry.arch.vmemmap_leaf)
        base[1:] &= ~base[:-1] | (region[1:] != region[:-1])
        _report(
            pages,
            base,
            fallback,
            "base pages where a section has a large leaf when memory allows",
            (binary_size(geometry.arch.vmemmap_leaf), None),
            findings,
        )
    if piece.populated is Populated.EARLY:
        # HugeTLB's optimization shares it, and maps it read-only.
        findings.skipped(_EARLY, read_only)
    else:
        off = mapped & ~leaves.writable
        values = ("writable", "read-only")
        _report(leaves, off, read_only, "a read-only entry", values, findings)
    off = mapped & ~leaves.no_execute
    values = ("not executable", "executable")
    _report(leaves, off, executable, "an executable entry", values, findings)


def _report(
    leaves: Leaves,
    which: NDArray[np.bool_],
    rule: Rule,
    message: str,
    values: tuple[str, str | None],
    findings: Collector,
) -> None:
    findings.checked(rule)
    if not which.any():
        return
    leaves = leaves.apart(which)
    told = range(min(len(leaves.address), findings.room(rule)))
    expected, observed = values
    for i in told:
        findings.add(
            rule,
            message,
            vaddr=int(leaves.address[i]),
            pfn=int(leaves.pfn[i]),
            expected=expected,
            observed=observed or binary_size(1 << int(leaves.shift[i])),
        )
    findings.add_uncounted(rule, len(leaves.address) - len(told))


def check_compounds(
    judged: Judged, in_ram: NDArray[np.bool_], geometry: Geometry, findings: Collector
) -> NDArray[np.int64]:
    """
    Check that the tail pages of each compound page map one frame.

    :param in_ram: for each run, whether its frame is memory; where it is not,
        another rule tells
    :return: compound pages of which no two tail pages share a frame, to be
        told by the caller (all of a pagemap's, or just some)
    """
    tail = RULES["tail-frame"]
    if ((judged.runs.kind == Kind.MAPPED) & ~judged.head).any():
        findings.checked(tail, RULES["not-deduplicated"])
    else:
        skip_compounds("no tail page is mapped where it could be read", findings)
    wrong = judged.wrong & in_ram & (judged.runs.order == 0)
    if not wrong.any():
        return np.empty(0, dtype=np.int64)
    apart = _compounds_apart(judged)
    wrong &= ~np.isin(judged.compound, apart)
    index = np.flatnonzero(wrong)
    told = index[: findings.room(tail)]
    for i in told.tolist():
        pfn, shared = int(judged.runs.pfn[i]), int(judged.shared[i])
        own_head = judged.head & (judged.compound == judged.compound[i]) & (judged.runs.pfn == pfn)
        findings.add(
            tail,
            f"{_pages(int(judged.runs.length[i]))} of the tail pages of compound page"
            f" {judged.compound[i]} {'maps' if judged.runs.length[i] == 1 else 'map'}"
            " another frame than the rest" + (", that of the head" if own_head.any() else ""),
            vaddr=geometry.address(int(judged.runs.vpage[i])),
            pfn=pfn,
            expected=f"pfn {shared:#x}",
            observed=f"pfn {pfn:#x}",
        )
    findings.add_uncounted(tail, len(index) - len(told))
    return apart


def skip_compounds(reason: str, findings: Collector) -> None:
    """Record why the compound pages of a piece are not checked."""
    findings.skipped(reason, RULES["tail-frame"], RULES["not-deduplicated"])


def _compounds_apart(judged: Judged) -> NDArray[np.int64]:
    """Find compound pages with three or more tail pages of which no two share a frame."""
    tails = ~judged.head & (judged.runs.kind == Kind.MAPPED) & (judged.runs.order == 0)
    compounds, first, runs = np.unique(
        judged.compound[tails], return_index=True, return_counts=True
    )
    if not len(compounds):
        return compounds
    pages = np.add.reduceat(judged.runs.length[tails], first)
    right = np.add.reduceat((~judged.wrong[tails]).astype(np.int64), first)
    apart: NDArray[np.int64] = compounds[(pages >= 3) & (runs == pages) & (right == 1)]
    return apart
