# SPDX-License-Identifier: LGPL-2.1-or-later
"""
How a ``struct page`` says what its frame is used for: flags, and ``page_type``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from msgspec import Struct, field

from .page_words import mapcount_offset, page_types

if TYPE_CHECKING:
    from drgn import Program
    from numpy.typing import NDArray

    from .page_flags import FlagLayout
    from .pglist_data import Zone

__all__ = ("PageStates", "read_page_states")

#: flags that stand for a use -> the use (``include/linux/page-flags.h``)
_FLAGS = {
    "PG_lru": "on an LRU list",
    "PG_slab": "slab",
    "PG_head": "head of a compound page",
    "PG_hwpoison": "poisoned",
}


class PageStates(Struct, frozen=True):
    """Where and how a ``struct page`` says what its frame is used for."""

    #: offset of ``_mapcount``, which ``page_type`` shares, in bytes
    mapcount: int
    #: bits of ``page_type`` that are the type; value of these bits -> type
    type_mask: int
    types: Mapping[int, str]
    #: use -> mask of its flag, for the flags that this kernel has
    flags: Mapping[str, int]
    #: layout of ``page->flags``; ``None`` if the types do not have it
    layout: FlagLayout | None = None
    #: nodes with memory, ``None`` if not all could be read
    memory_nodes: frozenset[int] | None = field(default_factory=frozenset)

    @property
    def node_width(self) -> int:
        """Bits of the node at the top of ``page->flags``, 0 where it has none."""
        return (self.layout.node_width if self.layout else None) or 0

    def node_of(self, flags: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """Return the nodes in ``page->flags`` (uint64, any shape), 0 without a node field."""
        width = self.node_width
        return flags >> np.uint64(64 - width) if width else np.zeros_like(flags)

    def unused(self, node: int | None) -> tuple[int, int]:
        """
        Return what ``page->flags`` of a frame without a use must be.

        :param node: the frame's node, ``None`` for any
        :return: mask, and the expected bits under the mask
        """
        any_flag, width = sum(self.flags.values()), self.node_width
        if node is None:
            return any_flag, 0
        return any_flag | (1 << width) - 1 << 64 - width, node << 64 - width


def read_page_states(
    prog: Program,
    vmcoreinfo: Mapping[str, str],
    layout: FlagLayout | None = None,
    zones: tuple[Zone, ...] = (),
) -> PageStates:
    """
    Read how a ``struct page`` says what its frame is used for.

    :param layout: layout of ``page->flags``
    :param zones: zones of RAM
    """
    flags = {}
    for name, meaning in _FLAGS.items():
        try:
            flags[meaning] = 1 << int(prog.constant(name).value_())
        except LookupError:
            # PG_slab became a page_type (in v6.10); PG_hwpoison is an option.
            continue
    mask, types = page_types(prog, vmcoreinfo)
    nodes = frozenset(zone.nid for zone in zones if zone.present)
    return PageStates(mapcount_offset(prog), mask, types, flags, layout, nodes)
