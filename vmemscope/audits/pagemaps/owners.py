# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whose vpages are, and who should own frames."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ...columns import select
from ...vmemmap.layout import Populated
from ...vmemmap.tables import Kind
from .mapping import judged_compounds, runs_of_piece

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from ...vmemmap.vmemmap import Vmemmap
    from .audited import AuditedPagemap

__all__ = ("PagemapsByVpage", "find_owners")


class PagemapsByVpage:
    """Find the pagemap that a vpage describes."""

    def __init__(self, pagemaps: Sequence[AuditedPagemap]) -> None:
        pieces = [
            (piece.start, audited)
            for audited in pagemaps
            for piece in audited.pieces
            if piece.populated is not Populated.NEIGHBOUR
        ]
        self._pieces = sorted(pieces, key=lambda piece: piece[0])
        #: entries that could not be read: any of them may map any frame
        self.unseen = sum(audited.by_kind[Kind.UNREADABLE] for audited in pagemaps)
        self._starts = np.array([start for start, _ in self._pieces], dtype=np.int64)

    def among(self, vpages: NDArray[np.int64]) -> Iterator[AuditedPagemap]:
        """Yield the pagemaps of vpages, one maybe several times."""
        if not len(vpages):
            return
        if len(self._pieces) == 1:
            yield self._pieces[0][1]
            return
        for piece in np.flatnonzero(np.bincount(self._piece(vpages))).tolist():
            yield self._pieces[piece][1]

    def split(
        self, vpages: NDArray[np.int64]
    ) -> Iterator[tuple[AuditedPagemap, NDArray[np.int64]]]:
        """Yield the pagemap of each piece and the indices of its vpages."""
        piece = self._piece(vpages)
        for one in np.flatnonzero(np.bincount(piece)).tolist():
            yield self._pieces[one][1], np.flatnonzero(piece == one)

    def _piece(self, vpages: NDArray[np.int64]) -> NDArray[np.int64]:
        index = np.searchsorted(self._starts, vpages, side="right") - 1
        return np.maximum(index, 0).astype(np.int64, copy=False)

    def of(self, vpage: int) -> AuditedPagemap:
        """Return the pagemap of a vpage that was walked."""
        return self._pieces[int(self._piece(np.array([vpage]))[0])][1]


def find_owners(
    pagemaps: Sequence[AuditedPagemap], vmemmap: Vmemmap, pfns: NDArray[np.uint64], most: int
) -> dict[int, list[tuple[int, str]]]:
    """
    Walk once more to find who should own some frames.

    :param most: vpages of a run that are named
    :return: pfn -> vpages that map it where they should be its only owner,
        each with what it is in words
    """
    found: dict[int, list[tuple[int, str]]] = {}
    for audited in pagemaps:
        for piece in audited.pieces:
            batches = runs_of_piece(piece, vmemmap)
            if piece.populated in (Populated.EARLY, Populated.NEIGHBOUR, Populated.UNKNOWN):
                continue
            if piece.populated is not Populated.COMPOUND:
                for runs in batches:
                    here = select(runs, (runs.kind == Kind.MAPPED) & np.isin(runs.pfn, pfns))
                    for vpage, length, pfn in zip(
                        here.vpage.tolist(), here.length.tolist(), here.pfn.tolist(), strict=True
                    ):
                        found.setdefault(pfn, []).extend(
                            (vpage + i, f"a page of {audited.label}")
                            for i in range(min(length, most))
                        )
                continue
            for judged in judged_compounds(batches, piece, audited, vmemmap):
                own = np.isin(judged.runs.pfn, pfns) & (judged.owner > 0)
                for i in np.flatnonzero(own).tolist():
                    role = "the head" if judged.head[i] else "the tail pages"
                    found.setdefault(int(judged.runs.pfn[i]), []).append(
                        (
                            int(judged.runs.vpage[i]),
                            f"{role} of compound page {judged.compound[i]} of {audited.label}",
                        )
                    )
    return found
