# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Loadable modules: the list of them, and the symbols of those that own pagemaps.

Sources: ``include/linux/module.h``, ``kernel/module/kallsyms.c``.
"""

from __future__ import annotations

import struct

from .objects import KernelMemory, list_add_tail
from .page_alloc import PageAllocator
from .pagetable import KERNEL, PageTables

__all__ = ("Modules",)

_ORDER = 2
#: STT_OBJECT, STB_LOCAL
_ST_INFO = 1


class Modules:
    """
    Loads modules.

    :param head: address of the list ``modules``
    """

    def __init__(
        self, memory: KernelMemory, tables: PageTables, pages: PageAllocator, head: int
    ) -> None:
        self.memory = memory
        self.units = memory.units
        self.tables = tables
        self.pages = pages
        self.head = head
        self._next = memory.addresses.modules + 16 * self.units.page_size
        self._symbols: dict[str, dict[str, int]] = {}
        memory.write_int(head, head)
        memory.write_int(head + 8, head)

    def symbol(self, module: str, name: str) -> int:
        """Return the address of a module's object, loading the module if need be."""
        if module not in self._symbols:
            self._load(module, (name,))
        return self._symbols[module][name]

    def _load(self, name: str, symbols: tuple[str, ...]) -> None:
        memory, size = self.memory, self.units.page_size << _ORDER
        va, pfn = self._next, self.pages.alloc_pages(_ORDER)
        self._next += size + self.units.page_size
        for i in range(1 << _ORDER):
            memory.physical.page(pfn + i)
            self.tables.set(
                va + i * self.units.page_size,
                self.units.page_shift,
                self.tables.pte(pfn + i, KERNEL),
            )
        # load_module() allocated them one by one, through vmalloc().
        for i in range(1, 1 << _ORDER):
            self.pages.memmap.prep_new_page(pfn + i)
        memory.modules.append((va, size, pfn * self.units.page_size))

        module = memory.struct("module", va)
        module.set_bytes("name", name.encode())
        module["state"] = memory.layouts.constant("MODULE_STATE_LIVE")
        if "core_layout.base" in module:
            module["core_layout.base"] = va
            module["core_layout.size"] = size
        else:
            module["mem[0].base"] = va
            module["mem[0].size"] = size
        list_add_tail(memory, module.addr("list"), self.head)

        objects = va + self.units.page_size
        addresses = {symbol: objects + 256 * i for i, symbol in enumerate(symbols)}
        strings = b"\0"
        table = bytes(24)
        for symbol, address in addresses.items():
            # Elf64_Sym: name, info, other, section, value, size
            table += struct.pack(
                f"{self.units.mark}IBBHQQ", len(strings), _ST_INFO, 0, 1, address, 64
            )
            strings += symbol.encode() + b"\0"
        at = va + 2 * self.units.page_size
        kallsyms = memory.struct("mod_kallsyms", at)
        kallsyms["symtab"] = at + 256
        kallsyms["num_symtab"] = len(addresses) + 1
        kallsyms["strtab"] = at + 1024
        kallsyms["typetab"] = at + 2048
        memory.write(at + 256, table)
        memory.write(at + 1024, strings)
        memory.write(at + 2048, b"\0" + b"d" * len(addresses))
        module["kallsyms"] = at
        self._symbols[name] = addresses
