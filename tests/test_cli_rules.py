# SPDX-License-Identifier: LGPL-2.1-or-later
"""``vmemscope rules`` and the formats of ``vmemscope pgmap``, as a user runs them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from vmemscope.cli.main import main
from vmemscope.rules import RULES
from vmemscope.rules.bugs import BUGS

from .test_cli import FIXTURES, assert_one_line, run

BUG_IDS = [bug.id for bug in BUGS]


def out_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    status = main(arguments)
    out, err = capsys.readouterr()
    assert err == ""
    return status, out


class TestRules:
    def test_list(self, capsys: pytest.CaptureFixture[str]) -> None:
        status, out = out_of(capsys, "rules")
        assert status == 0
        rules, _, bugs = out.partition("\n\n")
        title, *lines = bugs.splitlines()
        assert title.startswith("Known bugs of kernels")
        for part, names in ((rules.splitlines(), list(RULES)), (lines, BUG_IDS)):
            assert [line.split()[0] for line in part if line[0] != " "] == names

    def test_explain_bugs(self, capsys: pytest.CaptureFixture[str]) -> None:
        _, out = out_of(capsys, "rules", "section-early", "hole")
        assert out.startswith("hole\n")
        assert "\n\nsection-early\n  a known bug: this kernel copies the memory map" in out
        assert "Make the namespace start outside of the sections of System RAM." in out
        # The rule that finds it, and the bug.
        _, out = out_of(capsys, "rules", "hugetlb-restore")
        assert out.count("hugetlb-restore\n  ") == 2

    def test_explain_some(self, capsys: pytest.CaptureFixture[str]) -> None:
        _, out = out_of(capsys, "rules", "hole", "xarray")
        assert out.startswith("hole\n")
        assert "\n\nxarray\n" in out
        assert out.count("What to check next\n") == 2

    def test_json(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        _, out = out_of(capsys, "rules", "--format", "json")
        document = json.loads(out)
        assert [rule["id"] for rule in document["rules"]] == list(RULES)
        assert [bug["id"] for bug in document["bugs"]] == BUG_IDS
        path = tmp_path / "rules.json"
        assert out_of(capsys, "rules", "hole", "--format", "json", "-o", str(path)) == (0, "")
        document = json.loads(path.read_text())
        assert [rule["id"] for rule in document["rules"]] == ["hole"]
        assert document["bugs"] == []
        _, out = out_of(capsys, "rules", "section-early", "--format", "json")
        document = json.loads(out)
        assert ([bug["id"] for bug in document["bugs"]], document["rules"]) == (
            ["section-early"],
            [],
        )

    def test_unknown_rule(self) -> None:
        line = assert_one_line(run("rules", "tail-frames"), 2)
        assert "there is no rule 'tail-frames'; did you mean tail-frame" in line
        assert "did you mean section-early" in assert_one_line(run("rules", "section-erly"), 2)
        assert "vmemscope rules lists them" in assert_one_line(run("rules", "qqq\n\x1b[2J"), 2)

    def test_needs_neither_target_nor_drgn(self) -> None:
        code = (
            "import sys\nfrom vmemscope.cli.main import main\nmain(['rules'])\n"
            "main(['rules', 'hole', '--format', 'json'])\n"
            "print([m for m in ('drgn', 'tabulate', 'kdumpling') if m in sys.modules])"
        )
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert result.stdout.splitlines()[-1] == "[]"


class TestFormats:
    @pytest.mark.parametrize(
        ("form", "start"),
        [
            ("ktap", "KTAP version 1\n1..2\n# "),
            ("ndjson", '{"schema": "vmemscope.summary/1", '),
            ("markdown", "## vmemscope: 1 error\n"),
        ],
    )
    def test_start_and_status(
        self, capsys: pytest.CaptureFixture[str], form: str, start: str
    ) -> None:
        scenario = str(FIXTURES / "hole.toml")
        status, out = out_of(capsys, "pgmap", "--sim", scenario, "--format", form)
        assert status == 1
        assert out.startswith(start)
        status, one = out_of(capsys, "pgmap", "dax0.0", "--sim", scenario, "--format", form)
        assert (status, one[:20]) == (1, out[:20])

    def test_sound(self, capsys: pytest.CaptureFixture[str]) -> None:
        for form in ("ktap", "ndjson", "markdown"):
            status, out = out_of(capsys, "pgmap", "--sim", "devdax-2m", "--format", form)
            assert status == 0
            assert "not ok" not in out
            lines = out.count("\n")
            assert form != "ndjson" or lines == 1

    def test_table_and_detail_count_rules(self, capsys: pytest.CaptureFixture[str]) -> None:
        _, out = out_of(capsys, "pgmap", "--sim", "altmap")
        [line] = [line for line in out.splitlines() if line.startswith("rules, ")]
        assert line.endswith(" skipped, 0 failed")
        _, out = out_of(capsys, "pgmap", "dax3.0", "--sim", "altmap")
        assert "\nrules: " in out
        assert "skipped: altmap: frames on the device" in " ".join(out.split())
