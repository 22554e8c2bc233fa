# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Plants faults in a kernel whose devices are up.

Each fault is a function of the module of what it is planted in, registered as
:mod:`.registry` explains. It leaves all else consistent: when an entry is made to map
another frame, references move along, as ``get_page()`` and ``put_page()`` would have
it, and a frame that lost its last one is free.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import (  # noqa: F401
    entries,
    frames,
    hugetlb,
    pagemap,
    sections,
    shared_tails,
    struct_pages,
    unreadable,
)
from .planted import Change, Finding, Planted
from .planter import HugetlbPlanter, Planter
from .registry import FAULTS, HUGETLB_FAULTS, FaultKind
from .simulated import SimHugetlbPlanter, SimPlanter

if TYPE_CHECKING:
    from ..kernel import SimulatedKernel
    from ..scenario import Fault

__all__ = (
    "FAULTS",
    "HUGETLB_FAULTS",
    "Change",
    "FaultKind",
    "Finding",
    "HugetlbPlanter",
    "Planted",
    "Planter",
    "plant",
    "plant_hugetlb",
)


def plant(kernel: SimulatedKernel, fault: Fault) -> Planted:
    """
    Plant a fault in a pagemap, or in what there is besides.

    :raises UsageError: if there is no such place to plant it
    """
    kind = FAULTS[fault.kind]
    planter = SimPlanter(kernel, kind.name, kind.rules, kernel.pagemap(fault.pagemap))
    return kind.plant(planter, **kind.arguments(fault.options))


def plant_hugetlb(kernel: SimulatedKernel, fault: Fault) -> Planted:
    """
    Plant a fault in HugeTLB.

    :raises UsageError: if there is no such place to plant it
    """
    kind = HUGETLB_FAULTS[fault.kind]
    planter = SimHugetlbPlanter(kernel, kind.name, kind.rules, None)
    return kind.plant(planter, **kind.arguments(fault.options))
