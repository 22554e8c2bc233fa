# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Whether the kernel shares the tail pages of a pagemap, and in which way.

Found by what the kernel has and by what its memory holds: the conditions of
``vmemmap_can_optimize()``, and, where ``struct mem_section`` has them, the orders of the
pagemap's sections.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from .schemes import DEVICE_PAIRS, DEVICE_RADIX, DEVICE_ZONE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..kernel.dev_pagemap import Pagemap
    from ..kernel.mem_section import Sections
    from .layout import Geometry
    from .schemes import Scheme

__all__ = ("Dedup", "Evidence", "dedup_of", "usual_scheme")


class Dedup(Struct, frozen=True):
    """Whether a pagemap's tail pages should share frames."""

    #: ``None``: this kernel may or may not do it; what is found decides
    expected: bool | None
    #: why not, where they should not
    reason: str | None
    #: how they share them, or would
    scheme: Scheme = DEVICE_PAIRS

    @property
    def applied(self) -> Scheme | None:
        """How they should share them, ``None`` if not at all."""
        return self.scheme if self.expected else None


class Evidence(Struct, frozen=True):
    """What the kernel has that says how it shares the tail pages of devices."""

    sections: Sections
    #: page frames ``[first, end)`` of the pagemap's trusted ranges
    pfns: Sequence[tuple[int, int]]
    #: whether its code lets devices share tail pages by zone and order
    #: (:func:`~.kernel.vmemmap_tails.shares_devices`)
    shares_devices: bool
    #: whether zones still have the array of before: the code may be there, and not in use yet
    early: bool


_NO_SECTION = "it has no whole section to itself, and the kernel shares tail pages in these only"
_PLAIN_SECTIONS = "its sections say that their tail pages share nothing"


def dedup_of(
    pagemap: Pagemap, geometry: Geometry, osrelease: str, evidence: Evidence | None = None
) -> Dedup:
    """
    Return whether the kernel deduplicates a pagemap's vmemmap, and how.

    ``include/linux/mm.h: vmemmap_can_optimize()``. Its conditions grew over time (a Kconfig
    gate in 6.4, at least three vpages in a compound page in 6.4), but what they added never
    changes an answer here: with two vpages or fewer, a compound page has a frame for each
    either way. Where ``struct mem_section`` has an order, it decides.

    :param evidence: ``None`` for kernels whose sections have no orders
    """
    if evidence is None or evidence.sections.orders is None:
        return _by_conditions(pagemap, geometry, osrelease)
    return _by_sections(pagemap, geometry, osrelease, evidence)


def usual_scheme(geometry: Geometry, evidence: Evidence) -> Scheme:
    """Return how a kernel's devices share tail pages, if they do."""
    by_section = evidence.sections.orders is not None and evidence.shares_devices
    return DEVICE_ZONE if by_section else _scheme_of(geometry)


def _by_sections(pagemap: Pagemap, geometry: Geometry, osrelease: str, evidence: Evidence) -> Dedup:
    """
    Return what the orders of a pagemap's sections say.

    ``mm/sparse-vmemmap.c: section_activate()`` sets them for whole sections. Snapshots in
    which it did that for HugeTLB alone leave 0, and devices share as before.
    """
    scheme = usual_scheme(geometry, evidence)
    dedup = replace(_by_conditions(pagemap, geometry, osrelease), scheme=scheme)
    shift = pagemap.vmemmap_shift
    whole = [run for pfns in evidence.pfns for run in evidence.sections.order_runs(*pfns)]
    orders = {order for _, _, order in whole}
    # Of a section that could not be read, nothing is known: its piece says so.
    unread = None in orders and evidence.shares_devices
    if _can_share(pagemap, geometry) and (shift in orders or unread):
        return Dedup(True, None, DEVICE_ZONE)
    if not evidence.shares_devices or dedup.expected is False:
        return dedup
    if not whole and not evidence.early:
        return replace(dedup, expected=False, reason=_NO_SECTION)
    # What is found decides.
    reason = _PLAIN_SECTIONS if whole else _NO_SECTION
    return replace(dedup, expected=None, reason=reason, scheme=_scheme_of(geometry))


def _can_share(pagemap: Pagemap, geometry: Geometry) -> bool:
    """Return whether a pagemap's compound pages have vpages of tail pages alone."""
    size = geometry.struct_page_size
    shift = pagemap.vmemmap_shift or 0
    return pagemap.altmap is None and not size & size - 1 and geometry.compound_vpages(shift) >= 2


def _scheme_of(geometry: Geometry) -> Scheme:
    return DEVICE_RADIX if geometry.arch.aligns_compounds else DEVICE_PAIRS


def _by_conditions(pagemap: Pagemap, geometry: Geometry, osrelease: str) -> Dedup:
    dedup = _conditions(pagemap, geometry, osrelease)
    return replace(dedup, scheme=_scheme_of(geometry))


def _conditions(pagemap: Pagemap, geometry: Geometry, osrelease: str) -> Dedup:
    if pagemap.altmap is not None:
        return Dedup(False, "it has an altmap")
    if pagemap.vmemmap_shift is None:
        return Dedup(False, "kernel without compound pages of devices (before 5.17)")
    if not pagemap.vmemmap_shift:
        return Dedup(False, "base pages (vmemmap_shift 0)")
    if geometry.struct_page_size & (geometry.struct_page_size - 1):
        return Dedup(
            False, f"struct page has {geometry.struct_page_size} bytes, not a power of two"
        )
    if geometry.compound_vpages(pagemap.vmemmap_shift) <= 2:
        return Dedup(False, "compound pages too small to gain anything")
    if not geometry.arch.optimizes_dax_vmemmap:
        return Dedup(False, f"{geometry.arch.name} does not deduplicate device memory")
    if _version(osrelease) < (5, 19):
        # Distributors' kernels carry it under older version numbers.
        return Dedup(None, "kernel without the feature (before 5.19)")
    return Dedup(True, None)


def _version(osrelease: str) -> tuple[int, int]:
    match = re.match(r"(\d+)\.(\d+)", osrelease)
    # A release without a version is taken for a current kernel.
    return (int(match[1]), int(match[2])) if match else (1 << 16, 0)
