# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What does the kernel's memory map of memory really look like?

For scripts, and at drgn's prompt::

    import vmemscope

    report = vmemscope.audit(prog)
    for pagemap in report.pagemaps:
        print(pagemap.name, pagemap.state, pagemap.saved_bytes)

``prog`` is a :class:`drgn.Program`, or a :class:`Kernel`, which opens a target itself:
:meth:`Kernel.open_core`, :meth:`Kernel.open_live`, :meth:`Kernel.open_qemu`.
:func:`audit` audits the pagemaps, :func:`audit_hugetlb` HugeTLB, :func:`audit_memmap`
the whole memory map and :func:`audit_page` one page; each returns a report.
:func:`attach_btf`, :func:`attach_virtual_memory`, :func:`for_each_dev_pagemap`,
:func:`pagemap_of`, :func:`vmemmap_frame` and :func:`frame_owners` are helpers
(:mod:`vmemscope.helpers`). They raise :class:`VmemscopeError`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._lazy import lazy

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .audits import audit, audit_hugetlb, audit_memmap, audit_page
    from .errors import VmemscopeError
    from .helpers import (
        attach_btf,
        for_each_dev_pagemap,
        frame_owners,
        pagemap_of,
        vmemmap_frame,
    )
    from .machine import Kernel
    from .report.documents.hugetlb import HugetlbReport
    from .report.documents.memmap import MemmapReport
    from .report.documents.page import PageReport
    from .report.documents.pgmap import PagemapReport, Report
    from .target.virtual import attach_virtual_memory

# None may be the name of a module here: Python sets that when it is imported.
__all__ = (
    "HugetlbReport",
    "Kernel",
    "MemmapReport",
    "PageReport",
    "PagemapReport",
    "Report",
    "VmemscopeError",
    "attach_btf",
    "attach_virtual_memory",
    "audit",
    "audit_hugetlb",
    "audit_memmap",
    "audit_page",
    "for_each_dev_pagemap",
    "frame_owners",
    "pagemap_of",
    "vmemmap_frame",
)

__getattr__ = lazy(
    __name__,
    {
        "HugetlbReport": "report.documents.hugetlb",
        "Kernel": "machine",
        "MemmapReport": "report.documents.memmap",
        "PageReport": "report.documents.page",
        "PagemapReport": "report.documents.pgmap",
        "Report": "report.documents.pgmap",
        "VmemscopeError": "errors",
        "attach_btf": "helpers",
        "attach_virtual_memory": "target.virtual",
        "audit": "audits",
        "audit_hugetlb": "audits",
        "audit_memmap": "audits",
        "audit_page": "audits",
        "for_each_dev_pagemap": "helpers",
        "frame_owners": "helpers",
        "pagemap_of": "helpers",
        "vmemmap_frame": "helpers",
    },
)
