# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The types of the coming kernel: those of 7.2 with what mm-unstable of September 2026 changes.

* ``struct zone``: ``vmemmap_tails`` is a pointer to an array that is allocated when the zone
  shares tail pages for the first time ("Switch device DAX to section-based vmemmap
  optimization"). Members behind it stay where they are.
* ``struct mem_section`` has the order of the compound pages that it is populated for.
* The bits of ``section_mem_map`` are one lower, as SECTION_MARKED_PRESENT_BIT is gone, and
  SECTION_IS_VMEMMAP_PREINIT_BIT is, too.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

__all__ = ("RELEASE", "coming_types")

#: as linux-next names its kernels: the version says nothing of what is in it
RELEASE = "7.3.0-rc4-next-20260928"

_PRESENT, _PREINIT = "SECTION_MARKED_PRESENT_BIT", "SECTION_IS_VMEMMAP_PREINIT_BIT"


def coming_types(types: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the records of 7.2 as the coming kernel has them."""
    found = list(types)
    names = {one.get("name"): one for one in found if one["kind"] in ("struct", "int")}
    pages = _pointer_to(found, names["page"]["id"])
    slots: dict[str, Any] = {"id": len(found) + 1, "kind": "ptr", "type": pages}
    for index, record in enumerate(found):
        values = dict(record.get("values", ()))
        if record is names["zone"]:
            found[index] = {**record, "members": _with_pointer(record["members"], slots["id"])}
        elif record is names["mem_section"]:
            found[index] = {**record, "members": _with_order(record, names["unsigned int"]["id"])}
        elif _PRESENT in values:
            del values[_PRESENT], values[_PREINIT]
            lower = [[name, bit] for bit, name in enumerate(values)]
            found[index] = {**record, "values": lower}
    return [*found, slots]


def _pointer_to(types: Iterable[dict[str, Any]], type_id: int) -> int:
    return next(int(one["id"]) for one in types if one["kind"] == "ptr" and one["type"] == type_id)


def _with_pointer(members: Iterable[list[Any]], pointer: int) -> list[list[Any]]:
    return [
        [name, pointer if name == "vmemmap_tails" else type_id, *rest]
        for name, type_id, *rest in members
    ]


def _with_order(record: dict[str, Any], number: int) -> list[list[Any]]:
    """Return the members of ``struct mem_section``: the order in place of padding at the end."""
    kept = {name: [name, type_id, at] for name, type_id, at in record["members"] if name != "pad"}
    kept["page_ext"][2] = 192
    order = ["compound_page_order", number, 128]
    return [kept["section_mem_map"], kept["usage"], order, kept["page_ext"]]
