# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The reader of XArrays, on trees of any form.

Trees are built here, node by node (``include/linux/xarray.h``: struct xa_node,
xa_mk_node(), xa_mk_sibling()), so that what is in them is known.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any

import pytest
from drgn import Architecture, FaultError, Object, Platform, Program, TypeKind, TypeMember
from hypothesis import given, settings
from hypothesis import strategies as st

from vmemscope.kernel.xarray import Entry, entries

SAME = settings(max_examples=150, deadline=None, derandomize=True, database=None)

ROOT, FIRST_NODE, NODE = 0x1000, 0x10000, 576
CHUNK, SLOTS, SLOTS_OFFSET = 6, 64, 40
#: shift of the top node: indices of 30 bits
TOP = 24


class Tree:
    """An XArray in memory of its own."""

    def __init__(self) -> None:
        self.memory: dict[int, bytearray] = {}
        self.top = self._node(TOP)

    def _node(self, shift: int) -> int:
        address = FIRST_NODE + len(self.memory) * 1024
        self.memory[address] = bytearray(NODE)
        self.memory[address][0] = shift
        return address

    def slot(self, node: int, slot: int) -> int:
        return int(struct.unpack_from("<Q", self.memory[node], SLOTS_OFFSET + 8 * slot)[0])

    def set(self, node: int, slot: int, value: int) -> None:
        struct.pack_into("<Q", self.memory[node], SLOTS_OFFSET + 8 * slot, value)

    def store(self, first: int, shift: int, count: int, value: int) -> bool:
        """Store an entry over adjacent slots of one node; return whether there was room."""
        node = self.top
        for level in range(TOP, shift, -CHUNK):
            at = first >> level & SLOTS - 1
            child = self.slot(node, at)
            if not child:
                child = self._node(level - CHUNK) + 2
                self.set(node, at, child)
            elif child & 3 != 2 or child < 4096:
                return False
            node = child - 2
        at = first >> shift & SLOTS - 1
        if any(self.slot(node, at + i) for i in range(count)):
            return False
        self.set(node, at, value)
        for i in range(1, count):
            self.set(node, at + i, at << 2 | 2)
        return True

    def program(self, head: int, missing: Iterable[int] = ()) -> tuple[Program, Object]:
        """Get a program with the tree, and the XArray."""
        prog = Program(Platform(Architecture.X86_64))
        void = prog.pointer_type(prog.void_type())
        byte = prog.int_type("unsigned char", 1, False)
        types = {
            "xa_node": prog.struct_type(
                "xa_node",
                NODE,
                (
                    TypeMember(byte, "shift", 0),
                    TypeMember(prog.array_type(void, SLOTS), "slots", SLOTS_OFFSET * 8),
                ),
            ),
            "xarray": prog.struct_type("xarray", 8, (TypeMember(void, "xa_head", 0),)),
        }

        def find(_: Program, kinds: Any, name: str, filename: str | None) -> Any:
            return types.get(name) if TypeKind.STRUCT in kinds else None

        prog.register_type_finder("test", find, enable_index=0)
        gone = set(missing)
        for address, data in {ROOT: head.to_bytes(8, "little"), **self.memory}.items():
            if address not in gone:
                content = bytes(data)
                prog.add_memory_segment(
                    address, len(content), lambda _a, count, at, _p, c=content: c[at : at + count]
                )
        return prog, Object(prog, "struct xarray", address=ROOT)


#: (place, level, slots), as seeds of where something is stored
STORED = st.lists(
    st.tuples(st.integers(0, (1 << TOP + CHUNK) - 1), st.integers(0, 4), st.integers(1, SLOTS)),
    max_size=12,
)
#: what is done to nodes: (which, byte, what is written there)
DAMAGE = st.lists(
    st.tuples(
        st.integers(0, 40),
        st.integers(0, NODE - 8),
        st.one_of(
            # A node, an ancestor or itself among them; a sibling; anything.
            st.integers(0, 40).map(lambda i: FIRST_NODE + i * 1024 + 2),
            st.integers(0, SLOTS - 1).map(lambda i: i << 2 | 2),
            st.integers(0, (1 << 64) - 1),
        ),
    ),
    min_size=1,
    max_size=8,
)


def tree_of(stored: list[tuple[int, int, int]]) -> tuple[Tree, list[Entry]]:
    """Build a tree; get it with what is in it."""
    tree, inside = Tree(), []
    for number, (place, level, slots) in enumerate(stored):
        shift = level * CHUNK
        first = place >> shift << shift
        count = min(slots, SLOTS - (first >> shift & SLOTS - 1))
        value = 0xFFFF_8880_0000_1000 + number * 64
        if tree.store(first, shift, count, value):
            inside.append(Entry(first, count << shift, value))
    return tree, sorted(inside)


@SAME
@given(STORED)
def test_what_is_stored_is_read(stored: list[tuple[int, int, int]]) -> None:
    tree, inside = tree_of(stored)
    _, xa = tree.program(tree.top + 2)
    assert entries(xa) == (inside, [])


@pytest.mark.parametrize("head", [0, 0xFFFF_8880_0000_1000])
def test_without_a_node(head: int) -> None:
    _, xa = Tree().program(head)
    assert entries(xa) == ([Entry(0, 1, head)] if head else [], [])


def test_xarray_that_can_not_be_read() -> None:
    tree = Tree()
    _, xa = tree.program(tree.top + 2, [ROOT])
    with pytest.raises(FaultError):
        entries(xa)


@SAME
@given(STORED, DAMAGE, st.sets(st.integers(0, 20), max_size=3))
def test_damage_is_bounded(
    stored: list[tuple[int, int, int]], damage: list[tuple[int, int, int]], missing: set[int]
) -> None:
    tree, inside = tree_of(stored)
    nodes = list(tree.memory)
    touched = set()
    for which, at, value in damage:
        node = nodes[which % len(nodes)]
        touched.add(node)
        tree.memory[node][at : at + 8] = value.to_bytes(8, "little")
    gone = {nodes[i] for i in missing if 0 < i < len(nodes)}
    _, xa = tree.program(tree.top + 2, gone)
    found, damage = entries(xa)
    # No node is read twice, and a node has no more than its slots.
    assert len(found) <= len(nodes) * SLOTS
    assert len(damage) <= len(nodes) * SLOTS
    assert found == sorted(found)
    assert all(one.span > 0 and one.value & 3 != 2 for one in found)
    assert {one.address for one in damage if one.unreadable}.isdisjoint(set(nodes) - gone)
    if not touched - gone and not damage:
        assert found == inside


@SAME
@given(STORED, st.sets(st.integers(1, 20), min_size=1, max_size=3))
def test_nodes_that_are_missing_take_only_what_is_in_them(
    stored: list[tuple[int, int, int]], missing: set[int]
) -> None:
    tree, inside = tree_of(stored)
    nodes = list(tree.memory)
    gone = {nodes[i] for i in missing if i < len(nodes)}
    _, xa = tree.program(tree.top + 2, gone)
    found, damage = entries(xa)
    assert set(found) <= set(inside)
    assert all(one.unreadable and one.address in gone for one in damage)
    # Damage is less than what is gone only if one node is below another.
    assert bool(damage) == bool(gone)
    if not gone:
        assert found == inside
