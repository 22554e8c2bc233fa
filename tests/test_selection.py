# SPDX-License-Identifier: LGPL-2.1-or-later
"""Findings that the user leaves out: counted, said, and gone from the exit status."""

from __future__ import annotations

import json
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from vmemscope.cli.main import main
from vmemscope.errors import UsageError
from vmemscope.report import (
    render_all,
    render_json,
    render_ktap,
    render_markdown,
    render_ndjson,
    render_one,
)
from vmemscope.report.documents.pgmap import Report
from vmemscope.report.ignore import Judgement, read_ignore_file
from vmemscope.report.selection import Selection
from vmemscope.rules.rule import Severity
from vmemscope.timing import Stopwatch

from .kernels import Dumps
from .report.builders import OUTCOMES, VMEMMAP, finding, hostile, pagemap_report, report

TODAY = date(2027, 1, 31)
FIRST, SECOND = 0xFFFF888101234000, 0xFFFF888101235000


def whole() -> Report:
    """Make a report with two errors, a warning and a note."""
    return report(
        pagemap_report(
            "dax0.0",
            address=FIRST,
            findings=(finding(), finding("leaf-fallback", Severity.NOTE)),
            outcomes=OUTCOMES,
        ),
        pagemap_report("dax1.0", address=SECOND, findings=(finding(vaddr=VMEMMAP + 0x7000),)),
        findings=(finding("resource-tree", Severity.WARNING, vaddr=None),),
    )


def judged(rule: str = "refcount-low", place: str | None = None, **more: Any) -> Judgement:
    return Judgement(**{"rule": rule, "place": place, "reason": "why", "expires": TODAY, **more})


def left(selection: Selection, of: Report | None = None) -> list[tuple[str | None, str]]:
    """Return the findings that are left: their pagemap and rule."""
    found = selection.of(of or whole()).all_findings()
    return sorted(((one and one.name) or "-", f.rule) for one, f in found)


ALL = [
    ("-", "resource-tree"),
    ("dax0.0", "leaf-fallback"),
    ("dax0.0", "refcount-low"),
    ("dax1.0", "refcount-low"),
]


def test_nothing_is_left_out_by_default() -> None:
    assert left(Selection()) == ALL
    assert Selection().of(whole()).summary.left_out.findings == 0


@pytest.mark.parametrize(
    ("least", "expected"),
    [
        (Severity.NOTE, ALL),
        (Severity.WARNING, [ALL[0], *ALL[2:]]),
        (Severity.ERROR, ALL[2:]),
    ],
)
def test_severity(least: Severity, expected: list[tuple[str, str]]) -> None:
    assert left(Selection(least)) == expected


def test_rules() -> None:
    assert left(Selection(rules=("leaf-fallback",))) == [ALL[1]]
    assert left(Selection(rules=("leaf-fallback", "resource-tree"))) == ALL[:2]


@pytest.mark.parametrize(
    ("place", "kept"),
    [
        (None, ALL[:2]),
        ("dax0.0", [*ALL[:2], ALL[3]]),
        ("dax*", ALL[:2]),
        ("dax?.0", ALL[:2]),
        ("dax", ALL),
        ("*", ALL[:2]),
        (f"{SECOND:#x}", ALL[:3]),
        (f"0x{SECOND:X}", ALL[:3]),
        (f"{VMEMMAP + 0x7000:#x}", ALL[:3]),
        ("0x1000", ALL),
    ],
)
def test_places(place: str | None, kept: list[tuple[str, str]]) -> None:
    assert left(Selection(judgements=(judged(place=place),), today=TODAY)) == kept


def test_a_name_is_compared_as_it_is() -> None:
    # Characters of a pattern in a name are not one.
    named = report(pagemap_report("[x]*", findings=(finding(),)))
    assert left(Selection(judgements=(judged(place="x"),), today=TODAY), named) != []
    assert left(Selection(judgements=(judged(place="[[]x]*"),), today=TODAY), named) == []


