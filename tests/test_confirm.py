# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is found on a live target counts only where nothing changed, and twice."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
from drgn import FaultError
from msgspec import structs

from tests import kernels
from tests.report.builders import finding, pagemap_report, report
from vmemscope import confirm
from vmemscope.cli.main import main
from vmemscope.confirm import Look, confirmed_audit, is_certain, merged
from vmemscope.errors import TargetError
from vmemscope.kernel.dev_pagemap import Pagemap
from vmemscope.report import schema_text, to_document
from vmemscope.report.documents.pgmap import PagemapDetail, PagemapReport, Report
from vmemscope.rules.rule import Severity
from vmemscope.sim import build, load_scenario
from vmemscope.sim.kernel import Kernel
from vmemscope.sim.pagetable import PTE_SHIFT
from vmemscope.target import Target, open_core
from vmemscope.types import attach_types

FIXTURES = Path(__file__).parent.parent / "fixtures"

SOUND = pagemap_report()
BROKEN = pagemap_report(findings=(finding(),))
OTHER = pagemap_report("dax1.0", address=0xFFFF888101235000, ranges=((0x180000000, 0x19FFFFFFF),))


def steady(*pagemaps: PagemapReport) -> Look:
    return Look(report(*pagemaps), frozenset(one.address for one in pagemaps))


def unsteady(*pagemaps: PagemapReport, but: tuple[PagemapReport, ...] = ()) -> Look:
    return Look(report(*pagemaps), frozenset(one.address for one in but))


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
        look = Look(report(findings=(finding("xarray"),)), frozenset())
        assert not is_certain([look])
        assert is_certain([look, look])

    def test_a_note_is_not_worth_a_second_look(self) -> None:
        note = finding("leaf-fallback", Severity.NOTE)
        assert is_certain([steady(structs.replace(SOUND, findings=(note,)))])


class TestMerged:
    def test_what_is_in_both(self) -> None:
        passing = finding("hole", vaddr=1)
        first = structs.replace(BROKEN, findings=(passing, finding()))
        second = structs.replace(BROKEN, findings=(finding(), finding("hole", vaddr=2)))
        result = merged([steady(first), steady(second)])
        assert result.pagemaps[0].findings == (finding(),)
        assert result.summary.errors == 1
        assert not result.summary.partial

    def test_looks_that_do_not_count_do_not_acquit(self) -> None:
        result = merged([steady(BROKEN), unsteady(SOUND), steady(BROKEN)])
        assert result.pagemaps[0].findings == (finding(),)

    @pytest.mark.parametrize(
        "looks",
        [
            [unsteady(BROKEN, OTHER, but=(OTHER,)), unsteady(BROKEN, OTHER, but=(OTHER,))],
            [unsteady(BROKEN, OTHER, but=(OTHER,)), steady(BROKEN, OTHER)],
            [steady(SOUND, OTHER), unsteady(SOUND, OTHER, but=(OTHER,))],
        ],
    )
    def test_nothing_is_told_of_what_kept_changing(self, looks: list[Look]) -> None:
        result = merged(looks)
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
        document = to_document(merged([unsteady(BROKEN)]))
        jsonschema.validate(document, json.loads(schema_text()))
        assert document["pgmaps"][0]["state"] == "unreadable"

    def test_what_went_is_not_told(self) -> None:
        assert merged([steady(BROKEN, OTHER), steady(OTHER)]).pagemaps == (OTHER,)

    def test_one_look_is_as_it_is(self) -> None:
        assert merged([steady(SOUND)]) == report(SOUND)


class TestConfirmedAudit:
    @pytest.fixture
    def target(self, tmp_path: Path) -> Target:
        """A simulated kernel with a hole, as if it were running."""
        image = build(load_scenario(str(FIXTURES / "hole.toml")), kernel="6.1")
        image.write(tmp_path / "vmcore")
        target = replace(open_core(str(tmp_path / "vmcore")), kind="live")
        attach_types(target.prog, "btf")
        return target

    def test_found_in_two_looks(self, target: Target) -> None:
        pauses: list[float] = []
        result = confirmed_audit(target, "btf", {}, sleep=pauses.append)
        assert [f.rule for _, f in result.all_findings()] == ["hole"]
        assert len(pauses) == 1

    def test_torn_down_at_the_end_of_each_look(
        self, target: Target, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def read_pagemaps(prog: object) -> tuple[list[Pagemap], list[object]]:
            pagemaps, damage = original(prog)  # type: ignore[arg-type]
            return [replace(pagemap, ref=pagemap.ref | 2) for pagemap in pagemaps], damage  # type: ignore[return-value]

        original = confirm.read_pagemaps
        monkeypatch.setattr(confirm, "read_pagemaps", read_pagemaps)
        pauses: list[float] = []
        result = confirmed_audit(target, "btf", {}, sleep=pauses.append)
        assert len(pauses) == 4
        assert result.all_findings() == []
        assert {one.state for one in result.pagemaps} == {"unreadable"}
        assert result.summary.partial

    def test_other_frames_at_the_end_of_each_look(
        self, target: Target, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def moved(detail: PagemapDetail) -> PagemapDetail:
            first, *others = detail.first
            return structs.replace(detail, first=(structs.replace(first, pfn=1), *others))

        def audit(*args: object) -> Report:
            result = original(*args)  # type: ignore[arg-type]
            return structs.replace(
                result,
                pagemaps=tuple(
                    structs.replace(one, detail=moved(one.detail)) for one in result.pagemaps
                ),
            )

        original = confirm.audit
        monkeypatch.setattr(confirm, "audit", audit)
        result = confirmed_audit(target, "btf", {}, sleep=lambda seconds: None)
        assert result.all_findings() == []
        states = {bool(one.findings) or one.state == "unreadable" for one in result.pagemaps}
        assert states == {True}

    def test_a_look_that_fails_is_made_again(
        self, target: Target, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        failures = [FaultError("gone", 0x1000), OSError(14, "Bad address")]

        def audit(*args: object) -> Report:
            if failures:
                raise failures.pop()
            return original(*args)  # type: ignore[arg-type]

        original = confirm.audit
        monkeypatch.setattr(confirm, "audit", audit)
        result = confirmed_audit(target, "btf", {}, sleep=lambda seconds: None)
        assert [f.rule for _, f in result.all_findings()] == ["hole"]

        failures += [FaultError("gone", 0x1000)] * 5
        with pytest.raises(TargetError, match=r"could not be read in 5 attempts: gone"):
            confirmed_audit(target, "btf", {}, sleep=lambda seconds: None)

    def test_a_dump_is_looked_at_once(self, target: Target) -> None:
        def sleep(seconds: float) -> None:
            raise AssertionError("nothing to wait for")

        result = confirmed_audit(replace(target, kind="core"), "btf", {}, sleep=sleep)
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
    def unmap_tail(kernel: Kernel) -> None:
        """Take the second page of dax1.0's vmemmap away, as a teardown that has begun."""
        head, _ = kernel.pagemap("dax1.0").ranges[0]
        kernel.tables.set(kernel.addresses.pfn_to_page(head) + 4096, PTE_SHIFT, 0)

    @staticmethod
    def kill(kernel: Kernel) -> None:
        """``percpu_ref_kill()``"""
        kernel.pagemap("dax1.0").pgmap["ref.percpu_count_ptr"] |= 2

    @pytest.mark.parametrize("kernel", ["6.1", "7.2"])
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
        assert half["reason"] == "it was being set up or torn down when the kernel stopped"
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
