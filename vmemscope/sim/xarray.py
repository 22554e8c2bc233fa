# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Stores ranges in an XArray as ``lib/xarray.c: xa_store_range()`` does.

A range is cut into pieces that lie in one node each; the first slot of a piece
holds the entry, the others sibling entries that point back to it.
"""

from __future__ import annotations

from collections.abc import Callable

from .objects import Struct

__all__ = ("XArray",)

XA_CHUNK_SHIFT = 6
XA_CHUNK_SIZE = 1 << XA_CHUNK_SHIFT
XA_CHUNK_MASK = XA_CHUNK_SIZE - 1


def _is_node(entry: int) -> bool:
    return entry & 3 == 2 and entry > 4096


class XArray:
    """
    An XArray in simulated memory.

    :param xa: the ``struct xarray``
    :param alloc_node: allocates a zeroed ``struct xa_node``
    """

    def __init__(self, xa: Struct, alloc_node: Callable[[], Struct]) -> None:
        self.xa = xa
        self.memory = xa.memory
        self.alloc_node = alloc_node

    def store_range(self, first: int, last: int, entry: int) -> None:
        """Store a pointer at all indices of a range, both ends included."""
        while first <= last:
            shift, slots = _largest_piece(first, last)
            self._store(first, shift, slots, entry)
            first += slots << shift

    def node(self, entry: int) -> Struct:
        """``xa_to_node()``."""
        return self.memory.struct("xa_node", entry - 2)

    def nodes(self) -> list[Struct]:
        """Return all nodes, the root first."""
        head = self.xa["xa_head"]
        found = [self.node(head)] if _is_node(head) else []
        for node in found:
            if node["shift"]:
                slots = (node[f"slots[{i}]"] for i in range(XA_CHUNK_SIZE))
                found += [self.node(slot) for slot in slots if _is_node(slot)]
        return found

    def _new_node(self, shift: int, parent: Struct | None, offset: int) -> Struct:
        node = self.alloc_node()
        node["shift"] = shift
        node["offset"] = offset
        node["array"] = self.xa.va
        node["parent"] = parent.va if parent is not None else 0
        node.init_list("private_list")
        if parent is not None:
            self._set_slot(parent, offset, node.va | 2)
        return node

    def _set_slot(self, node: Struct, offset: int, entry: int) -> None:
        if not node[f"slots[{offset}]"]:
            node["count"] = node["count"] + 1
        node[f"slots[{offset}]"] = entry

    def _expand(self, last: int) -> Struct:
        """``xas_expand()``: make the tree deep enough for an index."""
        head = self.xa["xa_head"]
        if not head:
            shift = 0
            while last >> shift >= XA_CHUNK_SIZE:
                shift += XA_CHUNK_SHIFT
            root = self._new_node(shift, None, 0)
            self.xa["xa_head"] = root.va | 2
            return root
        root = self.node(head)
        while last >> root["shift"] >= XA_CHUNK_SIZE:
            parent = self._new_node(root["shift"] + XA_CHUNK_SHIFT, None, 0)
            self._set_slot(parent, 0, root.va | 2)
            root["parent"] = parent.va
            self.xa["xa_head"] = parent.va | 2
            root = parent
        return root

    def _store(self, index: int, shift: int, slots: int, entry: int) -> None:
        node = self._expand(index + (slots << shift) - 1)
        while node["shift"] > shift:
            offset = index >> node["shift"] & XA_CHUNK_MASK
            slot = node[f"slots[{offset}]"]
            if slot:
                node = self.node(slot)
            else:
                node = self._new_node(node["shift"] - XA_CHUNK_SHIFT, node, offset)
        offset = index >> shift & XA_CHUNK_MASK
        self._set_slot(node, offset, entry)
        for i in range(1, slots):
            # xa_mk_sibling()
            self._set_slot(node, offset + i, offset << 2 | 2)


def _largest_piece(first: int, last: int) -> tuple[int, int]:
    """
    Find the piece that a store at a range begins with (``xas_set_range()``):
    as many slots as the range covers whole, of one node, as high in the tree as
    the alignment of the first index lets it be.

    :return: shift of the node, number of slots
    """
    count = last - first + 1
    shift = 0
    while first % (1 << shift + XA_CHUNK_SHIFT) == 0 and count >> shift + XA_CHUNK_SHIFT:
        shift += XA_CHUNK_SHIFT
    offset = first >> shift & XA_CHUNK_MASK
    return shift, min(count >> shift, XA_CHUNK_SIZE - offset)
