# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is found on a live target counts only where nothing changed, and twice."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from drgn import FaultError
from msgspec.structs import replace

from tests import kernels
from tests.report.builders import finding, pagemap_report, report
from vmemscope.audits import pagemaps
from vmemscope.audits.pagemaps.parts import Pagemaps
from vmemscope.cli.main import main
from vmemscope.confirm import Division, Key, Pass, is_certain, merged
from vmemscope.errors import TargetError
from vmemscope.machine import Kernel
from vmemscope.report import schema_text, to_document
from vmemscope.report.documents.pgmap import PagemapDetail, PagemapReport, Report
from vmemscope.rules.rule import Severity
from vmemscope.sim import build, load_scenario
from vmemscope.sim.kernel import SimulatedKernel
from vmemscope.target import open_core

FIXTURES = Path(__file__).parent.parent / "fixtures"

SOUND = pagemap_report()
BROKEN = pagemap_report(findings=(finding(),))
OTHER = pagemap_report("dax1.0", address=0xFFFF888101235000, ranges=((0x180000000, 0x19FFFFFFF),))


def after_passes(division: Division[Any], *reports: Any, unsteady: Iterable[Key] = ()) -> Any:
    """Merge reports of passes, in which all parts but the unsteady ones held still."""
    parts = [division.parts(one) for one in reports]
    return merged(
        [
            Pass(one, several, several.keys() - set(unsteady))
            for one, several in zip(reports, parts, strict=True)
        ],
        division,
    )


def steady(*pagemaps: PagemapReport) -> Pass[Report]:
    return unsteady(*pagemaps, but=pagemaps)


def unsteady(*pagemaps: PagemapReport, but: tuple[PagemapReport, ...] = ()) -> Pass[Report]:
    whole = report(*pagemaps)
    return Pass(whole, Pagemaps().parts(whole), {None, *(one.address for one in but)})


class TestIsCertain:
    def test_sound_at_first_sight(self) -> None:
        assert is_certain([steady(SOUND, OTHER)])
        assert is_certain([steady()])

    def test_wrong_only_at_second_sight(self) -> None:
        assert not is_certain([steady(BROKEN)])
        assert is_certain([steady(BROKEN), steady(BROKEN)])
        assert is_certain([steady(BROKEN), steady(SOUND)])

    def test_not_while_something_changes(self) -> None:
        assert not is_certain([unsteady(SOUND)])
        assert not is_certain([steady(BROKEN), unsteady(BROKEN)])
        assert not is_certain([unsteady(BROKEN), steady(BROKEN)])
        assert is_certain([steady(BROKEN), unsteady(BROKEN), steady(BROKEN)])
        assert is_certain([unsteady(SOUND), steady(SOUND)])

    def test_of_no_single_pagemap(self) -> None:
        whole = report(findings=(finding("xarray"),))
        one = Pass(whole, Pagemaps().parts(whole), {None})
        assert not is_certain([one])
        assert is_certain([one, one])

    def test_a_note_is_not_worth_a_second_look(self) -> None:
        note = finding("leaf-fallback", Severity.NOTE)
        assert is_certain([steady(replace(SOUND, findings=(note,)))])


class TestMerged:
    def test_what_is_in_both(self) -> None:
        passing = finding("hole", vaddr=1)
        first = replace(BROKEN, findings=(passing, finding()))
        second = replace(BROKEN, findings=(finding(), finding("hole", vaddr=2)))
        result = merged([steady(first), steady(second)], Pagemaps())
        assert result.pagemaps[0].findings == (finding(),)
        assert result.summary.errors == 1
        assert not result.summary.partial

    def test_looks_that_do_not_count_do_not_acquit(self) -> None:
        result = merged([steady(BROKEN), unsteady(SOUND), steady(BROKEN)], Pagemaps())
        assert result.pagemaps[0].findings == (finding(),)

    @pytest.mark.parametrize(
        "passes",
        [
            [unsteady(BROKEN, OTHER, but=(OTHER,)), unsteady(BROKEN, OTHER, but=(OTHER,))],
            [unsteady(BROKEN, OTHER, but=(OTHER,)), steady(BROKEN, OTHER)],
            [steady(SOUND, OTHER), unsteady(SOUND, OTHER, but=(OTHER,))],
        ],
    )
    def test_nothing_is_reported_of_a_part_that_kept_changing(
        self, passes: list[Pass[Report]]
    ) -> None:
        result = merged(passes, Pagemaps())
        one, other = result.pagemaps
        assert (one.state, one.findings, one.saved_bytes) == ("unreadable", (), 0)
        assert one.reason is not None
        assert "set up or torn down" in one.reason
        assert one.vmemmap.unreadable == one.vmemmap.pages == SOUND.vmemmap.pages
        assert one.frames.expected is None
        assert other == OTHER
        assert result.summary.backing_frames == OTHER.frames.backing
        assert result.summary.saved_bytes == OTHER.saved_bytes
        assert result.summary.errors == 0
        assert result.summary.not_read == ("pagemaps being set up or torn down: 1 (dax0.0)",)

    def test_document_of_what_kept_changing(self) -> None:
        document = to_document(merged([unsteady(BROKEN)], Pagemaps()))
        jsonschema.validate(document, json.loads(schema_text()))
        assert document["pgmaps"][0]["state"] == "unreadable"

    def test_what_went_is_not_told(self) -> None:
        assert merged([steady(BROKEN, OTHER), steady(OTHER)], Pagemaps()).pagemaps == (OTHER,)

    def test_one_look_is_as_it_is(self) -> None:
        assert merged([steady(SOUND)], Pagemaps()) == report(SOUND)


