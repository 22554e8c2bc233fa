# SPDX-License-Identifier: LGPL-2.1-or-later
"""What changed between two reports, and what of it is worse."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import jsonschema
import pytest
from msgspec.structs import replace

from vmemscope.report import change_lines, render_diff, schema_text, to_document
from vmemscope.report.compare import compare, values_of
from vmemscope.report.documents.diff import Change, Diff, NotEvaluated
from vmemscope.report.documents.pgmap import PagemapReport, Report
from vmemscope.rules.findings import Finding, Outcome, RuleOutcome
from vmemscope.rules.rule import Severity
from vmemscope.sim.faults import Planted

from .report.builders import PAGE, finding, hostile, of_every_kind, pagemap_report, report

Audited = Callable[[str, str], tuple[Report, list[Planted]]]


DOCS = Path(__file__).parent.parent / "docs" / "diff.md"
SCHEMA = json.loads(schema_text("vmemscope.diff/1"))
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def diff_of(before: Report, after: Report) -> Diff:
    """Compare, and check what must hold of every comparison."""
    diff = compare(before, after, ("A", "B"))
    document = to_document(diff)
    VALIDATOR.validate(document)
    assert document["worse"] == list(diff.worse)
    text = render_diff(diff)
    assert text.startswith("before: A: ")
    # One line for each thing that got worse, and a last one.
    assert text.count("\nworse: ") == len(diff.worse)
    assert bool(diff) or not diff.worse
    return diff


def of(*pagemaps: PagemapReport, **rest: Any) -> Report:
    return report(*pagemaps, **rest)


def changes(diff: Diff) -> dict[str, tuple[Any, Any, bool]]:
    [pair] = diff.pagemaps.changed
    return {one.field: (one.before, one.after, one.worse) for one in pair.changes}


def test_schema_itself_is_sound() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_docs_have_every_field() -> None:
    text = DOCS.read_text(encoding="utf-8")
    names = {name for one in SCHEMA["$defs"].values() for name in one.get("properties", ())}
    assert [name for name in sorted(names) if f"`{name}`" not in text] == []


def test_same_look() -> None:
    diff = diff_of(of(*of_every_kind()), of(*of_every_kind()))
    assert not diff
    assert diff.worse == ()
    assert render_diff(diff).splitlines()[-1] == "no difference"
    assert change_lines(diff) == ["nothing changed"]


def test_another_boot_is_no_difference() -> None:
    # All that differs from boot to boot: where structures, vmemmap and frames are.
    moved = 0x123456780000
    before = pagemap_report(findings=(finding(), finding("nr-range", vaddr=0xFFFF888101234000)))
    after = replace(
        before,
        address=before.address + moved,
        vmemmap=replace(
            before.vmemmap,
            start=(before.vmemmap.start or 0) + moved,
            end=(before.vmemmap.end or 0) + moved,
        ),
        findings=tuple(
            replace(one, vaddr=(one.vaddr or 0) + moved, pfn=0x999, message="other frames")
            for one in before.findings
        ),
    )
    assert not diff_of(of(before), of(after))


def test_pagemaps_that_came_and_went() -> None:
    a, b, *_ = of_every_kind()
    diff = diff_of(of(a), of(b))
    assert [one.name for one in diff.pagemaps.gone] == ["dax0.0"]
    assert [one.name for one in diff.pagemaps.came] == ["namespace1.0"]
    # That a device went is nobody's fault.
    assert diff.worse == ()
    assert "nothing got worse" in render_diff(diff)


def test_pagemap_that_came_with_errors_is_worse() -> None:
    diff = diff_of(of(), of(pagemap_report(findings=(finding(),))))
    assert diff.worse == ("dax0.0: 1 new error of rule refcount-low",)


GIB = 1 << 30


def span(start: int, size: int) -> tuple[int, int]:
    """Return a range by its start and size, in quarters of a gibibyte from 4 GiB on."""
    at = 4 * GIB + start * GIB // 4
    return at, at + size * GIB // 4 - 1


@pytest.mark.parametrize("seed", range(6))
def test_a_machine_that_numbers_its_devices_anew(seed: int) -> None:
    # As after a reboot: other names, other addresses, another order, of ranges too.
    random = Random(seed)
    kinds = ["generic", "fs_dax", "generic", "pci_p2pdma", "generic"]
    before = [
        pagemap_report(
            f"dax{i}.0",
            address=0x1000 * i,
            ranges=(span(10 * i, 2), span(10 * i + 4, 1)),
            kind=kind,
        )
        for i, kind in enumerate(kinds)
    ]
    numbers = random.sample(range(5), 5)
    after = [
        replace(
            one,
            name=f"dax{numbers[i]}.0",
            address=0x1000 * random.randrange(5),
            ranges=tuple(random.sample(one.ranges, 2)),
        )
        for i, one in enumerate(before)
    ]
    random.shuffle(after)
    diff = diff_of(of(*before), of(*after))
    assert (diff.pagemaps.came, diff.pagemaps.gone, diff.worse, diff.went) == ((), (), (), ())
    renamed = {f"dax{i}.0": f"dax{number}.0" for i, number in enumerate(numbers) if i != number}
    assert {one.before.name: one.after.name for one in diff.pagemaps.changed} == renamed
    for one in diff.pagemaps.changed:
        assert [change.field for change in one.changes] == ["name"]
    # One of them lost its deduplication.
    lost = next(one for one in after if one.type == "generic")
    worse = replace(lost, state="not-optimized", saved_bytes=0)
    diff = diff_of(of(*before), of(*(worse if one is lost else one for one in after)))
    assert [line.split(":")[0] for line in diff.worse] == [lost.name] * 2
    assert diff.pagemaps.gone == ()


def test_a_finding_is_known_by_the_memory_that_it_is_about() -> None:
    # The device has another name, a larger range and its vmemmap elsewhere.
    old = pagemap_report("dax0.0", ranges=(span(4, 4),))
    start = old.vmemmap.start
    assert start is not None
    old = replace(old, findings=(finding(vaddr=start + 0x5000), finding(vaddr=start + 0x9000)))
    new = pagemap_report("dax1.0", ranges=(span(3, 5),))
    start = new.vmemmap.start
    assert start is not None
    # A quarter of a gibibyte has 65536 struct pages.
    there = start + 65536 * 64
    new = replace(new, findings=(finding(vaddr=there + 0x5000), finding(vaddr=there + 0xA000)))
    (pair,) = diff_of(of(old), of(new)).pagemaps.changed
    assert [one.vaddr for one in pair.findings.new] == [there + 0xA000]
    assert [one.vaddr for one in pair.findings.gone] == [old.findings[1].vaddr]


@pytest.mark.parametrize(
    ("before", "after", "pairs", "went"),
    [
        # shrunk, grown, moved in part; split, joined; another beside it
        ([(4, 4)], [(4, 2)], {(4, 4): (4, 2)}, 0),
        ([(4, 2)], [(2, 6)], {(4, 2): (2, 6)}, 0),
        ([(4, 4)], [(6, 4)], {(4, 4): (6, 4)}, 0),
        ([(0, 8)], [(0, 5), (5, 3)], {(0, 8): (0, 5)}, 0),
        ([(0, 5), (5, 3)], [(0, 8)], {(0, 5): (0, 8)}, 0),
        ([(0, 2), (4, 2)], [(4, 2), (8, 2)], {(4, 2): (4, 2)}, 1),
        ([(0, 2), (4, 2)], [(3, 2)], {(4, 2): (3, 2)}, 1),
        ([(0, 2)], [], {}, 1),
        ([(0, 2)], [(2, 2)], {}, 1),
    ],
)
def test_devices_whose_ranges_are_others_now(
    before: list[tuple[int, int]],
    after: list[tuple[int, int]],
    pairs: dict[tuple[int, int], tuple[int, int]],
    went: int,
) -> None:
    # Names say nothing: here they are all the same, or all others.
    for name in ("a", "b"):
        olds = {one: pagemap_report("a", ranges=(span(*one),), address=1) for one in before}
        news = {one: pagemap_report(name, ranges=(span(*one),), address=2) for one in after}
        diff = diff_of(of(*olds.values()), of(*news.values()))
        assert len(diff.pagemaps.gone) == len(before) - len(pairs)
        assert len(diff.pagemaps.came) == len(after) - len(pairs)
        ranged = {
            tuple(one.before for one in pair.changes if one.field == "ranges")
            + tuple(one.after for one in pair.changes if one.field == "ranges")
            for pair in diff.pagemaps.changed
        } - {()}
        assert ranged == {
            tuple("{:#x}-{:#x}".format(*span(*one)) for one in pair)
            for pair in pairs.items()
            if pair[0] != pair[1]
        }
        assert len(diff.went) == went
        last = render_diff(diff).splitlines()[-1]
        assert (f"{went} pagemap went" in last) == bool(went)


def test_of_pagemaps_that_overlap_those_of_one_type_match() -> None:
    old = pagemap_report("pmem0", ranges=(span(0, 8),), kind="fs_dax")
    news = [
        pagemap_report("dax1.0", ranges=(span(0, 6),)),
        pagemap_report("pmem1", ranges=(span(6, 2),), kind="fs_dax"),
    ]
    diff = diff_of(of(old), of(*news))
    assert [one.after.name for one in diff.pagemaps.changed] == ["pmem1"]
    assert [one.name for one in diff.pagemaps.came] == ["dax1.0"]


def test_memory_that_another_driver_has_now_changed_its_type() -> None:
    old = pagemap_report("pmem0", kind="fs_dax")
    new = pagemap_report("dax0.0", kind="generic")
    assert changes(diff_of(of(old), of(new))) == {
        "name": ("pmem0", "dax0.0", False),
        "type": ("fs_dax", "generic", False),
    }


def test_private_memory_is_anywhere() -> None:
    one, other = (
        pagemap_report(None, ranges=(span(start, 2),), kind="private") for start in (0, 100)
    )
    diff = diff_of(of(one), of(other))
    assert (diff.pagemaps.came, diff.pagemaps.gone) == ((), ())
    assert set(changes(diff)) == {"ranges"}
    larger = pagemap_report(None, ranges=(span(100, 3),), kind="private")
    assert len(diff_of(of(one), of(larger)).went) == 1


def test_a_pagemap_whose_ranges_can_not_be_read_is_known_by_its_address() -> None:
    one = pagemap_report("dax0.0")
    unread = pagemap_report("dax0.0", ranges=(), state="unreadable", first=(), reason="damaged")
    diff = diff_of(of(one), of(unread))
    assert diff.pagemaps.gone == ()
    assert any("state from deduplicated to unreadable" in line for line in diff.worse)


def test_very_many_ranges_are_not_compared_each_with_each() -> None:
    olds = [pagemap_report("a", ranges=(span(2 * i, 1),), first=()) for i in range(2100)]
    news = [
        pagemap_report("a", ranges=((span(2 * i, 1)[0], span(2 * i, 1)[1] - (1 << 21)),), first=())
        for i in range(2100)
    ]
    diff = compare(of(*olds), of(*news))
    assert len(diff.pagemaps.gone) + len(diff.pagemaps.changed) == 2100


def test_pagemaps_that_nothing_distinguishes_are_taken_in_order() -> None:
    same = [pagemap_report(None, address=0x1000 * i) for i in range(1, 4)]
    assert not diff_of(of(*same), of(*same))
    diff = diff_of(of(*same), of(*same[:2]))
    assert [one.address for one in diff.pagemaps.gone] == [0x3000]
    # Its memory is described still.
    assert diff.went == ()


def test_the_same_machine_after_a_reboot(audited: Audited) -> None:
    # Another seed: another place for the kernel and its vmemmap; names in another order.
    names = ["dax0.0", "dax1.0", "pmem2"]
    ranges = ["0x100000000", "0x140000000", "0x180000000"]

    def scenario(order: list[str], seed: int, map_: str) -> str:
        return f"ram = '512M'\nseed = {seed}\n" + "".join(
            f"[[pagemap]]\nname = '{name}'\ntype = '{'fsdax' if 'pmem' in name else 'devdax'}'\n"
            f"start = {at}\nsize = '256M'\nmap = '{map_ if at == ranges[0] else 'mem'}'\n"
            for name, at in zip(order, ranges, strict=True)
        )

    before, _ = audited(scenario(names, 1, "mem"), "6.12")
    after, _ = audited(scenario(["dax1.0", "dax0.0", "pmem2"], 2, "mem"), "6.12")
    diff = diff_of(before, after)
    assert (diff.pagemaps.came, diff.pagemaps.gone, diff.worse) == ((), (), ())
    assert {(one.before.name, one.after.name) for one in diff.pagemaps.changed} == {
        ("dax0.0", "dax1.0"),
        ("dax1.0", "dax0.0"),
    }
    lost, _ = audited(scenario(["dax1.0", "dax0.0", "pmem2"], 3, "dev"), "6.12")
    assert diff_of(before, lost).worse[0] == ("dax1.0: state from deduplicated to not-optimized")


@pytest.mark.parametrize(
    ("before", "after", "worse"),
    [
        ("deduplicated", "partial", True),
        ("deduplicated", "not-optimized", True),
        ("partial", "not-optimized", True),
        ("not-optimized", "unreadable", True),
        ("partial", "deduplicated", False),
        ("unreadable", "not-optimized", False),
    ],
)
def test_states(before: str, after: str, worse: bool) -> None:
    def made(state: str) -> Report:
        reason = None if state == "deduplicated" else "some reason"
        return of(pagemap_report(state=state, reason=reason))

    diff = diff_of(made(before), made(after))
    assert changes(diff) == {"state": (before, after, worse)}
    assert bool(diff.worse) is worse


def test_frames_and_savings() -> None:
    before = of(pagemap_report(sharing={1: 256, 7: 256}))
    after = of(pagemap_report(sharing={1: 257, 6: 1, 7: 255}))
    diff = diff_of(before, after)
    assert changes(diff) == {
        "frames": (512, 513, False),
        "saved_bytes": (6 << 20, (6 << 20) - PAGE, True),
    }
    text = render_diff(diff)
    assert "  frames: 512 -> 513 (+1)\n" in text
    assert "  saved memory: 6144 KiB -> 6140 KiB (-4 KiB)\n" in text
    assert diff.worse == ("dax0.0: saved memory from 6144 KiB to 6140 KiB",)
    assert diff_of(after, before).worse == ()


@pytest.mark.parametrize(
    ("before", "after", "shown"),
    [
        (6 << 20, 3 << 19, ("6 MiB", "1.5 MiB")),
        (3 << 19, (3 << 19) + (24 << 10), ("1536 KiB", "1560 KiB")),
        (1 << 20, (1 << 20) + 1, ("1048576 bytes", "1048577 bytes")),
        (0, 4096, ("0 B", "4 KiB")),
    ],
)
def test_sizes_that_look_equal_are_exact(before: int, after: int, shown: tuple[str, str]) -> None:
    assert values_of(Change("saved_bytes", before, after)) == shown


def test_reads_lost() -> None:
    diff = diff_of(of(pagemap_report()), of(pagemap_report(unreadable=8, sharing={1: 255, 7: 255})))
    assert changes(diff)["unreadable"] == (0, 8, True)
    some = ("page tables: 3",)
    diff = diff_of(of(), of(not_read=some))
    assert diff.not_read == some
    assert diff.worse == ("part of the target could not be read, and before all of it could",)
    assert not diff_of(of(not_read=some), of(not_read=("page tables: 4",)))
    assert diff_of(of(not_read=some), of()).worse == ()


def place(vaddr: int, rule: str = "hole", severity: Severity = Severity.ERROR) -> Finding:
    return finding(rule, severity, (pagemap_report().vmemmap.start or 0) + vaddr)


def test_findings_new_and_gone() -> None:
    before = of(pagemap_report(findings=(place(0x1000), place(0x2000))))
    after = of(pagemap_report(findings=(place(0x2000), place(0x3000), place(0x4000))))
    diff = diff_of(before, after)
    [pair] = diff.pagemaps.changed
    start = pagemap_report().vmemmap.start or 0
    assert [one.vaddr for one in pair.findings.new] == [start + 0x3000, start + 0x4000]
    assert [one.vaddr for one in pair.findings.gone] == [start + 0x1000]
    assert diff.worse == ("dax0.0: 2 new errors of rule hole",)


@pytest.mark.parametrize("severity", [Severity.WARNING, Severity.NOTE])
def test_less_than_errors_are_not_worse(severity: Severity) -> None:
    diff = diff_of(of(pagemap_report()), of(pagemap_report(findings=(place(0, "x", severity),))))
    assert diff
    assert diff.worse == ()


def test_findings_alike_are_counted() -> None:
    one, two = (of(pagemap_report(findings=(place(0),) * n)) for n in (1, 2))
    [pair] = diff_of(one, two).pagemaps.changed
    assert len(pair.findings.new) == 1
    [pair] = diff_of(two, one).pagemaps.changed
    assert (len(pair.findings.new), len(pair.findings.gone)) == (0, 1)


def test_findings_of_no_pagemap_are_matched_by_rule() -> None:
    before, after = (of(findings=(finding("xarray", vaddr=at),)) for at in (0x1000, 0x2000))
    assert not diff_of(before, after)
    diff = diff_of(of(), after)
    assert diff.worse == ("target: 1 new error of rule xarray",)
    assert "\nnew: error xarray - at 0x2000" in render_diff(diff)


def failed(violations: int, reported: int) -> Report:
    outcome = RuleOutcome("hole", Outcome.FAILED, None, violations)
    findings = tuple(place(i * PAGE) for i in range(reported))
    return of(pagemap_report(findings=findings, outcomes=(outcome,)))


def test_violations_beyond_the_findings() -> None:
    diff = diff_of(failed(17, 16), failed(400, 16))
    assert diff.worse == ("dax0.0: violations of rule hole from 17 to 400",)
    assert diff_of(failed(400, 16), failed(17, 16)).worse == ()
    # The findings account for it.
    [pair] = diff_of(failed(2, 2), failed(3, 3)).pagemaps.changed
    assert pair.findings.violations == ()


def test_rule_that_failed_and_is_not_evaluated_any_more() -> None:
    skipped = RuleOutcome("hole", Outcome.SKIPPED, "tables missing")
    after = of(pagemap_report(outcomes=(skipped,)))
    [pair] = diff_of(failed(1, 1), after).pagemaps.changed
    assert pair.findings.not_evaluated == (NotEvaluated("hole", "tables missing"),)
    checked = of(pagemap_report(outcomes=(RuleOutcome("hole", Outcome.CHECKED),)))
    assert not diff_of(checked, after)


def test_documents_without_outcomes() -> None:
    bare = of(pagemap_report(findings=(place(0),)))
    assert not diff_of(bare, failed(1, 1))
    assert not diff_of(failed(1, 1), bare)


def test_totals() -> None:
    totals = {one.field: (one.before, one.after) for one in diff_of(of(), failed(1, 1)).totals}
    assert totals == {
        "pagemaps": (0, 1),
        "frames": (0, 512),
        "saved_bytes": (0, 6 << 20),
        "errors": (0, 1),
        "warnings": (0, 0),
        "notes": (0, 0),
    }


def test_nothing_hostile_reaches_a_terminal() -> None:
    bad = pagemap_report(
        hostile(),
        state="partial",
        reason=hostile(),
        findings=(finding(message=hostile(), observed=hostile()),),
        outcomes=(RuleOutcome(hostile(), Outcome.SKIPPED, hostile()),),
    )
    loose = (finding(message=hostile()),)
    other = pagemap_report("b", ranges=((0x260000000, 0x27FFFFFFF),), address=1)
    for pair in ((of(), of(bad, findings=loose, not_read=(hostile(),))), (of(bad), of(other))):
        diff = compare(*pair, (hostile(), hostile()))
        VALIDATOR.validate(to_document(diff))
        text = render_diff(diff)
        assert text.replace("\n", "").isprintable()


@pytest.mark.parametrize("kernel", ["6.1", "6.12", "7.2"])
def test_simulated_kernel_before_and_after_a_fault(audited: Audited, kernel: str) -> None:
    faulty, planted = audited("several-faults", kernel)
    # The same device; only what was planted differs.
    sound = replace(
        faulty,
        pagemaps=tuple(replace(one, findings=(), outcomes=()) for one in faulty.pagemaps),
    )
    diff = diff_of(sound, faulty)
    [pair] = diff.pagemaps.changed
    assert {one.vaddr for one in pair.findings.new} == {one.vaddr for one in planted}
    assert len(diff.worse) == 3


def test_kernels_that_get_a_layout_wrong_and_right(audited: Audited) -> None:
    right, _ = audited("mixed", "6.12")
    wrong, _ = audited("mixed", "7.2")
    diff = diff_of(right, wrong)
    assert [pair.after.label for pair in diff.pagemaps.changed] == ["dax1.0"]
    assert diff.worse == ("dax1.0: 3 new errors of rule compound-head",)
    back = diff_of(wrong, right)
    assert back.worse == ()
    assert len(back.pagemaps.changed[0].findings.gone) == 4
