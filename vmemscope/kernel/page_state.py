# SPDX-License-Identifier: LGPL-2.1-or-later
"""
How a ``struct page`` says what its frame is used for: flags, and ``page_type``.

Looked up once, for many frames at a time; :mod:`.page_words` names what one has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from .page_words import mapcount_offset, page_types

if TYPE_CHECKING:
    from drgn import Program
    from numpy.typing import NDArray

    from .page_flags import FlagLayout
    from .pglist_data import Zone

__all__ = ("PageStates", "read_page_states")

#: flags that tell a use: name -> what they say (``include/linux/page-flags.h``)
_FLAGS = {
    "PG_lru": "on an LRU list",
    "PG_slab": "slab",
    "PG_head": "head of a compound page",
    "PG_hwpoison": "poisoned",
}


@dataclass(frozen=True)
class PageStates:
    """Where and how to look."""

    #: offset of ``_mapcount``, which ``page_type`` shares, in bytes
    mapcount: int
    #: bits of it that tell the type, and the types by their value there
    type_mask: int
    types: Mapping[int, str]
    #: flags by what they say, as masks; none that this kernel does not have
    flags: Mapping[str, int]
    #: where the node is in ``page->flags``; ``None`` if the types do not tell
    layout: FlagLayout | None = None
    #: nodes that have memory of their own
    memory_nodes: frozenset[int] = field(default_factory=frozenset)

    @property
    def node_width(self) -> int:
        """Bits of the node at the top of ``page->flags``, 0 where it has none."""
        return (self.layout.node_width if self.layout else None) or 0

    def node_of(self, flags: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """Get the node from ``page->flags`` of several, 0 where there is none in it."""
        width = self.node_width
        return flags >> np.uint64(64 - width) if width else np.zeros_like(flags)

    def unused(self, node: int | None) -> tuple[int, int]:
        """
        Say what ``page->flags`` of a frame without a use looks like.

        :param node: the node that it should be of, ``None`` for any
        :return: bits to look at, and what they should be
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
    Look up how frames say what they are used for.

    :param layout: of ``page->flags``
    :param zones: of RAM
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
