# SPDX-License-Identifier: LGPL-2.1-or-later
"""The catalogue, and that an audit says of every rule in it what came of it."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from vmemscope.audits.pagemaps.parts import Pagemaps
from vmemscope.report.documents.pgmap import Report
from vmemscope.rules import RULES, rules_of
from vmemscope.rules.findings import Outcome, RuleOutcome
from vmemscope.rules.rule import Rule, Scope
from vmemscope.sim.faults import Planted

from .kernels import SIMULATED
from .test_confirm import after_passes

Audited = Callable[[str, str], tuple[Report, list[Planted]]]


def faults_of(rule: Rule) -> Iterator[str]:
    """Find what is wrong with the text of a rule."""
    if not re.fullmatch("[a-z]+(-[a-z]+)*", rule.id):
        yield "its id"
    if not rule.scope:
        yield "no scope"
    for release in (rule.since, rule.until):
        if release is not None and not re.fullmatch(r"\d\.\d+", release):
            yield f"no version: {release}"
    # The invariant is a clause, the rest are sentences.
    if not (rule.holds[0].islower() or rule.holds.startswith(("PG_", "HugeTLB"))):
        yield "its invariant starts a sentence"
    if rule.holds[-1] == ".":
        yield "its invariant ends a sentence"
    for text, length in ((rule.meaning, 80), (rule.look_at, 40)):
        if len(text) <= length or text[-1] not in ".?" or "  " in text:
            yield f"no sentences, or too short: {text!r}"
    if not re.match(r"(mm|include|arch|kernel|lib|drivers)/[\w./-]+\.[ch]: \w", rule.source):
        yield f"no file of the kernel: {rule.source}"
    for name in re.findall(r"\brule ([a-z]+(?:-[a-z]+)*)", f"{rule.meaning} {rule.look_at}"):
        if name not in RULES:
            yield f"it points to a rule that is not there: {name}"


def test_rules_say_all_that_they_should() -> None:
    assert [(rule.id, wrong) for rule in RULES.values() for wrong in faults_of(rule)] == []


def test_text_without_a_meaning_is_wrong() -> None:
    hole = RULES["hole"]
    for change in (
        {"id": "Hole"},
        {"since": "v6.1"},
        {"holds": "Every page is mapped."},
        {"meaning": "short."},
        {"look_at": "see rule no-such-rule, and all that is written about it elsewhere."},
        {"source": "Documentation/mm/vmemmap_dedup.rst"},
    ):
        assert list(faults_of(replace(hole, **change))), change


def test_rules_do_not_need_drgn() -> None:
    code = "import sys; from vmemscope.rules import RULES; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.split()
    assert "vmemscope.rules.frames" in loaded
    assert "drgn" not in loaded


def by_rule(outcomes: tuple[RuleOutcome, ...]) -> dict[str, RuleOutcome]:
    told = {one.rule: one for one in outcomes}
    assert len(told) == len(outcomes)
    return told


def outcomes_of(audited: Audited, scenario: str, kernel: str = "6.1") -> dict[str, RuleOutcome]:
    """Get the outcomes of a scenario's last pagemap."""
    report, _ = audited(scenario, kernel)
    return by_rule(report.pagemaps[-1].outcomes)


@pytest.mark.parametrize("kernel", SIMULATED)
def test_everything_but_what_does_not_apply_is_checked(audited: Audited, kernel: str) -> None:
    told = outcomes_of(audited, "devdax-2m", kernel)
    skipped = {name for name, one in told.items() if one.outcome is Outcome.SKIPPED}
    by_kernel = {"compound-alignment" if kernel in ("7.2", "next") else "mask-alignment"}
    assert (
        skipped
        == {"section-alignment", "leaf-fallback", "altmap-frame", "altmap-alloc"} | by_kernel
    )


@pytest.mark.parametrize(
    ("scenario", "rule", "reason"),
    [
        ("fsdax", "compound-head", "no compound pages"),
        ("fsdax", "tail-frame", "base pages (vmemmap_shift 0)"),
        ("fsdax", "altmap-frame", "no altmap"),
        ("altmap", "refcount-low", "altmap: frames on the device"),
        ("altmap", "frame-not-memory", "altmap: frames on the device"),
        ("altmap", "not-deduplicated", "it has an altmap"),
        ("devdax-2m", "section-alignment", "no compound pages larger than a section"),
        ("devdax-2m", "leaf-fallback", "deduplicated parts have base pages"),
        ("devdax-2m", "mask-alignment", "tail pages of this kernel point to their head"),
        ("early-section", "read-only", "sections that were there at boot"),
        ("early-section", "refcount-high", "the memory map of RAM owns"),
        ("shift-absurd", "head-flag", "its vmemmap_shift makes no sense"),
        ("shift-absurd", "tail-frame", "it is not known"),
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
    report, _ = audited("xarray-cycle", "6.1")
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
        broken, _ = audited("several-faults", "6.1")
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
        assert len(one.outcomes) == len(rules_of(Scope.PAGEMAP, "x86_64"))
