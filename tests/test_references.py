# SPDX-License-Identifier: LGPL-2.1-or-later
"""
References to pagemaps, and processes' copies of kernel entries: when nothing can be told.

What is told of faults in them is in ``test_scenarios``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from drgn import Program

from vmemscope.audits.pagemaps import once
from vmemscope.kernel import percpu_ref, task
from vmemscope.kernel.percpu_ref import read_references
from vmemscope.kernel.task import read_address_spaces
from vmemscope.machine import Kernel
from vmemscope.report.documents.pgmap import Report
from vmemscope.rules.findings import Outcome, RuleOutcome
from vmemscope.sim.image import Image
from vmemscope.sim.kernel import SimulatedKernel
from vmemscope.sim.tasks import PROCESSES

from . import kernels
from .kernels import KERNELS

LOW, HIGH = "pagemap-ref-low", "pagemap-ref-high"
DEVICE = """
[[pagemap]]
name = "dax0.0"
type = "devdax"
start = 0x100000000
size = "128M"
align = "2M"
"""

Change = Callable[[SimulatedKernel], None]


def audited(tmp_path: Path, scenario: str, kernel: str, change: Change) -> tuple[Report, Program]:
    """Audit a kernel that something was done to before it was dumped."""
    built: Image = kernels.image(scenario, kernel)
    change(built.kernel)
    opened = Kernel.open_core(kernels.write(built, tmp_path))
    return once(opened), opened.prog


def outcome(report: Report, rule: str) -> RuleOutcome:
    outcomes = report.outcomes if rule == "kernel-entries" else report.pagemaps[-1].outcomes
    (one,) = [one for one in outcomes if one.rule == rule]
    return one


def nothing(kernel: SimulatedKernel) -> None:
    pass


def set_pointer(value: int) -> Change:
    def change(kernel: SimulatedKernel) -> None:
        kernel.pagemaps[0].pgmap["ref.percpu_count_ptr"] = value

    return change


def kill(kernel: SimulatedKernel) -> None:
    pgmap = kernel.pagemaps[0].pgmap
    pgmap["ref.percpu_count_ptr"] = pgmap["ref.percpu_count_ptr"] | 3


def lose_counters(kernel: SimulatedKernel) -> None:
    kernel.physical.missing.add(kernel.memory.pa(kernel.percpu.areas[1]) >> 12)


def lose_cpus(kernel: SimulatedKernel) -> None:
    kernel.memory.write_int(kernel.image["__cpu_possible_mask"], 0)


class TestReferences:
    @pytest.mark.parametrize("kernel", KERNELS)
    @pytest.mark.parametrize(
        ("scenario", "change", "reason"),
        [
            (DEVICE, kill, "it is being set up or torn down"),
            (DEVICE, set_pointer(0xDEAD000000000000), "could not be read"),
            (DEVICE, lose_counters, "could not be read"),
            (DEVICE, lose_cpus, "no CPU is possible"),
            ("device-private", nothing, "of type private have references while they are in use"),
            ("coherent", nothing, "of type coherent have references while they are in use"),
            ("shift-absurd", nothing, "vmemmap_shift makes no sense"),
            ("range-inverted", nothing, "not all of its ranges are valid"),
        ],
    )
    def test_nothing_is_told(
        self, tmp_path: Path, scenario: str, change: Change, reason: str, kernel: str
    ) -> None:
        report, _ = audited(tmp_path, scenario, kernel, change)
        for rule in (LOW, HIGH):
            one = outcome(report, rule)
            assert one.outcome is Outcome.SKIPPED
            assert reason in (one.reason or "")
        lines = [line for line in report.summary.not_read if "of the pagemap itself" in line]
        assert bool(lines) == (reason == "could not be read")

    @pytest.mark.parametrize("kernel", KERNELS)
    def test_users_of_p2pdma_have_references(self, tmp_path: Path, kernel: str) -> None:
        def use(kernel: SimulatedKernel) -> None:
            kernel.percpu.add(kernel.pagemaps[0].pgmap["ref.percpu_count_ptr"], 0, 5)

        report, _ = audited(tmp_path, "p2pdma", kernel, use)
        assert report.all_findings() == []
        assert outcome(report, LOW).outcome is Outcome.CHECKED
        assert outcome(report, HIGH).outcome is Outcome.SKIPPED

    @pytest.mark.parametrize("by", [-65, 1 << 40])
    def test_any_distance(self, tmp_path: Path, by: int) -> None:
        def change(kernel: SimulatedKernel) -> None:
            kernel.percpu.add(kernel.pagemaps[0].pgmap["ref.percpu_count_ptr"], 1, by)

        report, _ = audited(tmp_path, DEVICE, "6.12", change)
        ((_, finding),) = report.all_findings()
        assert (finding.rule, finding.expected, finding.observed) == (
            LOW if by < 0 else HIGH, 64, 64 + by,
        )  # fmt: skip

    def test_counts_that_change_meanwhile(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        report, prog = audited(tmp_path, DEVICE, "6.1", nothing)
        address = report.pagemaps[0].address
        assert read_references(prog, address).count == 64
        reads = iter((np.array([67, 2**64 - 3], np.uint64), np.array([68, 2**64 - 4], np.uint64)))
        monkeypatch.setattr(percpu_ref, "_sum", lambda *_: next(reads))
        told = read_references(prog, address)
        assert told.count is None
        assert "while they were counted" in (told.reason or "")


class TestEntries:
    def test_all_processes_are_found(self, tmp_path: Path) -> None:
        _, prog = audited(tmp_path, DEVICE, "7.2", nothing)
        spaces = read_address_spaces(prog)
        assert [one.comm.encode() for one in spaces.found] == list(PROCESSES)
        assert spaces.missed == ()

    @pytest.mark.parametrize("scenario", ["4-level", "5-level"])
    def test_levels(self, tmp_path: Path, scenario: str) -> None:
        def change(kernel: SimulatedKernel) -> None:
            words = kernel.physical.words(kernel.tasks.pgds[0])
            words[kernel.addresses.vmemmap_base >> kernel.tables.shifts[0] & 511] = 0

        report, _ = audited(tmp_path, scenario, "6.1", change)
        assert outcome(report, "kernel-entries").outcome is Outcome.FAILED
        assert "1 of 3 page tables" in report.findings[0].message

    def test_bits_that_the_processor_sets(self, tmp_path: Path) -> None:
        def change(kernel: SimulatedKernel) -> None:
            words = kernel.physical.words(kernel.tasks.pgds[0])
            words[kernel.addresses.vmemmap_base >> 48 & 511] ^= 1 << 5

        report, _ = audited(tmp_path, DEVICE, "6.1", change)
        assert outcome(report, "kernel-entries").outcome is Outcome.CHECKED

    def test_while_a_device_comes_or_goes(self, tmp_path: Path) -> None:
        def change(kernel: SimulatedKernel) -> None:
            kill(kernel)
            kernel.physical.words(kernel.tasks.pgds[0])[:] = 0

        report, _ = audited(tmp_path, DEVICE, "6.12", change)
        assert report.all_findings() == []
        assert outcome(report, "kernel-entries").reason == "a device is being set up or torn down"

    def test_a_table_that_can_not_be_read(self, tmp_path: Path) -> None:
        def change(kernel: SimulatedKernel) -> None:
            kernel.physical.missing.add(kernel.tasks.pgds[1])

        report, _ = audited(tmp_path, DEVICE, "6.12", change)
        one = outcome(report, "kernel-entries")
        assert one.outcome is Outcome.CHECKED
        assert one.reason == "page tables of processes that could not be read"

    def test_a_list_that_is_damaged(self, tmp_path: Path) -> None:
        def cycle(kernel: SimulatedKernel) -> None:
            init = kernel.tasks.init_task
            first = init["tasks.next"]
            second = kernel.memory.read_int(first)
            kernel.memory.write_int(second, first)

        def wild(kernel: SimulatedKernel) -> None:
            kernel.memory.write_int(kernel.tasks.init_task["tasks.next"], 0xDEAD000000000100)

        for change, reason in ((cycle, "has a cycle"), (wild, "could not be followed")):
            report, _ = audited(tmp_path, DEVICE, "6.12", change)
            assert report.all_findings() == []
            one = outcome(report, "kernel-entries")
            assert one.outcome is Outcome.CHECKED
            assert reason in (one.reason or "")

    def test_more_processes_than_are_looked_at(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(task, "MAX_TASKS", 2)
        report, _ = audited(tmp_path, DEVICE, "6.12", nothing)
        assert outcome(report, "kernel-entries").reason == "there are more than 2 processes"
