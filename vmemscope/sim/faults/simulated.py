# SPDX-License-Identifier: LGPL-2.1-or-later
"""Faults planted in the simulator's memory."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from ...errors import UsageError
from ..hugetlb import Folio
from ..layouts import Member
from .planted import Change, Record, Struct
from .planter import HugetlbPlanter, Planter

if TYPE_CHECKING:
    from ..kernel import SimulatedKernel

__all__ = ("SimHugetlbPlanter", "SimPlanter")


class SimPlanter(Planter):
    """The same, in the simulator's memory."""

    def __init__(
        self,
        kernel: SimulatedKernel,
        kind: str,
        rules: Collection[tuple[str, str]],
        record: Record | None,
    ) -> None:
        super().__init__(kind, rules, record)
        self.kernel = kernel
        self.units = kernel.units
        self.tables = kernel.tables
        self.memmap = kernel.memmap
        self.layouts = kernel.layouts

    def error(self, message: str) -> UsageError:
        return UsageError(f"scenario {self.kernel.scenario.name}: {super().error(message)}")

    def member(self, name: str, path: str) -> Member:
        if not path:
            return Member(0, self.layouts.sizeof(name))
        return self.layouts.member(name, path)

    def constant(self, name: str) -> int:
        return self.layouts.constant(name)

    def symbol(self, name: str) -> int:
        # Variables of numbers are written when all else has been.
        return self.kernel.image[name]

    def page_va(self, pfn: int) -> int:
        return self.kernel.addresses.pfn_to_page(pfn)

    def _physical(self, va: int) -> int:
        if self.kernel.addresses.vmemmap_base <= va < self.kernel.addresses.vmemmap_end:
            pa = self.tables.translate(va)
            assert pa is not None, hex(va)
            return pa
        return self.kernel.memory.pa(va)

    def read_bytes(self, va: int, size: int) -> bytes:
        return self.kernel.physical.read(self._physical(va), size)

    def write_bytes(self, va: int, data: bytes) -> None:
        self.kernel.physical.write(self._physical(va), data)

    def frame_bytes(self, pfn: int) -> bytes:
        return self.kernel.physical.page(pfn).tobytes()

    def set_frame_bytes(self, pfn: int, data: bytes) -> None:
        self.kernel.physical.write(pfn * self.units.page_size, data)

    def path(self, va: int) -> list[tuple[int, int, int]]:
        return list(self.tables.tables(va))

    def write_entry(self, va: int, shift: int, entry: int) -> None:
        self.tables.set(va, shift, entry)

    def alloc_pages(self, order: int = 0, nid: int = 0) -> int:
        pages = self.kernel.pages
        return pages.alloc_pages(order, nid) if order else pages.alloc_page(nid)

    def free_page(self, pfn: int) -> None:
        self.kernel.pages.free_page(pfn)

    def is_ram(self, pfn: int) -> bool:
        return any(start <= pfn < end for start, end, _ in self.kernel.ram)

    def pagemap(self, name: str) -> Record:
        return self.kernel.pagemap(name)

    @property
    def memory_end(self) -> int:
        return self.kernel.memory_end

    def per_cpu(self, pointer: int, cpu: int) -> int:
        return self.kernel.percpu.address(pointer, cpu)

    def process_pgd(self, number: int) -> int:
        return self.kernel.addresses.va(self.kernel.tasks.pgds[number] * self.units.page_size)

    def resource(self) -> int:
        return self.kernel.pagemap(self.record.name).resources[0].va

    def section(self, number: int) -> Struct | None:
        found = self.kernel.sections.get(number)
        return None if found is None else self.struct("mem_section", found.va)

    def at_last(self, va: int, shift: int, entry: int) -> None:
        # Until then struct pages of RAM are written to.
        self.changes.append(Change(va, shift, True, self.entry(va, shift), entry))
        self.kernel.last_steps.append(lambda: self.write_entry(va, shift, entry))

    def count(self, name: str, by: int) -> None:
        self.kernel.counters[name] += by

    def counts(self, name: str) -> bool:
        return name in self.kernel.counters

    def has_boot_memmap(self, section: int) -> bool:
        return section in self.kernel.boot_memmap

    def shared_from(self, pfn: int) -> tuple[str, int] | None:
        devices = {
            frame
            for (_, zone, _), frame in self.kernel.shared_tails.frames.items()
            if zone == "ZONE_DEVICE"
        }
        if pfn not in devices:
            return None
        ranges = [(*one, record) for record in self.kernel.pagemaps for one in record.ranges]
        for start, end, record in sorted(ranges, key=lambda one: one[:2]):
            for va in self.entries_of(pfn, start, end):
                return record.name, va
        return None


class SimHugetlbPlanter(HugetlbPlanter, SimPlanter):
    """Plants faults in the HugeTLB of the simulator."""

    @property
    def folios(self) -> Sequence[Folio]:
        return self.kernel.hugetlb.folios

    def forget_reset(self) -> None:
        self.kernel.hugetlb.write_restore(resets=False)
