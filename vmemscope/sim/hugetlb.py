# SPDX-License-Identifier: LGPL-2.1-or-later
"""
HugeTLB: pools of huge pages, and the optimization of their vmemmap (HVO).

Sources: ``mm/hugetlb.c``, ``mm/hugetlb_vmemmap.c``, ``include/linux/hugetlb.h``. Folios
are allocated once devices are up; which of the three generations of HVO a kernel
has is told by its structures: ``zone->vmemmap_tails`` (7.1), else whether the
memory map's own size is counted (6.2 to 7.0, of which 6.12 is simulated).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ..errors import UsageError
from .addresses import STRUCT_PAGE_SIZE
from .kernel_image import KernelImage
from .memmap import TAIL_MAPPING
from .memory import Words
from .nodes import MAX_NUMNODES, Nodes, add_pages_to_list
from .objects import Struct
from .pagetable import KERNEL, PSE, RW, TABLE
from .scenario import HugePages
from .shared_tails import SharedTails
from .sparse import Sections
from .units import Units
from .versions import Behaviour
from .vmemmap import Vmemmap

__all__ = ("Folio", "Hugetlb")

#: bytes of vmemmap_restore_pte()
_RESTORE_SIZE = 256

_DIRTY = 1 << 6
_RESTORE_RESERVE, _FREED = "HPG_restore_reserve", "HPG_freed"


@dataclass
class Folio:
    """A huge page."""

    pfn: int
    order: int
    nid: int
    in_use: bool
    optimized: bool
    #: its memory map was populated by the order of its sections
    by_section: bool = False
    #: sizeof(struct page)
    struct_page: int = STRUCT_PAGE_SIZE
    units: Units = field(default_factory=Units)

    @property
    def vmemmap_pages(self) -> int:
        """Pages of vmemmap that describe it."""
        return self.struct_page * (1 << self.order) // self.units.page_size


class Hugetlb:
    """
    ``hstates`` and the folios on their lists.

    :param shared: frames of tail pages that a zone's folios share
    :param sections: whose orders say how the memory map of pages from boot is populated
    :param enabled: whether folios allocated at run time would be optimized
    """

    def __init__(
        self,
        image: KernelImage,
        nodes: Nodes,
        vmemmap: Vmemmap,
        behaviour: Behaviour,
        shared: SharedTails,
        sections: Sections,
        enabled: bool,
    ) -> None:
        self.memory, self.nodes, self.vmemmap = image.memory, nodes, vmemmap
        self.units = units = self.memory.units
        self.layouts, self.addresses = self.memory.layouts, self.memory.addresses
        self.tables, self.pages, self.memmap = vmemmap.tables, vmemmap.pages, vmemmap.memmap
        self.shared, self.has_shared_tails = shared, shared.exist
        self.sections = sections
        #: the head page's frame is a new one
        self.replaces_head = self.has_shared_tails or behaviour.vmcoreinfo_vmemmap
        self.folios: list[Folio] = []
        #: frames from boot that are in the memory map no more
        self.freed = 0
        #: address of vmemmap_restore_pte()
        self.restore = image.define("vmemmap_restore_pte", _RESTORE_SIZE, "text", 16, static=True)
        orders = units.huge_orders
        size = self.layouts.sizeof("hstate")
        base = image.define("hstates", len(orders) * size, "bss", 64)
        # All of it is in memory, as much as is zeros.
        self.memory.write(base, bytes(len(orders) * size))
        self.hstates: dict[int, Struct] = {}
        for i, order in enumerate(orders):
            hstate = self.memory.struct("hstate", base + i * size)
            hstate["order"] = order
            hstate["mask"] = -(units.page_size << order)
            hstate.set_bytes("name", b"hugepages-%dkB" % (units.page_size << order >> 10))
            hstate.init_list("hugepage_activelist")
            # hugetlb_add_hstate(): also the lists of nodes that do not exist.
            base_of = hstate.addr("hugepage_freelists")
            lists = base_of + 16 * np.arange(MAX_NUMNODES, dtype=np.uint64)
            self.memory.write(base_of, lists.repeat(2).astype(units.word).tobytes())
            self.hstates[order] = hstate
        word = image.define_word
        word("hugetlb_max_hstate", len(orders), 4)
        word("default_hstate_idx", 0, 4)
        word("vmemmap_optimize_enabled", int(enabled), 1, static=True)
        self.write_restore(resets=not self.has_shared_tails)
        self.key: Struct | None = None
        if not self.has_shared_tails:
            self.key = image.define_struct("hugetlb_optimize_vmemmap_key", "static_key_false")

    @property
    def pte_read_only(self) -> int:
        """Flags of a read-only entry: PAGE_KERNEL_RO, the dirty bit cleared since 6.6."""
        if not self.memory.arch.read_only:
            return KERNEL
        flags = KERNEL & ~RW
        return flags & ~_DIRTY if self.replaces_head else flags

    def allocate(self, pages: HugePages, boot: Sequence[int] = ()) -> list[Folio]:
        """
        Allocate folios; of several that are in use, the first ones.

        :param boot: pfns of those that were reserved at boot (``gather_bootmem_prealloc()``)
        """
        order, found = self.units.huge_orders[pages.gigantic], []
        for i in range(pages.count):
            pfn = boot[i] if boot else self.pages.alloc_pages(order, pages.nid)
            if self.memmap.nid(pfn) != pages.nid:
                # __GFP_THISNODE
                raise UsageError(f"the RAM of node {pages.nid} is too small for its huge pages")
            folio = Folio(
                pfn,
                order,
                pages.nid,
                i < pages.in_use,
                pages.optimized and self.memory.arch.hvo,
                bool(boot and self.sections.compound_order(pfn // self.units.pages_per_section)),
                self.memmap.size,
                self.units,
            )
            self.add(folio)
            found.append(folio)
        return found

    def add(self, folio: Folio) -> None:
        """Prepare a folio, optimize it, and put it on its list."""
        self._prepare(folio)
        if folio.by_section:
            self.write_protect(folio)
        elif folio.optimized and self.optimizable(folio):
            self.optimize(folio)
        self._enlist(folio)
        self.folios.append(folio)

    def optimizable(self, folio: Folio) -> bool:
        """
        ``vmemmap_should_optimize()``: not if the frame that holds the head's struct page is
        self-hosted, nor if the size of a struct page is no power of two.
        """
        if self.memmap.size & self.memmap.size - 1:
            return False
        pa = self.tables.translate(self.address(folio))
        assert pa is not None
        flags = int(self.memmap.words(pa // self.units.page_size)[0])
        return not flags & self.memmap.flag("vmemmap_self_hosted")

    def _prepare(self, folio: Folio) -> None:
        """``__prep_new_hugetlb_folio()``, ``prep_compound_page()``."""
        memmap, pfn, count = self.memmap, folio.pfn, 1 << folio.order
        zone = memmap.zone(pfn)
        memmap.store(pfn, memmap.fresh(pfn, 1, zone, folio.nid, 0))
        memmap.words(pfn)[0] |= np.uint64(memmap.flag("head"))
        if folio.by_section:
            # HUGETLB_VMEMMAP_RESERVE_PAGES
            count = memmap.per_page
        memmap.store(pfn + 1, self._tail_pages(pfn + 1, count - 1, folio))
        memmap.prep_compound_head(pfn, folio.order)
        if self.layouts.has_constant("PGTY_hugetlb"):
            value = self.layouts.constant("PGTY_hugetlb") << 24
            memmap.poke(pfn, self.layouts.offsetof("page", "_mapcount"), value, 4)
        else:
            dtor = self.layouts.offsetof("folio", "_folio_dtor") - memmap.size
            memmap.poke(pfn + 1, dtor, self.layouts.constant("HUGETLB_PAGE_DTOR"), 1)
        flag = _RESTORE_RESERVE if folio.in_use else _FREED
        self.set_private(folio, 1 << self.layouts.constant(flag))
        if folio.in_use:
            memmap.set_refcount(pfn, 1)

    def _tail_pages(self, pfn: int, count: int, folio: Folio) -> Words:
        memmap = self.memmap
        pages = memmap.fresh(pfn, count, memmap.zone(folio.pfn), folio.nid, 0)
        compound = "compound_info" if memmap.has_info else "compound_head"
        pages[:, self.layouts.offsetof("page", compound) // 8] = memmap.compound_info(
            folio.pfn, folio.order
        )
        pages[:, self.layouts.offsetof("page", "mapping") // 8] = (
            self.memory.arch.poison + TAIL_MAPPING
        )
        return pages

    def private(self, folio: Folio) -> int:
        """Return ``folio->private``: HPG_* flags."""
        return self.memmap.peek(folio.pfn, self.layouts.offsetof("page", "private"))

    def set_private(self, folio: Folio, value: int) -> None:
        """Set ``folio->private``."""
        self.memmap.poke(folio.pfn, self.layouts.offsetof("page", "private"), value)

    def list_head(self, folio: Folio) -> int:
        """Return the address of the list that a folio is on."""
        name = "hugepage_activelist" if folio.in_use else f"hugepage_freelists[{folio.nid}]"
        return self.hstates[folio.order].addr(name)

    def _enlist(self, folio: Folio) -> None:
        """``account_new_hugetlb_folio()``, ``enqueue_hugetlb_folio()``."""
        hstate = self.hstates[folio.order]
        counters = ["nr_huge_pages", f"nr_huge_pages_node[{folio.nid}]"]
        if not folio.in_use:
            counters += ["free_huge_pages", f"free_huge_pages_node[{folio.nid}]"]
        for name in counters:
            hstate[name] = hstate[name] + 1
        add_pages_to_list(self.memmap, self.memory, [folio.pfn], self.list_head(folio))

    # mm/hugetlb_vmemmap.c

    def address(self, folio: Folio, page: int = 0) -> int:
        """Return the virtual address of a page of a folio's vmemmap."""
        return self.addresses.pfn_to_page(folio.pfn) + page * self.units.page_size

    def optimize(self, folio: Folio, stop: int | None = None) -> None:
        """
        ``hugetlb_vmemmap_optimize_folio()``, ``vmemmap_remap_free()``.

        :param stop: the page where the kernel fails, and can't restore those before it either
            (VMEMMAP_REMAP_INCOMPLETE); by default it does not
        """
        units = self.units
        tables, start = self.tables, self.address(folio)
        for va in range(start, self.address(folio, folio.vmemmap_pages), units.pmd_size):
            self.split(va)
        self.set_private(folio, self.private(folio) | 1 << self.optimized_bit)
        if self.key is not None:
            self.key["key.enabled.counter"] = self.key["key.enabled.counter"] + 1
        old = [
            self.tables.frame(tables.entry(self.address(folio, page), units.page_shift))
            for page in range(folio.vmemmap_pages)
        ][:stop]
        head = old.pop(0)
        if self.replaces_head:
            head, replaced = self.pages.alloc_page(folio.nid), head
            self.memory.physical.page(head)[:] = self.memory.physical.page(replaced)
            tables.set(start, units.page_shift, self.tables.pte(head))
            old.append(replaced)
            self.vmemmap.nr_memmap_pages += 1
        tail = self.shared_tail(folio) if self.has_shared_tails else head
        for page in range(1, folio.vmemmap_pages if stop is None else stop):
            tables.set(
                self.address(folio, page),
                units.page_shift,
                self.tables.pte(tail, self.pte_read_only),
            )
        for pfn in old:
            self.free_vmemmap_page(pfn)

    def is_optimized(self, folio: Folio) -> bool:
        """``folio_test_hugetlb_vmemmap_optimized()``."""
        return bool(self.private(folio) >> self.optimized_bit & 1)

    def write_protect(self, folio: Folio) -> None:
        """
        ``vmemmap_wrprotect_hvo()``: of a folio whose memory map is populated so already. It
        clears the bit, also where there is no PAGE_KERNEL_RO.
        """
        self.set_private(folio, self.private(folio) | 1 << self.optimized_bit)
        shift = self.units.page_shift
        for page in range(1, folio.vmemmap_pages):
            va = self.address(folio, page)
            self.tables.set(va, shift, self.tables.entry(va, shift) & ~RW)

    def restore_folio(self, folio: Folio) -> None:
        """
        ``hugetlb_vmemmap_restore_folio()``: each page of tail pages gets a frame of its own
        again, with a copy of what it mapped. The order of its sections stays as it is. One that
        is not optimized is left alone.
        """
        if not self.is_optimized(folio):
            return
        tables, shift = self.tables, self.units.page_shift
        shared = tables.frame(tables.entry(self.address(folio, 1), shift))
        data = self.memory.physical.page(shared).copy()
        if not self.has_shared_tails:
            # reset_struct_pages()
            size = (4 if self.layouts.sizeof("folio") > 3 * self.memmap.size else 3) * (
                self.memmap.size
            )
            data[:size] = data[size : 2 * size]
        for page in range(1, folio.vmemmap_pages):
            pfn = self.pages.alloc_page(folio.nid)
            self.memory.physical.page(pfn)[:] = data
            tables.set(self.address(folio, page), shift, tables.pte(pfn))
        self.vmemmap.nr_memmap_pages += folio.vmemmap_pages - 1
        folio.optimized = False
        self.set_private(folio, self.private(folio) & ~(1 << self.optimized_bit))
        if self.key is not None:
            self.key["key.enabled.counter"] = self.key["key.enabled.counter"] - 1

    def write_restore(self, resets: bool) -> None:
        """
        Write what stands for the code of ``vmemmap_restore_pte()``.

        :param resets: it overwrites the first ``struct page``s of the copy
        """
        # list_del(): movabs $LIST_POISON1, %rax
        code = b"\x48\xb8" + (self.memory.arch.poison + 0x100).to_bytes(8, "little")
        if resets:
            # NR_RESET_STRUCT_PAGE: 4 with hugetlb's members in the fourth struct page
            one = self.memmap.size
            size = (4 if self.layouts.sizeof("folio") > 3 * one else 3) * one
            # lea size(%rdi), %rsi; mov $size / 8, %ecx; rep movsq
            code += b"\x48\x8d\xb7" + size.to_bytes(4, "little")
            code += b"\xb9" + (size // 8).to_bytes(4, "little") + b"\xf3\x48\xa5"
        code += b"\xc3"
        self.memory.write(self.restore, code.ljust(_RESTORE_SIZE, b"\xcc"))

    @property
    def optimized_bit(self) -> int:
        """Bit of ``folio->private``."""
        return self.layouts.constant("HPG_vmemmap_optimized")

    def split(self, va: int) -> None:
        """``vmemmap_split_pmd()``: map with base pages what a large leaf maps."""
        units = self.units
        tables = self.tables
        va = va // units.pmd_size * units.pmd_size
        entry = tables.entry(va, units.pmd_shift)
        if not entry & PSE:
            return
        first = self.tables.frame(entry & ~PSE)
        if not int(self.memmap.words(first)[0]) & self.memmap.flag("reserved"):
            # split_page(): what the page allocator gave as one block
            for pfn in range(first, first + units.pmd_size // units.page_size):
                self.memmap.set_refcount(pfn, 1)
        table = self.pages.alloc_page()
        words = self.memory.physical.words(table)
        words[:] = (
            self.tables.frame(entry & ~PSE) + np.arange(len(words), dtype=units.word)
        ) * np.uint64(units.page_size) | np.uint64(KERNEL)
        tables.set(va, units.pmd_shift, table * units.page_size | TABLE)

    def shared_tail(self, folio: Folio) -> int:
        """``vmemmap_get_tail()``: the frame of a zone's tail pages of an order."""
        return self.shared.page(folio.nid, self.memmap.zone(folio.pfn), folio.order)

    def free_vmemmap_page(self, pfn: int) -> None:
        """``free_vmemmap_page()``, ``free_bootmem_page()``."""
        words = self.memmap.words(pfn)
        reserved = np.uint64(self.memmap.flag("reserved"))
        if words[0] & reserved:
            self.freed += 1
            words[0] &= ~reserved & ~np.uint64(self.memmap.flag("private"))
        else:
            self.vmemmap.nr_memmap_pages -= 1
        self.memmap.set_refcount(pfn, 0)
        self.pages.free_page(pfn)
