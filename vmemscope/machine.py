# SPDX-License-Identifier: LGPL-2.1-or-later
"""
One opened kernel, and everything that is read once about it.

Every audit takes a :class:`Kernel`. It reads each part when an audit first uses it, and
keeps it: on a running kernel, a :class:`Kernel` is what one pass read, and
:meth:`Kernel.again` starts the next pass. What can't be read or followed is kept, too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from msgspec.structs import replace

from .arch import architecture_of
from .errors import TargetError, VmemscopeError
from .kernel.dev_pagemap import read_pagemaps
from .kernel.device import name_pagemaps
from .kernel.hwpoison import read_poisoned
from .kernel.mem_section import Sections, read_sections
from .kernel.page import PageLayout, read_page_layout
from .kernel.page_state import PageStates, read_page_states
from .kernel.pglist_data import DEVICE, read_zones
from .kernel.resource import read_resources
from .kernel.system_state import is_booting
from .kernel.uevent import read_uevent_seqnum
from .kernel.vmemmap_tails import Slot, TailSlots, read_slots, shares_devices, slots_of
from .spans import union
from .target.base import page_table_of, target_of
from .target.reads import READ_ERRORS
from .target.virtual import complete
from .timing import phase
from .types import attach_types, check_needs, has_types, sensible_types
from .types.names import DEVICES, MEMORY_MAP
from .types.options import check_memory_model, has_zone_device
from .vmcoreinfo import physmem_bits, physmem_frames
from .vmemmap.direct_map import DirectMap, find_direct_map
from .vmemmap.layout import Geometry, first_compound
from .vmemmap.lost import online_memory, recovered_pagemaps
from .vmemmap.memory import PhysicalMemory
from .vmemmap.pagemaps import PagemapLayout, layouts_of
from .vmemmap.shared_pages import SharedPage, find_ram_leaves, find_shared_pages
from .vmemmap.shared_tails import SharedTail, find_shared_tails, tail_frames
from .vmemmap.struct_pages import flag_layout
from .vmemmap.vmemmap import Vmemmap

if TYPE_CHECKING:
    import os

    import numpy as np
    from drgn import Program
    from numpy.typing import NDArray

    from .arch import Architecture, PageTable
    from .kernel import Damage
    from .kernel.dev_pagemap import Pagemap
    from .kernel.page_flags import FlagLayout
    from .kernel.pglist_data import Zone
    from .kernel.resource import Resource
    from .target import Target
    from .types import Need

__all__ = ("Kernel",)

#: pages of devices that are asked where the node is in page flags
_MAX_DEVICE_PAGES = 16


class Kernel:
    """
    A kernel, and what was read of it.

    :param prog: an open program that is set to a kernel. It is not changed if it has
        types; otherwise it gets those of the kernel's BTF
    :raises VmemscopeError: if it is not set to a Linux kernel, or has no types
    """

    def __init__(self, prog: Program) -> None:
        self._take(_target_of(prog), {})
        if has_types(prog):
            #: source of the types: ``btf``, ``dwarf``, or ``program`` if it had them
            self.types = "program"
        else:
            self._attach("auto", (), None)

    @classmethod
    def open_core(
        cls,
        path: str,
        *,
        vmcoreinfo: str | None = None,
        types: str = "auto",
        symbols: Sequence[str | os.PathLike[str]] = (),
        system_map: str | os.PathLike[str] | None = None,
    ) -> Kernel:
        """
        Open a vmcore.

        :param vmcoreinfo: path of a saved VMCOREINFO note to use instead of the dump's
        :param types: ``auto``, ``btf`` or ``dwarf``
        :param symbols: files with debug symbols
        :param system_map: ``System.map`` of the kernel, for those before Linux 6.0
        :raises VmemscopeError: if it can't be opened, or types are missing
        """
        from .target import open_core

        return cls.open(lambda: open_core(path, vmcoreinfo), types, symbols, system_map)

    @classmethod
    def open_live(
        cls,
        *,
        vmcoreinfo: str | None = None,
        types: str = "auto",
        symbols: Sequence[str | os.PathLike[str]] = (),
        system_map: str | os.PathLike[str] | None = None,
    ) -> Kernel:
        """
        Open the running kernel, through ``/proc/kcore``.

        Parameters and errors are those of :meth:`open_core`.
        """
        from .target import open_live

        return cls.open(lambda: open_live(vmcoreinfo), types, symbols, system_map)

    @classmethod
    def open_qemu(
        cls,
        address: str,
        *,
        vmcoreinfo: str | None = None,
        types: str = "auto",
        symbols: Sequence[str | os.PathLike[str]] = (),
        system_map: str | os.PathLike[str] | None = None,
    ) -> Kernel:
        """
        Attach to a QEMU guest.

        Other parameters and errors are those of :meth:`open_core`.

        :param address: of its QMP socket: ``unix:PATH`` or ``HOST:PORT``
        """
        from .target import open_qemu

        return cls.open(lambda: open_qemu(address, vmcoreinfo), types, symbols, system_map)

    @classmethod
    def open(
        cls,
        opened: Callable[[], Target],
        types: str = "auto",
        symbols: Sequence[str | os.PathLike[str]] = (),
        system_map: str | os.PathLike[str] | None = None,
    ) -> Kernel:
        """
        Open a target, and attach types to it.

        Other parameters and errors are those of :meth:`open_core`.

        :param opened: opens the target
        """
        kernel = cls.__new__(cls)
        timings: dict[str, float] = {}
        with phase(timings, "attach"):
            target = opened()
        kernel._take(target, timings)
        try:
            kernel._attach(types, symbols, system_map)
        except VmemscopeError as error:
            # What is known of a dump may be why: it was cut off, or filtered.
            if target.notes and not target.live:
                error.message += f" ({'; '.join(target.notes)})"
            raise
        return kernel

    def _take(self, target: Target, timings: dict[str, float]) -> None:
        self.target = target
        self.prog = target.prog
        #: seconds per phase, of all passes
        self.timings = timings

    @sensible_types()
    def _attach(
        self,
        types: str,
        symbols: Sequence[str | os.PathLike[str]],
        system_map: str | os.PathLike[str] | None,
    ) -> None:
        with phase(self.timings, "types"):
            self.types = str(attach_types(self.prog, types, symbols, system_map=system_map))

    def again(self) -> Kernel:
        """Return the same kernel with nothing read yet, for another pass."""
        kernel = Kernel.__new__(Kernel)
        kernel._take(self.target, self.timings)
        kernel.types = self.types
        return kernel

    def require(self, needs: Iterable[Need] = ()) -> None:
        """
        Check that the kernel has a vmemmap, and its types the names that an audit relies on.

        :param needs: names besides those that all audits need
        :raises UnsupportedError: if it has no vmemmap
        :raises TypesError: if they lack one
        """
        with phase(self.timings, "types"):
            check_memory_model(self.prog, self.target.vmcoreinfo)
            devices = DEVICES if self.zone_device else ()
            check_needs(self.prog, (*MEMORY_MAP, *devices, *needs))

    @cached_property
    def zone_device(self) -> bool:
        """Whether the kernel can have pagemaps."""
        return has_zone_device(self.prog)

    @property
    def live(self) -> bool:
        """Whether the kernel runs on while it is read."""
        return self.target.live

    @cached_property
    def arch(self) -> Architecture:
        """The architecture's description."""
        return architecture_of(self.prog.platform)

    @cached_property
    def table(self) -> PageTable:
        """Format and root of ``init_mm``'s page tables."""
        return page_table_of(self.prog, self.target.vmcoreinfo)

    @property
    def page_size(self) -> int:
        """Bytes in a base page."""
        return self.table.page_size

    @cached_property
    def sections(self) -> Sections:
        """
        The present sections.

        :raises TargetError: if the vmemmap can't be found, or no kernel runs in a live target
        """
        if self.live and is_booting(self.prog):
            raise TargetError(
                "the kernel still boots: its memory map is not complete",
                "audit it when it has started its first process",
            )
        why = "no section is present"
        try:
            found = read_sections(
                self.prog, self.target.vmcoreinfo, self.page_size, self.arch.kernel_space
            )
        except TargetError as e:
            if not self.live:
                raise
            why = e.message
        else:
            # A dump can lack the table; to a kernel that runs, it is there.
            if len(found.number) or not self.live:
                return found
            why = next((one.message for one in found.damage), why)
        raise TargetError(
            f"the kernel does not run any more, or not yet: {why}",
            "did it start again, or did its machine end? Audit it when it has booted",
        )

    @cached_property
    def page(self) -> PageLayout:
        """Where members are in a ``struct page``."""
        return read_page_layout(self.prog)

    @cached_property
    def geometry(self) -> Geometry:
        """The sizes that determine the layout of the vmemmap."""
        return Geometry(
            self.arch,
            self.page_size,
            self.page.size,
            self.sections.vmemmap,
            self.arch.vmemmap(self.target.vmcoreinfo, self._word),
        )

    def _word(self, variable: str) -> int:
        """Read a variable that is a word, 0 if there is none or it can't be read."""
        try:
            return int(self.prog.read_u64(self.prog.symbol(variable).address))
        except (LookupError, *READ_ERRORS):
            return 0

    @cached_property
    def physmem_bits(self) -> int:
        """Bits of a physical address, at most."""
        return physmem_bits(self.target.vmcoreinfo)

    @cached_property
    def max_frames(self) -> int:
        """Page frames that the kernel can have."""
        return physmem_frames(self.target.vmcoreinfo, self.page_size)

    @cached_property
    def vmemmap_end(self) -> int:
        """The first page of the address space after the vmemmap, as a vpage."""
        return self.geometry.vpage_at(self.geometry.end(self.max_frames))

    @cached_property
    def uevents(self) -> int | None:
        """How often the kernel has announced that a device came, went or changed."""
        return read_uevent_seqnum(self.prog)

    @cached_property
    def _pagemaps(self) -> tuple[list[Pagemap], list[Damage]]:
        if not self.zone_device:
            return [], []
        found, damage = read_pagemaps(self.prog)
        if any(one.unreadable for one in damage):
            found += recovered_pagemaps(
                self.prog, self._on_all_memory, {one.address for one in found}
            )
        return found, damage

    @property
    def pagemaps(self) -> list[Pagemap]:
        """Every ``struct dev_pagemap`` in ``pgmap_array``."""
        return self._pagemaps[0]

    @property
    def pagemap_damage(self) -> list[Damage]:
        """Nodes and entries of ``pgmap_array`` that can't be followed."""
        return self._pagemaps[1]

    @cached_property
    def layouts(self) -> list[PagemapLayout]:
        """Pagemaps and the ranges of each that are trusted, in order of their first pfn."""
        return layouts_of(
            self.pagemaps,
            name_pagemaps(self.prog, self.pagemaps, self.resources),
            self.pagemap_damage,
            self.physmem_bits,
            self.geometry,
            self.target.osrelease,
            self.sections,
            shares_devices(self.prog),
            slots_of(self.prog) is not TailSlots.ALLOCATED,
        )

    @cached_property
    def shared_pages(self) -> dict[int, SharedPage]:
        """The pages of the vmemmap that describe a device and something else, by vpage."""
        return find_shared_pages(self.prog, self.layouts, self.sections, self.geometry)

    @cached_property
    def ram_leaves(self) -> NDArray[np.int64]:
        """The large leaves that describe a device and RAM, by their numbers in the vmemmap."""
        return find_ram_leaves(self.prog, self.layouts, self.sections, self.geometry)

    @cached_property
    def _resources(self) -> tuple[list[Resource], list[Damage]]:
        return read_resources(self.prog)

    @property
    def resources(self) -> list[Resource]:
        """The tree of ``iomem_resource``, flat."""
        return self._resources[0]

    @property
    def resource_damage(self) -> list[Damage]:
        """Resources that can't be read or followed."""
        return self._resources[1]

    @cached_property
    def _zones(self) -> tuple[list[Zone], list[Damage]]:
        return read_zones(self.prog)

    @property
    def zones(self) -> list[Zone]:
        """The zones of all nodes that are not empty."""
        return self._zones[0]

    @property
    def ram_zones(self) -> list[Zone]:
        """The zones without those of devices."""
        return [zone for zone in self.zones if zone.name != DEVICE]

    @property
    def zone_damage(self) -> list[Damage]:
        """Zones that can't be read."""
        return self._zones[1]

    @cached_property
    def _device_slots(self) -> tuple[list[Slot], list[Damage]]:
        orders = {layout.order for layout in self.layouts if layout.dedup.scheme.per_zone}
        zones = [zone for zone in self.zones if zone.name == DEVICE]
        return read_slots(self.prog, zones, orders) if orders else ([], [])

    @property
    def device_slots(self) -> list[Slot]:
        """The frames of tail pages that devices of a node share, by the orders of pagemaps."""
        return self._device_slots[0]

    @property
    def device_slot_damage(self) -> list[Damage]:
        """Slots that can't be read."""
        return self._device_slots[1]

    @cached_property
    def ram_tails(self) -> NDArray[np.uint64] | None:
        """
        The frames of tail pages that huge pages of a zone share, in order.

        ``None`` if zones have none, or not all of them could be read.
        """
        return None if self.zone_damage else tail_frames(self.prog, self.ram_zones, self.vmemmap)

    @cached_property
    def flags(self) -> FlagLayout:
        """
        The layout of flags, zone and node in ``page->flags``.

        :raises LookupError: if the kernel's types do not have it
        """
        devices = [
            first_compound(layout.pagemap, start)
            for layout in self.layouts
            for start, _ in layout.pfns
        ]
        return flag_layout(self.prog, self.vmemmap, self.ram_zones, devices[:_MAX_DEVICE_PAGES])

    @cached_property
    def shared_tails(self) -> dict[int, SharedTail]:
        """The frame of tail pages that a pagemap shares with others, by the pagemap's address."""
        if not any(layout.dedup.scheme.per_zone for layout in self.layouts):
            return {}
        try:
            flags = self.flags
        except LookupError:
            flags = None
        complete = not (self.pagemap_damage or self.sections.damage)
        return find_shared_tails(self.layouts, self.device_slots, self.vmemmap, flags, complete)

    @cached_property
    def page_states(self) -> PageStates:
        """How a ``struct page`` says what its frame is used for."""
        try:
            flags, zones = self.flags, tuple(self.ram_zones)
        except LookupError:
            # The types lack zones or flags: rules then do not compare node and zone.
            return read_page_states(self.prog, self.target.vmcoreinfo)
        states = read_page_states(self.prog, self.target.vmcoreinfo, flags, zones)
        return replace(states, memory_nodes=None) if self.zone_damage else states

    @cached_property
    def vmemmap(self) -> Vmemmap:
        """The vmemmap, and the physical memory behind it."""
        devices = [(one.start, one.end) for layout in self.layouts for one in layout.ranges]
        ram = self._ram
        if self.resource_damage:
            in_pagemaps = union(layout.frames for layout in self.layouts)
            ram = ram + online_memory(
                self.prog, self._on_all_memory, in_pagemaps, self.physmem_bits
            )
        return self._vmemmap(ram, ram + devices)

    @cached_property
    def direct_map(self) -> DirectMap | None:
        """The direct map, ``None`` if it can't be found."""
        return find_direct_map(self.vmemmap, self.physmem_bits)

    @cached_property
    def _on_all_memory(self) -> Vmemmap:
        """The same, before it is known what pagemaps there are."""
        return self._vmemmap(self._ram, self._ram if self.live else self._everything)

    @property
    def _ram(self) -> list[tuple[int, int]]:
        """System RAM by its resources: physical addresses, both inclusive."""
        return [(one.start, one.end) for one in self.resources if one.is_system_ram]

    @property
    def _everything(self) -> list[tuple[int, int]]:
        return [(0, (1 << self.physmem_bits) - 1)]

    def _vmemmap(self, ram: list[tuple[int, int]], memory: list[tuple[int, int]]) -> Vmemmap:
        readable = self._memory(memory)
        return Vmemmap(
            geometry=self.geometry,
            table=self.table,
            sections=self.sections,
            page=self.page,
            ram=self._memory(ram),
            memory=readable,
            # To read a device of a running machine can have effects; a dump has what it has.
            page_tables=readable if self.live else self._memory(self._everything),
        )

    def _memory(self, ranges: list[tuple[int, int]]) -> PhysicalMemory:
        withheld = self._poisoned if self.target.withholds_poisoned else None
        return PhysicalMemory(self.prog, self.page_size, ranges, withheld)

    def _poisoned(self, pfns: NDArray[np.uint64]) -> NDArray[np.bool_]:
        return read_poisoned(self.prog, self.page, self.sections.vmemmap, pfns)

    @cached_property
    def unread(self) -> Counter[str]:
        """Unreadable structures among those that all audits read: message -> number."""
        damage = (*self.pagemap_damage, *self.resource_damage, *self.sections.damage)
        return Counter(one.message for one in damage if one.unreadable)


def _target_of(prog: Program) -> Target:
    """Return the target of a program that another caller opened."""
    from drgn import ProgramFlags

    kind = "core"
    if prog.flags & ProgramFlags.IS_LIVE:
        kind = "live" if prog.flags & ProgramFlags.IS_LOCAL else "qemu"
    target = target_of(
        prog,
        kind,
        str(prog.core_dump_path or ""),
        TargetError("the program is not set to a Linux kernel that has VMCOREINFO"),
    )
    complete(prog)
    return target
