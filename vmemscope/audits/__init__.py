# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The audits: which rules over which facts, into one report each.

An audit is a package with two functions: ``audit()``, and ``once()`` for one pass of
it (:mod:`~vmemscope.confirm`). The functions here also take a program that somebody
else opened.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from drgn import Program

    from ..machine import Kernel
    from ..report.documents.hugetlb import HugetlbReport
    from ..report.documents.memmap import MemmapReport
    from ..report.documents.page import PageReport
    from ..report.documents.pgmap import Report

__all__ = ("audit", "audit_hugetlb", "audit_memmap", "audit_page")


def audit(target: Kernel | Program, *, contents: str = "sample") -> Report:
    """
    Audit all pagemaps of a kernel.

    :param target: a kernel, or a program that is set to one
    :param contents: how many ``struct page``s are checked: ``all``, a ``sample`` of
        each range's, or ``none``
    :raises VmemscopeError: if types are missing, or the kernel can't be audited
    """
    from .pagemaps import audit

    return audit(_kernel(target), contents=contents)


def audit_hugetlb(target: Kernel | Program, *, folios: bool = False) -> HugetlbReport:
    """
    Audit HugeTLB's vmemmap optimization.

    :param target: a kernel, or a program that is set to one
    :param folios: list each folio, too
    :raises VmemscopeError: if types are missing, or the kernel can't be audited
    """
    from .hugetlb import audit

    return audit(_kernel(target), folios=folios)


def audit_memmap(target: Kernel | Program) -> MemmapReport:
    """
    Audit the whole memory map.

    :param target: a kernel, or a program that is set to one
    :raises VmemscopeError: if types are missing, or the kernel can't be audited
    """
    from .memmap import audit

    return audit(_kernel(target))


def audit_page(target: Kernel | Program, number: int, meaning: str | None = None) -> PageReport:
    """
    Read everything about one page.

    :param target: a kernel, or a program that is set to one
    :param number: page frame number, physical or virtual address
    :param meaning: which of these: pfn, phys, address, or ``None`` to find out
    :raises VmemscopeError: if types are missing, or there is no such page
    """
    from .page import audit

    return audit(_kernel(target), number, meaning)


def _kernel(target: Kernel | Program) -> Kernel:
    from ..machine import Kernel

    return target if isinstance(target, Kernel) else Kernel(target)
