# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Which base pages share a frame with pages elsewhere in the vmemmap of their device.

A walk sees only what neighbours share, which is all on a sound kernel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ...vmemmap.cells import SHARED
from ...vmemmap.frame_table import windows
from ...vmemmap.frames import join_frames
from .mapping import runs_of_piece

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from ...vmemmap.vmemmap import Vmemmap
    from .audited import AuditedPagemap

__all__ = ("settle_cells",)


def settle_cells(audited: AuditedPagemap, sharing: Mapping[int, int], vmemmap: Vmemmap) -> None:
    """
    Count a pagemap's cells once more if pages that lie apart share frames.

    :param sharing: entries per frame -> frames
    """
    cells = audited.cells
    if cells is None:
        return
    shared = sum(entries * frames for entries, frames in sharing.items() if entries > 1)
    if shared == int(cells.pages[SHARED].sum()):
        return
    parts = [np.empty(0, dtype=np.uint64), *_several(audited)]
    several = np.concatenate(parts)
    cells.clear()
    for piece in audited.pieces:
        for runs in runs_of_piece(piece, vmemmap):
            cells.add(runs, piece, audited.shared_pfn, several)


def _several(audited: AuditedPagemap) -> Iterator[NDArray[np.uint64]]:
    """Yield the frames that several base pages map, in order."""
    tables = (audited.ram, audited.device, audited.boot, audited.zone, audited.neighbour)
    for first, end in windows(tables):
        frames = join_frames([one.between(first, end) for one in tables])
        yield frames.pfn[(frames.entries > 1) & (frames.span == 1)]
