# SPDX-License-Identifier: LGPL-2.1-or-later
"""The catalogue, and that an audit says of every rule in it what came of it."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from vmemscope.audits.pagemaps.parts import Pagemaps
from vmemscope.report.documents.pgmap import PagemapReport, Report
from vmemscope.rules import RULES, rules_of
from vmemscope.rules.findings import NOT_EVALUATED, Outcome, RuleOutcome
from vmemscope.rules.rule import Scope
from vmemscope.sim import builtin_scenarios
from vmemscope.sim.faults import Planted

from .conftest import KERNELS
from .test_confirm import after_passes
from .test_scenarios import image_kernel

Audited = Callable[[str, str], tuple[Report, list[Planted]]]

FIXTURES = Path(__file__).parent.parent / "fixtures"
FAULTS = sorted(path.stem for path in FIXTURES.glob("*.toml"))
SCENARIOS = [*builtin_scenarios(), *(str(FIXTURES / f"{fault}.toml") for fault in FAULTS)]


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
class TestCatalogue:
    def test_says_all_that_it_should(self, rule) -> None:  # type: ignore[no-untyped-def]
        assert re.fullmatch("[a-z]+(-[a-z]+)*", rule.id)
        assert rule.scope
        for release in (rule.since, rule.until):
            assert release is None or re.fullmatch(r"\d\.\d+", release)
        assert len(rule.meaning) > 80
        assert len(rule.look_at) > 40

    def test_invariant_is_a_clause_and_the_rest_are_sentences(self, rule) -> None:  # type: ignore[no-untyped-def]
        assert rule.holds[0].islower() or rule.holds.startswith(("PG_", "HugeTLB"))
        assert rule.holds[-1] != "."
        for text in (rule.meaning, rule.look_at):
            assert text[-1] in ".?"
            assert "  " not in text

    def test_source_is_a_file_of_the_kernel(self, rule) -> None:  # type: ignore[no-untyped-def]
        assert re.match(r"(mm|include|arch|kernel|lib|drivers)/[\w./-]+\.[ch]: \w", rule.source)

    def test_rules_that_it_points_to_are_there(self, rule) -> None:  # type: ignore[no-untyped-def]
        named = re.findall(r"\brule ([a-z]+(?:-[a-z]+)*)", f"{rule.meaning} {rule.look_at}")
        assert [name for name in named if name not in RULES] == []


def test_rules_do_not_need_drgn() -> None:
    code = "import sys, vmemscope.rules; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.split()
    assert "vmemscope.rules.frames" in loaded
    assert "drgn" not in loaded


def by_rule(outcomes: tuple[RuleOutcome, ...]) -> dict[str, RuleOutcome]:
    told = {one.rule: one for one in outcomes}
    assert len(told) == len(outcomes)
    return told


def check(owner: PagemapReport | Report, scope: Scope) -> None:
    """Assert that every rule of a scope has an outcome that agrees with the findings."""
    told = by_rule(owner.outcomes)
    assert list(told) == [rule.id for rule in rules_of(scope)]
    broken = {finding.rule for finding in owner.findings}
    for one in told.values():
        assert one.reason != NOT_EVALUATED, one
        assert (one.outcome is Outcome.FAILED) == (one.rule in broken), one
        assert (one.violations > 0) == (one.outcome is Outcome.FAILED), one
        assert one.outcome is not Outcome.SKIPPED or one.reason, one


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda path: Path(path).stem)
def test_every_rule_has_an_outcome(audited: Audited, scenario: str, kernel: str) -> None:
    report, _ = audited(scenario, image_kernel(Path(scenario).stem, kernel))
    check(report, Scope.TARGET)
    for one in report.pagemaps:
        check(one, Scope.PAGEMAP)
    counted = report.outcome_counts()
    rules = len(rules_of(Scope.TARGET)) + len(report.pagemaps) * len(rules_of(Scope.PAGEMAP))
    assert sum(counted.values()) == rules


def outcomes_of(audited: Audited, scenario: str, kernel: str = "6.1") -> dict[str, RuleOutcome]:
    """Get the outcomes of a scenario's last pagemap."""
    path = FIXTURES / f"{scenario}.toml"
    report, _ = audited(str(path) if path.exists() else scenario, kernel)
    return by_rule(report.pagemaps[-1].outcomes)


@pytest.mark.parametrize("kernel", KERNELS)
def test_everything_but_what_does_not_apply_is_checked(audited: Audited, kernel: str) -> None:
    told = outcomes_of(audited, "devdax-2m", kernel)
    skipped = {name for name, one in told.items() if one.outcome is Outcome.SKIPPED}
    by_kernel = {"compound-alignment" if kernel == "7.2" else "mask-alignment"}
    assert skipped == {"section-alignment", "leaf-fallback", "altmap-frame"} | by_kernel


