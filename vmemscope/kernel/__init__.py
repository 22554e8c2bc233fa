# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Kernel structures, read into frozen dataclasses.

A module for each of the kernel's own: ``xarray``, ``dev_pagemap``, ``percpu_ref``,
``mem_section``, ``resource``, ``page``, ``task``, the devices that pagemaps are
named after, and for HugeTLB ``hstate``, ``hugetlb_folio`` and ``hugetlb_vmemmap``.
They read; they judge nothing and print nothing. What the target says is not trusted:
every walk is bounded, and what could not be followed comes back as a :class:`Damage`
beside what could.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ("Damage",)


@dataclass(frozen=True)
class Damage:
    """Something in a kernel structure that could not be read or followed."""

    #: virtual address of the structure, in bytes
    address: int
    #: what is wrong with it, a clause without a full stop
    message: str
    #: the memory was not there to be read; otherwise what was read makes no sense
    unreadable: bool = False
