# SPDX-License-Identifier: LGPL-2.1-or-later
"""The pages that the log and the registers of a crash name."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ..kernel.panic import read_panic_cpu
from ..messages import NumberKind, search
from ..report.documents.full import CpuReport, LogEvent, LogReport, RegisterReport, Sighting

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from ..kernel.printk import Log
    from ..machine import Kernel
    from ..messages import Event, Subject

__all__ = ("Found", "cpu_report", "find_subjects", "log_report")

#: events of each sort, and lines of one, that are reported
_MAX_EVENTS, _MAX_NOTICES, _MAX_LINES = 64, 32, 40


class Found(NamedTuple):
    """The pages that are named, and where."""

    #: what went wrong, and what went well, by time; each with the pages that it names
    events: list[tuple[Event, tuple[int, ...]]]
    notices: list[Event]
    #: CPU that stopped the kernel and the pid of its process, or ``None``
    cpu: tuple[int, int] | None
    #: name, value and page of each register
    registers: list[tuple[str, int, int | None]]
    #: page frame -> where it is named, by time
    pages: dict[int, list[Sighting]]


def find_subjects(kernel: Kernel, log: Log) -> Found:
    """Search the log and the registers of a kernel for pages."""
    resolver = _Resolver(kernel)
    events: list[tuple[Event, tuple[int, ...]]] = []
    notices: list[Event] = []
    pages: dict[int, list[Sighting]] = {}
    for event in sorted(search(log.messages), key=lambda one: one.seq):
        if not event.trouble:
            notices.append(event)
            continue
        pfns = tuple(
            dict.fromkeys(
                pfn for one in event.subjects if (pfn := resolver.pfn_of(one)) is not None
            )
        )
        if event.needs_trace and not (event.functions or pfns):
            continue
        events.append((event, pfns))
        for pfn in pfns:
            seen = Sighting("log", event.kind, event.time / 1e9, event.seq)
            pages.setdefault(pfn, []).append(seen)
    cpu, registers = _registers(kernel, resolver, pages.keys())
    for name, _, page in registers:
        if page is not None:
            pages.setdefault(page, []).append(Sighting("register", name, None, None))
    return Found(events, notices, cpu, registers, pages)


def _registers(
    kernel: Kernel, resolver: _Resolver, named: Collection[int]
) -> tuple[tuple[int, int] | None, list[tuple[str, int, int | None]]]:
    """
    Read the registers of the CPU that stopped the kernel.

    :param named: pages that the log names
    """
    number = read_panic_cpu(kernel.prog)
    cpus = kernel.target.cpus() if number is not None else []
    if number is None or number >= len(cpus):
        return None, []
    cpu = cpus[number]
    values = dict(zip(kernel.arch.registers.split(), cpu.registers, strict=False))
    named = set(named)
    # What a process has in its registers says nothing of the kernel's pages.
    known = kernel.arch.in_kernel(values) is True
    return (number, cpu.pid), [
        (name, value, resolver.pfn_in_register(value, named) if known else None)
        for name, value in values.items()
    ]


class _Resolver:
    """Finds the page that a number leads to."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.geometry, self.sections = kernel.geometry, kernel.sections
        self.devices = [span for layout in kernel.layouts for span in layout.pfns]

    def pfn_of(self, subject: Subject) -> int | None:
        """Return the page frame that a number in the log leads to, ``None`` if to none."""
        meaning, number = subject
        if meaning is NumberKind.PFN:
            return number if number < self.kernel.max_frames else None
        if meaning is NumberKind.PHYSICAL:
            there_is = not number >> self.kernel.physmem_bits
            return number // self.kernel.page_size if there_is else None
        pfn = self._struct_page(number, exact=meaning is NumberKind.REGISTER)
        if pfn is not None or meaning is NumberKind.REGISTER:
            return pfn
        return self._direct_map(number)

    def pfn_in_register(self, value: int, named: Collection[int]) -> int | None:
        """
        Return the page frame that a register leads to, ``None`` if to none.

        A register that holds a small number, or points to RAM, says nothing: most do. It
        counts only if the number is of a page of a device, or one that the log names.
        """
        pfn = self._struct_page(value, exact=True)
        if pfn is not None:
            return pfn
        for number in (value, self._direct_map(value)):
            if number is not None and (
                number in named or any(start <= number < end for start, end in self.devices)
            ):
                return number
        return None

    def _struct_page(self, address: int, exact: bool) -> int | None:
        """
        Return the page whose ``struct page`` is at an address.

        :param exact: whether the address must be that of its first byte, and the page in a
            section that is present
        """
        if not self.geometry.has(address, self.kernel.max_frames):
            return None
        pfn, into = self.geometry.pfn_at(address)
        if exact and (into or self.sections.index(pfn // self.sections.pages) is None):
            return None
        return pfn

    def _direct_map(self, address: int) -> int | None:
        """Return the page that an address of the direct map is in, mapped or not."""
        direct_map = self.kernel.direct_map
        return None if direct_map is None else direct_map.pfn_at(address)


def log_report(log: Log, found: Found, pages: Collection[int]) -> LogReport:
    """
    Return the part of a report that is about the log.

    :param pages: page frames that are explained
    """
    return LogReport(
        messages=len(log.messages),
        overwritten=log.overwritten,
        events=tuple(
            _event(one, tuple(pfn for pfn in pfns if pfn in pages))
            for one, pfns in found.events[:_MAX_EVENTS]
        ),
        events_left_out=max(len(found.events) - _MAX_EVENTS, 0),
        notices=tuple(_event(one, ()) for one in found.notices[:_MAX_NOTICES]),
        notices_left_out=max(len(found.notices) - _MAX_NOTICES, 0),
    )


def _event(event: Event, pages: Sequence[int]) -> LogEvent:
    return LogEvent(
        seq=event.seq,
        time=event.time / 1e9,
        caller=event.caller,
        kind=event.kind,
        trouble=event.trouble,
        lines=event.lines[:_MAX_LINES],
        lines_left_out=max(len(event.lines) - _MAX_LINES, 0),
        functions=event.functions,
        pages=tuple(pages),
    )


def cpu_report(found: Found, pages: Collection[int]) -> CpuReport | None:
    """
    Return the part of a report that is about the CPU that stopped the kernel.

    :param pages: page frames that are explained
    """
    if found.cpu is None:
        return None
    return CpuReport(
        cpu=found.cpu[0],
        pid=found.cpu[1],
        registers=tuple(
            RegisterReport(name, value, pfn if pfn in pages else None)
            for name, value, pfn in found.registers
        ),
    )
