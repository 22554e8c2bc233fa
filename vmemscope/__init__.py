# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What does the kernel's memory map of memory really look like?

For scripts:

    import vmemscope

    target = vmemscope.open_core("vmcore")
    report = vmemscope.audit(target)
    for pagemap in report.pagemaps:
        print(pagemap.name, pagemap.state, pagemap.saved_bytes)

:func:`open_core`, :func:`open_kernel` and :func:`open_qemu` open a target,
:func:`audit` attaches types and returns a :class:`Report`. What can go wrong on
purpose is a :class:`VmemscopeError`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._lazy import lazy

__version__ = "0.1.0.dev0"

if TYPE_CHECKING:
    from .confirm import look as audit
    from .errors import VmemscopeError
    from .report.documents.pgmap import PagemapReport, Report
    from .target import Target, open_core, open_kernel, open_qemu

# None may be the name of a module here: Python sets that when it is imported.
__all__ = (
    "PagemapReport",
    "Report",
    "Target",
    "VmemscopeError",
    "audit",
    "open_core",
    "open_kernel",
    "open_qemu",
)

__getattr__ = lazy(
    __name__,
    {
        "PagemapReport": "report.documents.pgmap",
        "Report": "report.documents.pgmap",
        "Target": "target",
        "VmemscopeError": "errors",
        "audit": "confirm:look",
        "open_core": "target",
        "open_kernel": "target",
        "open_qemu": "target",
    },
)
