# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Rules about what the frames behind the vmemmap say that they are used for.

A frame that the page allocator gave out for the vmemmap is marked for no use at
all: no flag and no ``page_type`` says that it is anybody's. Of a large leaf the
first frame is asked, as for its reference count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from . import CATALOGUE

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from ..kernel.page_state import PageStates
    from ..vmemmap.frames import Frames
    from ..vmemmap.layout import Geometry
    from .findings import Collector, Rule

__all__ = ("OffNode", "check_states", "is_odd")

_FREE, _FOREIGN, _POISONED, _NODE = (
    CATALOGUE[rule] for rule in ("frame-free", "frame-foreign", "frame-poisoned", "frame-node")
)
#: types and flags that are not a use by somebody else
_RULES = {"buddy": _FREE, "guard": _FREE, "offline": _POISONED, "poisoned": _POISONED}
#: ``_mapcount`` of a page that no process maps; of one that has a type it is negative, too
_NOT_MAPPED = 0xFFFF_FFFF
_NEGATIVE = np.uint32(1 << 31)


def is_odd(
    flags: NDArray[np.uint64],
    mapcount: NDArray[np.uint32],
    states: PageStates,
    node: int | None = None,
) -> NDArray[np.bool_]:
    """
    Tell which frames are marked for any use, or are of another node.

    :param flags: ``page->flags`` of each
    :param mapcount: ``_mapcount`` of each, unsigned, same shape
    :param node: the node that they should be of, ``None`` for any
    """
    looked_at, unused = (np.uint64(word) for word in states.unused(node))
    odd: NDArray[np.bool_] = (flags & looked_at) != unused
    odd |= mapcount != np.uint32(_NOT_MAPPED)
    return odd


def check_states(
    frames: Frames,
    flags: NDArray[np.uint64],
    mapcount: NDArray[np.uint32],
    states: PageStates,
    geometry: Geometry,
    findings: Collector,
) -> None:
    """
    Check what frames are marked for.

    :param frames: those that :func:`is_odd` tells
    :param flags: ``page->flags`` of each, shape ``(n,)``
    :param mapcount: ``_mapcount`` of each, unsigned, shape ``(n,)``
    """
    kind = mapcount & np.uint32(states.type_mask)
    negative = mapcount >= _NEGATIVE
    for value, name in states.types.items():
        _report(frames, negative & (kind == np.uint32(value)), name, geometry, findings)
    _report(frames, ~negative, "mapped by a process", geometry, findings)
    for name, mask in states.flags.items():
        _report(frames, (flags & np.uint64(mask)) != 0, name, geometry, findings)


_WORDS: dict[Rule, Callable[[str], str]] = {
    _FREE: lambda name: f"the frame is free ({name})",
    _POISONED: lambda name: f"the frame is {name}",
    _FOREIGN: lambda name: f"the frame is somebody else's: {name}",
}


def _report(
    frames: Frames, which: NDArray[np.bool_], name: str, geometry: Geometry, findings: Collector
) -> None:
    rule = _RULES.get(name, _FOREIGN)
    index = np.flatnonzero(which)
    told = index[: findings.room(rule)]
    for i in told.tolist():
        findings.add(
            rule,
            _WORDS[rule](name),
            vaddr=geometry.address(int(frames.vpage[i])),
            pfn=int(frames.pfn[i]),
            expected="allocated, and marked for no use",
            observed=name,
        )
    findings.add_uncounted(rule, len(index) - len(told))


class OffNode:
    """Frames of a pagemap that are on another node than the device."""

    def __init__(self, node: int) -> None:
        self.node = node
        self._count = 0
        self._nodes: set[int] = set()
        #: vpage and pfn of the first
        self._first: tuple[int, int] | None = None

    def add(self, frames: Frames, nodes: NDArray[np.uint64]) -> None:
        """
        Add frames, at least one.

        :param nodes: of each, shape ``(n,)``
        """
        self._count += frames.total
        self._nodes.update(np.flatnonzero(np.bincount(nodes.astype(np.int64))).tolist())
        first = int(frames.vpage.argmin())
        here = (int(frames.vpage[first]), int(frames.pfn[first]))
        self._first = here if self._first is None else min(self._first, here)

    def tell(self, geometry: Geometry, findings: Collector) -> None:
        """Report them, all as one."""
        if self._first is None:
            return
        vpage, pfn = self._first
        findings.add(
            _NODE,
            f"{self._count} of its frames are on another node than the device",
            vaddr=geometry.address(vpage),
            pfn=pfn,
            expected=f"node {self.node}",
            observed="node " + ", ".join(str(one) for one in sorted(self._nodes)[:4]),
        )
