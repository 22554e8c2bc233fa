# SPDX-License-Identifier: LGPL-2.1-or-later
"""OpenMetrics: what its own parser, and that of the older text format, make of it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as prometheus

from vmemscope.cli.main import main
from vmemscope.report import render_openmetrics, render_openmetrics_failure
from vmemscope.report.documents.pgmap import Report
from vmemscope.rules.findings import Outcome, RuleOutcome
from vmemscope.rules.rule import Severity
from vmemscope.timing import Stopwatch

from ..kernels import Dumps
from .builders import OUTCOMES, TARGET, finding, hostile, of_every_kind, pagemap_report, report

DOCS = Path(__file__).parents[2] / "docs" / "metrics.md"

#: name of a metric and its labels -> value
Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def parsed(text: str) -> Series:
    """Parse a document strictly; all parsers must read the same."""
    found = []
    for parser in (openmetrics, prometheus):
        families = list(parser(text))
        assert {one.type for one in families} == {"gauge"}
        assert all(one.documentation for one in families)
        samples = [sample for one in families for sample in one.samples]
        assert all(sample.timestamp is None for sample in samples)
        series = {(one.name, tuple(sorted(one.labels.items()))): one.value for one in samples}
        assert len(series) == len(samples)
        found.append(series)
    assert found[0] == found[1]
    return found[0]


def of(whole: Report) -> Series:
    return parsed(render_openmetrics(whole, watch=Stopwatch()))


def value(series: Series, name: str, **labels: str) -> float | None:
    labels.setdefault("audit", "pgmap")
    if name.startswith(("pagemap_", "hugetlb_", "memmap_")):
        del labels["audit"]
    return series.get((f"vmemscope_{name}", tuple(sorted(labels.items()))))


def test_values() -> None:
    one = pagemap_report(findings=(finding(), finding()), outcomes=OUTCOMES)
    other = pagemap_report("b", findings=(finding("leaf-fallback", Severity.NOTE),))
    watch = Stopwatch()
    watch.started = 1e9
    series = parsed(render_openmetrics(report(one, other, not_read=("a: 1", "b: 2")), watch=watch))
    assert value(series, "audit_status") == 1
    assert value(series, "audit_time_seconds") == 1e9
    assert 0 <= (value(series, "audit_duration_seconds") or 0) < 60
    assert value(series, "not_read") == 2
    assert value(series, "findings_left_out") == 0
    assert value(series, "findings", rule="refcount-low", severity="error") == 2
    assert value(series, "findings", rule="leaf-fallback", severity="note") == 1
    # It was evaluated and holds; another was not evaluated.
    assert value(series, "findings", rule="hole", severity="error") == 0
    assert not any("altmap-frame" in dict(labels).values() for _, labels in series)
    assert value(series, "rules", outcome="skipped") == 1
    assert value(series, "vmemmap_pages") == 4096
    assert value(series, "vmemmap_frames") == 1024
    assert value(series, "saved_bytes") == 2 * (2048 - 512) * 4096
    assert value(series, "pagemap_pages", pagemap="b", type="generic") == 2048
    assert value(series, "pagemap_frames", pagemap="b", type="generic") == 512
    assert value(series, "pagemap_saved_bytes", pagemap="b", type="generic") == 1536 * 4096
    state = {"pagemap": "b", "type": "generic"}
    assert value(series, "pagemap_state", state="deduplicated", **state) == 1
    assert value(series, "pagemap_state", state="partial", **state) == 0


def test_pagemaps_of_one_name_or_none_are_summed() -> None:
    # A label with their addresses would be new after each boot.
    several = [pagemap_report("a", address=0xFFFF888100000000 + i * 4096) for i in range(3)]
    several += [pagemap_report(None, address=0xFFFF888200000000 + i * 4096) for i in range(2)]
    text = render_openmetrics(report(*several), watch=Stopwatch())
    assert "ffff888" not in text
    series = parsed(text)
    assert value(series, "pagemap_pages", pagemap="a", type="generic") == 3 * 2048
    assert value(series, "pagemap_pages", pagemap="unnamed", type="generic") == 2 * 2048
    state = {"pagemap": "a", "type": "generic", "state": "deduplicated"}
    assert value(series, "pagemap_state", **state) == 3


def test_series_are_bounded() -> None:
    several = [
        pagemap_report(f"dax{i}" * 40, address=i * 4096, sharing={1: 2048}) for i in range(1, 1000)
    ]
    large = pagemap_report("large", ranges=((0x140000000, 0x23FFFFFFF),))
    series = of(report(*several, large))
    counted = Counter(name for name, _ in series)
    assert counted["vmemscope_pagemap_pages"] <= 65
    assert counted["vmemscope_pagemap_state"] <= 65 * 4
    assert all(len(text) <= 64 for _, labels in series for _, text in labels)
    # The largest have their own, and nothing is lost.
    assert value(series, "pagemap_pages", pagemap="large", type="generic") == 16384
    pages = sum(n for (name, _), n in series.items() if name == "vmemscope_pagemap_pages")
    assert pages == 999 * 2048 + 16384


@pytest.mark.parametrize("name", [hostile(), 'a"b\\c\nd', "}{,=", "x" * 300, "\\"])
def test_hostile_names(name: str) -> None:
    from msgspec.structs import replace

    whole = report(*of_every_kind(), pagemap_report(name), target=replace(TARGET, osrelease=name))
    text = render_openmetrics(whole, watch=Stopwatch())
    assert all(line.isprintable() for line in text.splitlines())
    labels = {label for _, labels in parsed(text) for label in labels}
    assert ("pagemap", "dax0.0") in labels


def test_a_failure_leaves_no_old_values() -> None:
    text = render_openmetrics_failure("pgmap", "core", hostile(), hostile(), watch=Stopwatch())
    series = parsed(text)
    assert value(series, "audit_status") == 3
    names = {name.removeprefix("vmemscope_audit_") for name, _ in series}
    assert names == {"status", "info", "time_seconds", "duration_seconds"}


def test_rules_that_no_catalogue_has_are_counted_if_found() -> None:
    outcomes = (RuleOutcome("gone", Outcome.CHECKED),)
    series = of(report(pagemap_report(findings=(finding("new"),), outcomes=outcomes)))
    assert value(series, "findings", rule="new", severity="error") == 1
    assert not any("gone" in dict(labels).values() for _, labels in series)


@pytest.mark.parametrize("command", ["pgmap", "hugetlb", "memmap"])
def test_commands(dumps: Dumps, capsys: pytest.CaptureFixture[str], command: str) -> None:
    scenario = "hugetlb" if command == "hugetlb" else "mixed"
    args = [command, "-c", str(dumps.core(scenario, "6.12")), "--format"]
    assert main([*args, "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert main([*args, "openmetrics"]) == 0
    series = parsed(capsys.readouterr().out)
    assert value(series, "audit_status", audit=command) == 0
    assert value(series, "saved_bytes", audit=command) == document["summary"]["saved_bytes"] > 0
    if command == "hugetlb":
        size = document["hstates"][0]
        assert value(series, "hugetlb_folios", size="2 MiB") == size["folios"] > 0
        assert value(series, "hugetlb_saved_bytes", size="2 MiB") == size["saved_bytes"]
    if command == "memmap":
        frames = sum(one["frames"] for one in document["areas"] if one["kind"] == "pagemap")
        assert value(series, "memmap_frames", kind="pagemap") == frames > 0


def test_without_the_library_one_line_says_so() -> None:
    code = "import sys; sys.modules['prometheus_client'] = None\n"
    code += "from vmemscope.cli.main import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", code, "pgmap", "-c", "/nowhere", "--format", "openmetrics"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "vmemscope: error: --format openmetrics needs prometheus_client;"
        " pip install 'vmemscope[openmetrics]'\n"
    )


def test_without_the_library_nothing_is_audited(dumps: Dumps) -> None:
    code = "import sys; sys.modules['prometheus_client'] = None\n"
    code += "from vmemscope.cli.main import main; status = main(sys.argv[1:])\n"
    code += "assert 'drgn' not in sys.modules; sys.exit(status)"
    core = str(dumps.core("mixed", "6.12"))
    done = subprocess.run(
        [sys.executable, "-c", code, "pgmap", "-c", core, "--format", "openmetrics"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "pip install 'vmemscope[openmetrics]'" in done.stderr


def test_the_manual_names_every_metric(dumps: Dumps, capsys: pytest.CaptureFixture[str]) -> None:
    text = DOCS.read_text(encoding="utf-8")
    for command in ("pgmap", "hugetlb", "memmap"):
        main([command, "-c", str(dumps.core("hugetlb", "6.12")), "--format", "openmetrics"])
    main(["pgmap", "-c", str(dumps.core("mixed", "6.12")), "--format", "openmetrics"])
    names = set(re.findall(r"^# TYPE (\w+)", capsys.readouterr().out, flags=re.M))
    assert len(names) > 20
    assert {name for name in names if f"`{name}`" not in text} == set()
    # And no alert is about a metric that there is not.
    alerts = "".join(re.findall(r"```yaml\n(.*?)```", text, flags=re.S))
    used = set(re.findall(r"\bvmemscope_\w+", alerts))
    assert used
    assert used <= names