class TestConfirmedAudit:
    @pytest.fixture
    def live(self, tmp_path: Path) -> Kernel:
        """A simulated kernel with a hole, as if it were running."""
        image = build(load_scenario(str(FIXTURES / "hole.toml")), kernel="6.1")
        image.write(tmp_path / "vmcore")
        path = str(tmp_path / "vmcore")
        return Kernel.open(lambda: replace(open_core(path), kind="live"))

    def test_found_in_two_looks(self, live: Kernel) -> None:
        pauses: list[float] = []
        result = pagemaps.audit(live, sleep=pauses.append)
        assert [f.rule for _, f in result.all_findings()] == ["hole"]
        assert len(pauses) == 1

    def test_torn_down_at_the_end_of_each_look(
        self, live: Kernel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def again(self: Kernel) -> Kernel:
            kernel = original(self)
            found, damage = kernel._pagemaps
            kernel._pagemaps = [replace(one, ref=one.ref | 2) for one in found], damage
            return kernel

        original = Kernel.again
        monkeypatch.setattr(Kernel, "again", again)
        pauses: list[float] = []
        result = pagemaps.audit(live, sleep=pauses.append)
        assert len(pauses) == 4
        assert result.all_findings() == []
        assert {one.state for one in result.pagemaps} == {"unreadable"}
        assert result.summary.partial

    @pytest.mark.parametrize(
        ("announced", "passes", "reported"),
        [
            # Each pass: whether the kernel announced a device during it.
            ([False, False], 2, True),
            ([True, False, True, False], 4, True),
            ([True] * 5, 5, False),
            ([False] + [True] * 4, 5, False),
        ],
    )
    def test_devices_that_may_have_gone_and_come_back(
        self,
        live: Kernel,
        monkeypatch: pytest.MonkeyPatch,
        announced: list[bool],
        passes: int,
        reported: bool,
    ) -> None:
        """All is at its place at the end of the pass, as it was: not a proof."""
        counts = iter([count for came in announced for count in (7, 7 + came)])
        monkeypatch.setattr(Kernel, "uevents", property(lambda self: next(counts)))
        pauses: list[float] = []
        result = pagemaps.audit(live, sleep=pauses.append)
        assert len(pauses) == passes - 1
        assert [f.rule for _, f in result.all_findings()] == ["hole"] * reported
        # Of two pagemaps, one is broken.
        states = sorted(one.state == "unreadable" for one in result.pagemaps)
        assert states == [False] * (len(states) - 1) + [not reported]

    def test_other_frames_at_the_end_of_each_look(
        self, live: Kernel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def moved(detail: PagemapDetail) -> PagemapDetail:
            first, *others = detail.first
            return replace(detail, first=(replace(first, pfn=1), *others))

        def once(*args: object, **more: object) -> Report:
            result = original(*args, **more)  # type: ignore[arg-type]
            return replace(
                result,
                pagemaps=tuple(replace(one, detail=moved(one.detail)) for one in result.pagemaps),
            )

        original = pagemaps.once
        monkeypatch.setattr(pagemaps, "once", once)
        result = pagemaps.audit(live, sleep=lambda seconds: None)
        assert result.all_findings() == []
        states = {bool(one.findings) or one.state == "unreadable" for one in result.pagemaps}
        assert states == {True}

    def test_a_look_that_fails_is_made_again(
        self, live: Kernel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        failures = [FaultError("gone", 0x1000), OSError(14, "Bad address")]

        def once(*args: object, **more: object) -> Report:
            if failures:
                raise failures.pop()
            return original(*args, **more)  # type: ignore[arg-type]

        original = pagemaps.once
        monkeypatch.setattr(pagemaps, "once", once)
        result = pagemaps.audit(live, sleep=lambda seconds: None)
        assert [f.rule for _, f in result.all_findings()] == ["hole"]

        failures += [FaultError("gone", 0x1000)] * 5
        with pytest.raises(TargetError, match=r"could not be read in 5 attempts: gone"):
            pagemaps.audit(live, sleep=lambda seconds: None)

    def test_a_dump_is_looked_at_once(self, live: Kernel) -> None:
        def sleep(seconds: float) -> None:
            raise AssertionError("nothing to wait for")

        dump = live.again()
        dump.target = replace(live.target, kind="core")
        result = pagemaps.audit(dump, sleep=sleep)
        assert [f.rule for _, f in result.all_findings()] == ["hole"]


@pytest.mark.parametrize(
    ("nr_range", "ref", "changing"),
    [(1, 0, False), (1, 0xFFFFE8FFFFC00000, False), (2, 1, False), (0, 0, True), (1, 3, True)],
)
def test_lifecycle_of_a_pagemap(nr_range: int, ref: int, changing: bool) -> None:
    pagemap = replace(SOUND.detail.pagemap, nr_range=nr_range, ref=ref)
    assert pagemap.changing is changing


class TestStopped:
    """Dumps of kernels that stopped while a device was on its way."""

    SCENARIO = """
[[pagemap]]
name = "dax0.0"
type = "devdax"
start = 0x100000000
size = "128M"
align = "2M"

[[pagemap]]
name = "dax1.0"
type = "devdax"
start = 0x140000000
size = "128M"
align = "2M"
"""

    @staticmethod
    def unmap_tail(kernel: SimulatedKernel) -> None:
        """Take the second page of dax1.0's vmemmap away, as a teardown that has begun."""
        head, _ = kernel.pagemap("dax1.0").ranges[0]
        kernel.tables.set(kernel.addresses.pfn_to_page(head) + 4096, kernels.PTE_SHIFT, 0)

    @staticmethod
    def kill(kernel: SimulatedKernel) -> None:
        """``percpu_ref_kill()``"""
        kernel.pagemap("dax1.0").pgmap["ref.percpu_count_ptr"] |= 2

    @pytest.mark.parametrize("kernel", ["6.1", "7.2", "next"])
    @pytest.mark.parametrize("way", ["up", "down"])
    def test_half_done(
        self, tmp_path: Path, kernel: str, way: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        built = kernels.image(self.SCENARIO, kernel)
        if way == "up":
            # mm/memremap.c: memremap_pages() counts a range when all is done for it.
            built.kernel.pagemap("dax1.0").pgmap["nr_range"] = 0
        else:
            self.kill(built.kernel)
        self.unmap_tail(built.kernel)
        path = kernels.write(built, tmp_path)
        assert main(["pgmap", "-c", path, "--types", "btf", "--format", "json"]) == 4
        whole, half = json.loads(capsys.readouterr().out)["pgmaps"]
        assert (whole["state"], whole["findings"]) == ("deduplicated", [])
        assert (half["state"], half["findings"]) == ("unreadable", [])
        assert half["reason"] == "a device was being set up or torn down when the kernel stopped"
        assert main(["memmap", "-c", path, "--types", "btf", "--format", "json"]) == 4
        report = json.loads(capsys.readouterr().out)
        assert report["findings"] == []

    def test_a_teardown_that_waits_is_told_as_it_is(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """It has not begun to unmap anything, and may wait for a leaked reference for ever."""
        built = kernels.image(self.SCENARIO, "6.12")
        self.kill(built.kernel)
        path = kernels.write(built, tmp_path)
        assert main(["pgmap", "-c", path, "--types", "btf", "--format", "json"]) == 0
        states = [one["state"] for one in json.loads(capsys.readouterr().out)["pgmaps"]]
        assert states == ["deduplicated", "deduplicated"]

    def test_a_hole_in_one_that_stays_is_a_hole(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        built = kernels.image(self.SCENARIO, "6.12")
        self.unmap_tail(built.kernel)
        path = kernels.write(built, tmp_path)
        assert main(["pgmap", "-c", path, "--types", "btf", "--format", "json"]) == 1
        document = json.loads(capsys.readouterr().out)
        assert "hole" in {f["rule"] for f in document["pgmaps"][1]["findings"]}
