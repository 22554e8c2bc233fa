# SPDX-License-Identifier: LGPL-2.1-or-later
"""Rules about page-table entries: holes, leaf sizes, permissions, whose frame they map."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..columns import select
from ..layout import Populated
from ..text import binary_size
from ..walk import Kind
from . import CATALOGUE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..arch import PageTable
    from ..compound import Judged
    from ..findings import Collector
    from ..frames import Runs
    from ..layout import Geometry, Piece
    from ..walk import Leaves

__all__ = ("check_compounds", "check_holes", "check_leaves")


def check_holes(runs: Runs, geometry: Geometry, findings: Collector) -> None:
    """Check that all of a piece is mapped."""
    rule = CATALOGUE["hole"]
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
    mapped = leaves.kind == Kind.MAPPED
    large = mapped & (leaves.shift > table.levels[-1].shift)
    if piece.populated in (Populated.COMPOUND, Populated.BASE):
        _report(
            leaves,
            large,
            "leaf-size",
            "a large leaf where "
            + (
                "tail pages should share a frame"
                if piece.populated is Populated.COMPOUND
                else "part of a section should have base pages"
            ),
            (binary_size(table.page_size), None),
            findings,
        )
    elif piece.populated is Populated.LEAF:
        base = mapped & ~large
        # One note for each large leaf's worth of base pages.
        region = leaves.address // np.uint64(geometry.arch.vmemmap_leaf)
        base[1:] &= ~base[:-1] | (region[1:] != region[:-1])
        _report(
            leaves,
            base,
            "leaf-fallback",
            "base pages where a section has a large leaf when memory allows",
            (binary_size(geometry.arch.vmemmap_leaf), None),
            findings,
        )
    if piece.populated is not Populated.EARLY:
        # The memory map of RAM may be read-only: HugeTLB's optimization shares it.
        read_only = mapped & ((leaves.entry & np.uint64(table.writable)) == 0)
        values = ("writable", "read-only")
        _report(leaves, read_only, "read-only", "a read-only entry", values, findings)
    executable = mapped & ((leaves.entry & np.uint64(table.no_execute)) == 0)
    values = ("not executable", "executable")
    _report(leaves, executable, "executable", "an executable entry", values, findings)


def _report(
    leaves: Leaves,
    which: NDArray[np.bool_],
    rule_id: str,
    message: str,
    values: tuple[str, str | None],
    findings: Collector,
) -> None:
    rule = CATALOGUE[rule_id]
    index = np.flatnonzero(which)
    told = index[: findings.room(rule)]
    expected, observed = values
    for i in told.tolist():
        findings.add(
            rule,
            message,
            vaddr=int(leaves.address[i]),
            pfn=int(leaves.pfn[i]),
            expected=expected,
            observed=observed or binary_size(1 << int(leaves.shift[i])),
        )
    findings.add_uncounted(rule, len(index) - len(told))


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
    wrong = judged.wrong & in_ram & (judged.runs.order == 0)
    if not wrong.any():
        return np.empty(0, dtype=np.int64)
    apart = _compounds_apart(judged)
    wrong &= ~np.isin(judged.compound, apart)
    rule = CATALOGUE["tail-frame"]
    index = np.flatnonzero(wrong)
    told = index[: findings.room(rule)]
    for i in told.tolist():
        pfn, shared = int(judged.runs.pfn[i]), int(judged.shared[i])
        own_head = judged.head & (judged.compound == judged.compound[i]) & (judged.runs.pfn == pfn)
        findings.add(
            rule,
            f"{_pages(int(judged.runs.length[i]))} of the tail pages of compound page"
            f" {judged.compound[i]} {'maps' if judged.runs.length[i] == 1 else 'map'}"
            " another frame than the rest" + (", that of the head" if own_head.any() else ""),
            vaddr=geometry.address(int(judged.runs.vpage[i])),
            pfn=pfn,
            expected=f"pfn {shared:#x}",
            observed=f"pfn {pfn:#x}",
        )
    findings.add_uncounted(rule, len(index) - len(told))
    return apart


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