@pytest.mark.parametrize(
    ("scenario", "rule", "reason"),
    [
        ("fsdax", "compound-head", "no compound pages"),
        ("fsdax", "tail-frame", "base pages (vmemmap_shift 0)"),
        ("fsdax", "altmap-frame", "no altmap"),
        ("altmap", "refcount-low", "altmap: frames on the device"),
        ("altmap", "frame-not-memory", "altmap: frames on the device"),
        ("altmap", "not-deduplicated", "the memory map lies on the device (altmap)"),
        ("devdax-2m", "section-alignment", "no compound pages larger than a section"),
        ("devdax-2m", "leaf-fallback", "deduplicated parts have base pages"),
        ("devdax-2m", "mask-alignment", "tail pages of this kernel point to their head"),
        ("early-section", "read-only", "sections that were there at boot"),
        ("early-section", "refcount-high", "the memory map of RAM owns"),
        ("shift-absurd", "head-flag", "its vmemmap_shift makes no sense"),
        ("shift-absurd", "tail-frame", "it can't be told"),
        ("range-inverted", "hole", "it has no valid range"),
        ("range-inverted", "range-overlap", "it has no valid range"),
        ("range-inverted", "refcount-low", "nothing of its vmemmap is known to be mapped"),
        ("xarray-cycle", "xarray", "pgmap_array could not be followed"),
        ("unreadable-table", "hole", "page tables that could not be read"),
        ("unreadable-table", "executable", "not mapped, or could not be read"),
        ("unreadable-table", "head-flag", "not mapped, or could not be read"),
    ],
)
def test_reason(audited: Audited, scenario: str, rule: str, reason: str) -> None:
    one = outcomes_of(audited, scenario)[rule]
    assert one.outcome is Outcome.SKIPPED
    assert reason in (one.reason or "")


@pytest.mark.parametrize(
    ("scenario", "rule", "reason"),
    [
        ("unreadable-frame", "refcount-low", "reference counts that could not be read"),
        ("unreadable-struct-page", "head-flag", "could not be read"),
        ("early-1g", "leaf-size", "sections that were there at boot"),
    ],
)
def test_checked_only_in_part(audited: Audited, scenario: str, rule: str, reason: str) -> None:
    one = outcomes_of(audited, scenario)[rule]
    assert one.outcome is Outcome.CHECKED
    assert reason in (one.reason or "")


def test_damage_to_the_array_is_the_targets(audited: Audited) -> None:
    report, _ = audited(str(FIXTURES / "xarray-cycle.toml"), "6.1")
    assert by_rule(report.outcomes)["xarray"].outcome is Outcome.FAILED
    assert by_rule(report.outcomes)["resource-tree"].outcome is Outcome.CHECKED


def test_violations_count_beyond_what_is_told(audited: Audited) -> None:
    report, _ = audited("early-1g", "6.12")
    [one] = report.pagemaps
    told = by_rule(one.outcomes)["frame-not-memory"]
    assert told.violations >= sum(f.rule == "frame-not-memory" for f in one.findings)


def test_more_shared_frames_than_are_looked_up(audited: Audited, tmp_path: Path) -> None:
    scenario = tmp_path / "many.toml"
    device = (
        'description = "the heads of many compound pages map the frames of others"\n'
        '[[pagemap]]\nname = "dax0.0"\ntype = "devdax"\nstart = 0x100000000\n'
        'size = "512M"\nalign = "2M"\n'
    )
    fault = (
        '[[fault]]\nkind = "head-not-private"\npagemap = "dax0.0"\n'
        'compound = {}\nto = "other-head"\nother = {}\n'
    )
    pairs = [(number, number + 1) for number in range(2, 250, 2)]
    scenario.write_text(device + "".join(fault.format(*pair) for pair in pairs))
    report, _ = audited(str(scenario), "6.12")
    [one] = report.pagemaps
    told = by_rule(one.outcomes)["frame-shared"]
    assert told.violations == len(pairs) == 124
    assert sum(finding.rule == "frame-shared" for finding in one.findings) == 16


class TestConfirmed:
    """On a live target, what is not so twice is neither a failure nor a pass."""

    def merged(self, audited: Audited, *, steady: bool) -> tuple[Report, Report]:
        broken, _ = audited(str(FIXTURES / "several-faults.toml"), "6.1")
        [one] = broken.pagemaps
        earlier = replace(broken, pagemaps=(replace(one, findings=one.findings[:1]),))
        unsteady = () if steady else (one.address,)
        return broken, after_passes(Pagemaps(), earlier, broken, unsteady=unsteady)

    def test_what_passed_is_skipped(self, audited: Audited) -> None:
        broken, report = self.merged(audited, steady=True)
        [one] = report.pagemaps
        kept = broken.pagemaps[0].findings[0].rule
        told = by_rule(one.outcomes)
        assert {f.rule for f in one.findings} == {kept}
        assert told[kept].outcome is Outcome.FAILED
        for finding in broken.pagemaps[0].findings[1:]:
            assert told[finding.rule].outcome is Outcome.SKIPPED
            assert "did not hold in one pass, and held in another" in (
                told[finding.rule].reason or ""
            )
        assert report.outcome_counts()[Outcome.FAILED] == 1

    def test_nothing_is_told_of_what_changes(self, audited: Audited) -> None:
        _, report = self.merged(audited, steady=False)
        [one] = report.pagemaps
        assert {outcome.outcome for outcome in one.outcomes} == {Outcome.SKIPPED}
        assert len(one.outcomes) == len(rules_of(Scope.PAGEMAP))
