# SPDX-License-Identifier: LGPL-2.1-or-later
"""Scenarios: which kernel to simulate on which machine (:mod:`.scenario_toml` reads them)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import UsageError
from .layouts import VERSIONS
from .units import GIB, MIB

__all__ = (
    "Block",
    "Crash",
    "Fault",
    "HugePages",
    "Message",
    "Pagemap",
    "Ram",
    "Scenario",
    "check_arch",
    "check_kernel",
    "scaled",
)

#: PAGES_PER_SUBSECTION in bytes: the granularity of memremap_pages()
SUBSECTION_SIZE = 2 * MIB
#: what sizes are given for
_PAGE_SIZE = 4096
_PMD_SIZE = 2 * MIB


@dataclass(frozen=True)
class Ram:
    """A range of System RAM, in bytes."""

    start: int
    size: int
    nid: int = 0

    @property
    def end(self) -> int:
        return self.start + self.size


@dataclass(frozen=True)
class Block(Ram):
    """RAM added after boot, in whole sections."""

    online: bool = False
    #: whether the memory map lies in it, section by section
    self_hosted: bool = False


@dataclass(frozen=True)
class Pagemap:
    """A device with its own struct pages."""

    name: str
    type: str
    #: physical ranges (start, size) in bytes of the whole device, ascending
    ranges: tuple[tuple[int, int], ...]
    #: bytes
    align: int
    altmap: bool
    nid: int


@dataclass(frozen=True)
class Fault:
    """Something to break: a kind of fault with all its options."""

    kind: str
    pagemap: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class HugePages:
    """Huge pages of one size, allocated together."""

    #: of a PUD, not of a PMD
    gigantic: bool
    count: int
    #: how many of them are in use
    in_use: int
    optimized: bool
    nid: int
    #: they are reserved at boot
    boot: bool = False
    #: how many of them, of those that are free, had their vmemmap restored since; how many were
    #: made into smaller ones; and how many were freed
    restored: int = 0
    demoted: int = 0
    freed: int = 0


@dataclass(frozen=True)
class Message:
    """A message of the kernel's log."""

    #: seconds since boot
    time: float
    text: str
    level: int = 4
    #: pid of the process that wrote it
    caller: int = 1


@dataclass(frozen=True)
class Crash:
    """Where the kernel stopped."""

    cpu: int
    #: values as in :attr:`Message.text`, in hexadecimal
    registers: Mapping[str, str] = field(hash=False)


@dataclass(frozen=True)
class Scenario:
    """A machine, its kernel, and what is wrong with it."""

    name: str
    description: str = ""
    kernel: str = "6.1"
    levels: int = 5
    arch: str = "x86_64"
    #: whether places and sizes of devices and blocks grow with the architecture's large leaf
    scale: bool = True
    seed: int = 1
    ram: tuple[Ram, ...] = (Ram(0, 256 * MIB),)
    blocks: tuple[Block, ...] = ()
    off: tuple[str, ...] = ()
    lto: bool = False
    randstruct: bool = False
    #: ``sme_me_mask`` is ``1 << sme_bit``, or 0
    sme_bit: int = 0
    #: sizeof(struct page)
    struct_page: int = 64
    pagemaps: tuple[Pagemap, ...] = ()
    faults: tuple[Fault, ...] = ()
    hugetlb: tuple[HugePages, ...] = ()
    hugetlb_faults: tuple[Fault, ...] = ()
    messages: tuple[Message, ...] = ()
    crash: Crash | None = None


def check_arch(scenario: Scenario) -> None:
    """
    :raises UsageError: if the scenario can't be simulated on its architecture
    """
    from .architectures import ARCHITECTURES

    if scenario.arch not in ARCHITECTURES:
        raise UsageError(
            f"scenario {scenario.name}: architecture {scenario.arch!r} can't be simulated",
            "there are " + ", ".join(ARCHITECTURES),
        )
    arch = ARCHITECTURES[scenario.arch]
    if scenario.levels not in arch.levels:
        several = " or ".join(map(str, arch.levels))
        raise UsageError(f"scenario {scenario.name}: levels must be {several} on {scenario.arch}")
    if arch.kernels and scenario.kernel not in arch.kernels:
        several = " or ".join(arch.kernels)
        raise UsageError(f"scenario {scenario.name}: kernel must be {several} on {scenario.arch}")
    if scenario.arch != "x86_64" and scenario.struct_page != 64:
        raise UsageError(f"scenario {scenario.name}: struct_page must be 64 on {scenario.arch}")


def scaled(scenario: Scenario) -> Scenario:
    """
    Return a scenario with the sizes of its architecture.

    :raises UsageError: if the architecture has nothing of that size
    """
    from .architectures import ARCHITECTURES

    units = ARCHITECTURES[scenario.arch].units
    factor = max(units.pmd_size // _PMD_SIZE, 1) if scenario.scale else 1
    section = 1 << units.section_bits
    for block in scenario.blocks:
        if block.start * factor % section or block.size * factor % section:
            raise UsageError(
                f"scenario {scenario.name}: a block must consist of whole sections,"
                f" of {section // MIB}M on {scenario.arch}"
            )

    def pagemap(one: Pagemap) -> Pagemap:
        if factor > 1 and one.align == GIB:
            raise UsageError(f"scenario {scenario.name}: {scenario.arch} has no pages of 1G")
        return replace(
            one,
            ranges=tuple((start * factor, size * factor) for start, size in one.ranges),
            align=units.page_size if one.align == _PAGE_SIZE else one.align * factor,
        )

    return replace(
        scenario,
        pagemaps=tuple(map(pagemap, scenario.pagemaps)),
        blocks=tuple(
            replace(one, start=one.start * factor, size=one.size * factor)
            for one in scenario.blocks
        ),
    )


def check_kernel(kernel: str, name: str) -> None:
    """
    :raises UsageError: if no kernel of that version can be simulated
    """
    if kernel not in VERSIONS:
        raise UsageError(
            f"scenario {name}: kernel {kernel!r} can't be simulated",
            "there are " + ", ".join(VERSIONS),
        )