def test_the_last_day_and_the_day_after() -> None:
    entry = (judged(),)
    assert left(Selection(judgements=entry, today=TODAY)) == ALL[:2]
    after = Selection(judgements=entry, today=TODAY + timedelta(days=1))
    assert left(after) == ALL
    found = after.of(whole()).summary.left_out
    assert (found.findings, found.reasons) == (0, ())
    assert found.expired == ("refcount-low, on 2027-01-31: why",)


def test_an_expired_entry_hides_no_other() -> None:
    entries = (judged(expires=TODAY - timedelta(days=1)), judged(place="dax1.0"))
    assert left(Selection(judgements=entries, today=TODAY)) == ALL[:3]


def test_status_and_sums_follow_what_is_left() -> None:
    selection = Selection(judgements=(judged(),), today=TODAY)
    before, after = whole(), selection.of(whole())
    assert (before.status, after.status) == (1, 0)
    assert (after.summary.errors, after.summary.warnings, after.summary.notes) == (0, 1, 1)
    assert after.summary.left_out.findings == 2
    # All else is as it was.
    assert after.summary.saved_bytes == before.summary.saved_bytes > 0
    assert after.all_outcomes() == before.all_outcomes()


def test_what_was_not_read_stays() -> None:
    unread = report(pagemap_report(findings=(finding(),)), not_read=("things: 2",))
    after = Selection(judgements=(judged(),), today=TODAY).of(unread)
    assert (after.status, after.not_read) == (4, ("things: 2",))


def test_every_format_says_it() -> None:
    entries = (judged(), judged("hole", reason=hostile(), expires=TODAY - timedelta(days=9)))
    after = Selection(Severity.WARNING, judgements=entries, today=TODAY).of(whole())
    texts = {
        "table": render_all(after, 100),
        "detail": render_one(after, after.pagemaps[0], 100),
        "ktap": render_ktap(after),
        "markdown": render_markdown(after),
    }
    for name, text in texts.items():
        assert "2 findings: refcount-low is ignored until 2027-01-31: why" in text, name
        assert "1 finding: less severe than warning" in text, name
        assert "ignored no more: hole, on 2027-01-22: a\\x1b[2J\\n" in text, name
        assert "no errors, 1 warning, 3 findings left out" in text, name
        assert "not ok" not in text
    expected = {
        "findings": 3,
        "reasons": [
            "2 findings: refcount-low is ignored until 2027-01-31: why",
            "1 finding: less severe than warning",
        ],
    }
    lines = render_ndjson(after, watch=Stopwatch()).splitlines()
    assert len(lines) == 2
    for document in (json.loads(lines[0]), json.loads(render_json(after))["summary"]):
        found = document["left_out"]
        assert len(found.pop("expired")) == 1
        assert sorted(found.pop("reasons")) == sorted(expected["reasons"])
        assert found == {"findings": 3}


def test_a_rule_that_failed_does_not_count_as_checked() -> None:
    after = Selection(judgements=(judged(),), today=TODAY).of(whole())
    assert "1 checked, 1 skipped, 0 failed, 1 left out" in render_all(after, 100)


GOOD = """
[[ignore]]
rule = "compound-head"
place = "dax1.0"
reason = "known"
expires = 2027-01-31

[[ignore]]
rule = "hole"
reason = "known"
expires = 2027-01-31
"""


