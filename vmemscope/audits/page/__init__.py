# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Everything about one page, in the manner of crash's ``vtop``.

:mod:`.meaning` tells which page a number means, :mod:`.examine` looks at it from
all sides, :mod:`.state` says in words what to make of that.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ...rules.rule import Severity
from ...timing import phase
from ...types import attach_types, check_needs, sensible_types
from .examine import examine
from .needs import NEEDS

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence

    from ...report.documents.page import PageReport
    from ...target import Target

__all__ = ("examine", "look")

#: seconds between two looks at a live target
_PAUSE = 0.2


@sensible_types()
def look(
    target: Target,
    number: int,
    meaning: str | None = None,
    types: str = "auto",
    symbols: Sequence[str | os.PathLike[str]] = (),
    *,
    system_map: str | os.PathLike[str] | None = None,
    timings: dict[str, float] | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> PageReport:
    """
    Attach types to a target that was just opened, and look at one page.

    On a live target a violation counts only if it is in two looks.

    :param number: page frame number, physical or virtual address
    :param meaning: which of these: pfn, phys, address, or ``None`` to find out
    :param types: ``auto``, ``btf`` or ``dwarf``
    :param symbols: files with debug symbols
    :param system_map: file with symbols, where the kernel does not say where its own are
    :param timings: seconds per phase, added to
    :raises VmemscopeError: if types are missing, or there is no such page
    """
    timings = {} if timings is None else timings
    with phase(timings, "types"):
        source = str(attach_types(target.prog, types, symbols, system_map=system_map))
        check_needs(target.prog, NEEDS)
    with phase(timings, "read"):
        report = examine(target, number, meaning, source)
        if target.live and any(one.severity is not Severity.NOTE for one in report.findings):
            known = {(one.rule, one.vaddr, one.pfn) for one in report.findings}
            sleep(_PAUSE)
            report = examine(target, number, meaning, source)
            kept = tuple(f for f in report.findings if (f.rule, f.vaddr, f.pfn) in known)
            report = report.changed(findings=kept)
    return report.timed(timings)
