# SPDX-License-Identifier: LGPL-2.1-or-later
"""
No finding without a cause: what damage can be found in is what it was done to.

What a structure's damage can reach is taken from the kernel's rules and from the
dump as it was before (:class:`tests.kernels.View`), not from the audit.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from drgn import Object, offsetof, sizeof

from tests.kernels import FRAME, PAGE, STRUCT_PAGE, Leaf

from .answers import problems, problems_of
from .child import run
from .conftest import SEED
from .dump import Damage
from .session import Session

Sessions = Callable[[str], Session]

IMAGES = ["6.1-all", "7.2-all"]


class Image:
    """An image, its pagemaps and what of the vmemmap belongs to each."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.view = session.map.view
        self.prog = self.view.prog
        self.random = random.Random(f"causes {SEED}")
        self.ranges = {one.address: one.ranges for one in session.map.pagemaps}
        #: leaves of the vmemmap by pagemap
        self.leaves: dict[int, list[Leaf]] = {address: [] for address in self.ranges}
        for leaf in self.view.leaves():
            for address in self.owners((leaf.va - self.view.vmemmap) // STRUCT_PAGE):
                self.leaves[address].append(leaf)
        self.frames = {
            address: {leaf.pfn + i for leaf in leaves for i in range(1 << leaf.shift - 12)}
            for address, leaves in self.leaves.items()
        }
        self.ram = [
            leaf
            for leaf in self.view.leaves()
            if not self.owners((leaf.va - self.view.vmemmap) // STRUCT_PAGE)
        ]

    def owners(self, pfn: int) -> list[int]:
        """Return the pagemaps that a page frame belongs to."""
        return [
            address
            for address, ranges in self.ranges.items()
            if any(start <= pfn < end for start, end in ranges)
        ]

    def write(self, physical: int, data: bytes) -> tuple[int, bytes]:
        offset = self.session.dump.offset(physical)
        assert offset is not None
        return offset, data

    def at(self, address: int, data: bytes) -> tuple[int, bytes]:
        """Write to a virtual address."""
        physical = self.session.map.physical(address)
        assert physical is not None
        return self.write(physical, data)

    def entry(self, leaf: Leaf, value: int) -> tuple[int, bytes]:
        """Write the entry that maps a leaf."""
        return self.write(
            self.view.path(leaf.va)[-1].at, (value & (1 << 64) - 1).to_bytes(8, "little")
        )

    def page(self, pfn: int, offset: int, data: bytes) -> tuple[int, bytes]:
        """Write to a struct page."""
        return self.at(self.view.vmemmap + pfn * STRUCT_PAGE + offset, data)

    def report(self, *writes: tuple[int, bytes]) -> Any:
        """Return the report on the image with something overwritten."""
        with self.session.dump.damaged(Damage("", writes)) as path:
            ran = run([("pgmap", "-c", path, "--format", "json")], judge=problems_of)
        assert problems(ran) == []
        (answer,) = ran.answers
        assert answer.status in (0, 1, 4), answer.err
        return json.loads(answer.out)

    def found(self, *writes: tuple[int, bytes]) -> dict[int | None, set[str]]:
        """Return the rules that have findings of an error or warning, by pagemap."""
        document = self.report(*writes)
        groups = [(None, document["findings"])]
        groups += [(int(one["address"], 16), one["findings"]) for one in document["pgmaps"]]
        found = {
            address: {one["rule"] for one in findings if one["severity"] != "note"}
            for address, findings in groups
        }
        return {address: rules for address, rules in found.items() if rules}


@pytest.fixture(scope="module")
def image(session: Sessions, request: pytest.FixtureRequest) -> Image:
    found = Image(session(request.param))
    assert found.found() == {}
    return found


images = pytest.mark.parametrize("image", IMAGES, indirect=True)


def same(one: Any, other: Any) -> bool:
    """Return whether two reports say the same, the time that they took aside."""
    return {**one, "timings": {}} == {**other, "timings": {}}


@images
class TestNotInterpreted:
    """Bytes that say nothing about the memory map: the report is the same."""

    def test_bits_of_entries_that_the_processor_or_nobody_uses(self, image: Image) -> None:
        # arch/x86/include/asm/pgtable_types.h: ACCESSED, DIRTY, SOFTW1 to 3; SDM: 52 to 58
        # are ignored.
        bits = (5, 6, 9, 10, 11, 52, 53, 57, 58)
        every = [leaf for leaves in image.leaves.values() for leaf in leaves]
        leaves = image.random.sample(every, 40)
        writes = [image.entry(one, one.entry ^ 1 << image.random.choice(bits)) for one in leaves]
        assert same(image.report(*writes), image.report())

    def test_leftovers_in_struct_pages_of_frames(self, image: Image) -> None:
        # lru, mapping, index and private of an order-0 page are its last user's.
        frames = [leaf.pfn for leaves in image.leaves.values() for leaf in leaves]
        frames = [pfn for pfn in dict.fromkeys(frames) if not image.owners(pfn)]
        writes = [
            image.page(pfn, 8, image.random.randbytes(40))
            for pfn in image.random.sample(frames, 40)
        ]
        assert same(image.report(*writes), image.report())

    def test_pages_in_use(self, image: Image) -> None:
        # A page of a device that is mapped has a mapping, an index and references.
        writes = []
        for ranges in list(image.ranges.values())[:2]:
            head = ranges[0][0]
            writes.append(image.page(head, 24, image.random.randbytes(16)))
            writes.append(image.page(head, 52, (77).to_bytes(4, "little")))
        assert same(image.report(*writes), image.report())

    def test_members_of_pagemaps_that_are_no_layout(self, image: Image) -> None:
        pagemap = image.prog.type("struct dev_pagemap")
        writes = []
        for address in image.ranges:
            for member in ("done", "ops", "owner"):
                start = address + offsetof(pagemap, member)
                size = sizeof(pagemap.member(member).type)
                writes.append(image.at(start, image.random.randbytes(size)))
        assert same(image.report(*writes), image.report())

    def test_memory_of_somebody_else(self, image: Image) -> None:
        # Pages of RAM that are neither structures nor tables nor anybody's that is known.
        dump, places = image.session.dump, image.session.map.places
        used = {
            place.offset // PAGE
            for kind, found in places.items()
            for place in found
            if kind != "anywhere"
        }
        frames = {pfn for found in image.frames.values() for pfn in found}
        memory_map = {leaf.pfn + i for leaf in image.ram for i in range(1 << leaf.shift - 12)}
        spare = [
            load.offset + at
            for load in dump.loads
            for at in range(0, load.size - PAGE, PAGE)
            if (load.offset + at) // PAGE not in used
            and (load.offset + at) // PAGE + 1 not in used
            and (load.paddr + at) // PAGE not in frames | memory_map
            and not any(dump.read(load.offset + at, PAGE))
        ]
        chosen = image.random.sample(spare, min(40, len(spare)))
        assert chosen
        writes = [(offset, image.random.randbytes(PAGE)) for offset in chosen]
        assert same(image.report(*writes), image.report())


@images
class TestReach:
    """Damage to one structure is found in the pagemaps that it is of, and in no other."""

    def test_of_a_pagemap(self, image: Image) -> None:
        pagemap = image.prog.type("struct dev_pagemap")
        size, range_size = sizeof(pagemap), sizeof(image.prog.type("struct range"))
        first, count = offsetof(pagemap, "range"), offsetof(pagemap, "nr_range")
        for address in list(image.ranges) * 4:
            raw = bytearray(image.prog.read(address, size))
            at = image.random.randrange(0, size - 8)
            raw[at : at + 8] = image.random.randbytes(8)
            nr_range = int.from_bytes(raw[count : count + 4], "little")
            start, end = (
                int.from_bytes(raw[first + i : first + i + 8], "little") // PAGE for i in (0, 8)
            )
            others = [one for one in image.ranges if one != address]
            if nr_range != 1 or any(
                start < there_end and there_start <= end
                for one in others
                for there_start, there_end in image.ranges[one]
            ):
                # It claims what is another's: then that other one is damaged, too.
                assert range_size == 16
                continue
            writes = [image.at(address + i, raw[i : i + 8]) for i in range(0, size - 7, 8)]
            assert set(image.found(*writes)) <= {address}, (hex(address), at)

    def test_of_an_entry(self, image: Image) -> None:
        everywhere = sorted(set.union(*image.frames.values()))
        for address, leaves in image.leaves.items():
            for leaf in image.random.sample(leaves, min(6, len(leaves))):
                pfn = image.random.choice(
                    (leaf.pfn + 1, leaf.pfn - 1, 0, 1 << 39, image.random.choice(everywhere))
                ) & ~((1 << leaf.shift - 12) - 1)
                value = image.random.choice(
                    (leaf.entry & ~FRAME | pfn << 12, leaf.entry & ~1, leaf.entry ^ 2, 0)
                )
                named = range(pfn, pfn + (1 << leaf.shift - 12))
                reached = {address} | {
                    one for one, frames in image.frames.items() if frames.intersection(named)
                }
                found = image.found(image.entry(leaf, value))
                assert set(found) <= reached, (hex(address), leaf, hex(value), found)

    def test_of_a_struct_page(self, image: Image) -> None:
        for address, ranges in image.ranges.items():
            (start, end), *_ = ranges
            for pfn in [start, start + 1, start + 2, *image.random.sample(range(start, end), 2)]:
                found = image.found(image.page(pfn, 0, image.random.randbytes(STRUCT_PAGE)))
                assert set(found) <= {address}, (hex(address), hex(pfn), found)

    def test_of_a_frames_struct_page(self, image: Image) -> None:
        for address, frames in image.frames.items():
            ram = sorted(pfn for pfn in frames if not image.owners(pfn))
            for pfn in image.random.sample(ram, min(4, len(ram))):
                found = image.found(image.page(pfn, 0, image.random.randbytes(STRUCT_PAGE)))
                assert set(found) <= {address}, (hex(address), hex(pfn), found)

    def test_of_an_entry_of_pgmap_array(self, image: Image) -> None:
        nodes = [image.prog["pgmap_array"].xa_head.value_() - 2]
        slots = []
        while nodes:
            node = Object(image.prog, "struct xa_node", address=nodes.pop())
            for slot in node.slots:
                if slot.value_() in image.ranges:
                    slots.append(slot)
                elif slot.value_() > PAGE:
                    nodes.append(slot.value_() - 2)
        assert slots
        for slot in slots[:8]:
            found = image.found(image.at(slot.address_, bytes(8)))
            # One that is in no other entry is lost: then there is nobody to find it.
            assert found in ({slot.value_(): {"xarray"}}, {}), found

    def test_of_a_sections_usage(self, image: Image) -> None:
        per_root = PAGE // sizeof(image.prog.type("struct mem_section"))
        for address, ranges in image.ranges.items():
            section = ranges[0][0] >> 15
            usage = image.prog["mem_section"][section // per_root][section % per_root].usage
            where = usage.subsection_map.address_
            within = {
                one
                for pfn in range(section << 15, section + 1 << 15, 512)
                for one in image.owners(pfn)
            }
            found = image.found(image.at(where, image.random.randbytes(8)))
            assert set(found) <= within
            assert set().union(*found.values()) <= {"subsection-map"}
            assert address in within

    def test_of_a_resources_name(self, image: Image) -> None:
        pending: list[Object] = [image.prog["iomem_resource"].child]
        names: Sequence[int] = []
        while pending:
            one = pending.pop()
            if one:
                names = [*names, one.name.address_]
                pending += [one.sibling, one.child]
        for value in (bytes(8), b"\xff" * 8, b"\1" * 8):
            assert image.found(*(image.at(name, value) for name in names)) == {}