def written(tmp_path: Path, text: str | bytes) -> str:
    path = tmp_path / "judged.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def test_file(tmp_path: Path) -> None:
    first, second = read_ignore_file(written(tmp_path, GOOD))
    assert (first.rule, first.place, first.expires) == ("compound-head", "dax1.0", TODAY)
    assert (second.rule, second.place) == ("hole", None)
    assert read_ignore_file(written(tmp_path, "")) == ()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[[ignore", "array declaration"),
        ("ignore = 3", "Expected 'array', got 'int'"),
        ("[[ignored]]\nrule = 'hole'", "unknown field 'ignored'"),
        (GOOD.replace('rule = "hole"', 'rule = "whole"'), "entry 2: there is no rule whole"),
        (GOOD.replace('rule = "hole"', ""), "missing required field 'rule'"),
        (GOOD.replace('reason = "known"', "", 1), "missing required field 'reason'"),
        (GOOD.replace('"known"', '""', 1), "length >= 1"),
        (GOOD.replace("expires = 2027-01-31", "", 1), "missing required field 'expires'"),
        (GOOD.replace("2027-01-31", "2027-02-31", 1), "line 6"),
        (GOOD.replace("2027-01-31", "3", 1), "Expected 'date'"),
        (GOOD.replace("place", "pagemap"), "unknown field 'pagemap'"),
        (b"\xff", "not UTF-8"),
        ("a = " + "[" * 100_000, "nested too deeply"),
        ("#" * (1 << 20) + "\n", "larger than 1 MiB"),
    ],
)
def test_bad_files(tmp_path: Path, text: str | bytes, why: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_ignore_file(written(tmp_path, text))
    assert why in str(caught.value)
    assert str(caught.value).isprintable()


def test_no_file(tmp_path: Path) -> None:
    for path, why in ((tmp_path / "none", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(UsageError, match=why):
            read_ignore_file(str(path))


class TestCommands:
    """The options, as a user gives them."""

    @pytest.mark.parametrize(
        ("command", "dump", "rule"),
        [
            ("pgmap", "hole", "hole"),
            ("memmap", "leak", "vmemmap-leak"),
            ("hugetlb", "read-only", "hugetlb-read-only"),
        ],
    )
    def test_ignored(
        self,
        dumps: Dumps,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        command: str,
        dump: str,
        rule: str,
    ) -> None:
        args = [command, "-c", str(dumps.core(dump, "6.12")), "--format", "json"]
        status = main(args)
        before = json.loads(capsys.readouterr().out)
        findings = [
            *before["findings"],
            *(f for one in before.get("pgmaps", ()) for f in one["findings"]),
        ]
        assert rule in {one["rule"] for one in findings}
        assert status in (0, 1)
        entries = "".join(
            f'[[ignore]]\nrule = "{name}"\nreason = "planted"\nexpires = 9999-12-31\n'
            for name in {one["rule"] for one in findings}
        )
        assert main([*args, "--ignore", written(tmp_path, entries)]) == 0
        after = json.loads(capsys.readouterr().out)["summary"]
        assert after["errors"] == after["warnings"] == after["notes"] == 0
        assert after["left_out"]["findings"] == len(findings)

    def test_of_one_page(
        self, dumps: Dumps, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        (planted,) = dumps.planted("tail-wrong-head", "6.12")
        args = ["page", f"{planted.vaddr:#x}", "-c"]
        args.append(str(dumps.core("tail-wrong-head", "6.12")))
        assert main(args) == 1
        assert "left out" not in capsys.readouterr().out
        entries = 'rule = "compound-head"\nreason = "planted"\nexpires = 9999-12-31\n'
        path = written(tmp_path, f'[[ignore]]\nplace = "{planted.pagemap}"\n{entries}')
        assert main([*args, "--ignore", path]) == 0
        assert "left out: 1 finding: compound-head" in capsys.readouterr().out

    def test_no_such_rule(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["pgmap", "--rule", "compound-haed", "-c", "/nowhere"]) == 2
        assert "did you mean compound-head or" in capsys.readouterr().err

    def test_a_bad_file_is_said_before_the_target_is_opened(
        self, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        path = written(tmp_path, "[[ignore")
        assert main(["memmap", "--ignore", path, "-c", "/nowhere", "--format", "ndjson"]) == 2
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert f"the ignore file {path} can't be used" in err
