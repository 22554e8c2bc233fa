# SPDX-License-Identifier: LGPL-2.1-or-later
"""``vmemscope pgmap --watch``: reports that a test makes, and a clock that it sets."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

import vmemscope.target
from vmemscope.cli.main import main
from vmemscope.cli.watch import watch
from vmemscope.errors import TargetError
from vmemscope.report.documents.pgmap import Report
from vmemscope.sim import build, load_scenario
from vmemscope.target import Target, open_core

from .report.builders import finding, pagemap_report, report
from .test_cli import FIXTURES, assert_one_line, run


class Screen(io.StringIO):
    """A terminal, or a file."""

    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


class Clock:
    """Time that passes only when somebody sleeps, until the user has had enough."""

    def __init__(self, sleeps: int) -> None:
        self.left = sleeps
        self.now = 0.0

    def sleep(self, seconds: float) -> None:
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        self.now += seconds

    def time(self) -> time.struct_time:
        return time.gmtime(self.now)


SOUND = report(pagemap_report())
BROKEN = report(pagemap_report(findings=(finding(),)))


def watched(reports: list[Report], terminal: bool, sleeps: int) -> tuple[Report, str]:
    following = iter(reports)
    screen, clock = Screen(terminal), Clock(sleeps)
    last = watch(
        lambda: next(following),
        lambda one: f"{one.summary.errors} errors\n",
        2.5,
        out=screen,
        sleep=clock.sleep,
        clock=clock.time,
    )
    return last, screen.getvalue()


def test_appends_where_there_is_no_terminal() -> None:
    last, shown = watched([SOUND, SOUND, BROKEN], False, 2)
    assert last is BROKEN
    _, first, second, third = shown.split("audit ")
    assert first == "1, 1970-01-01 00:00:00, every 2.5 s\n0 errors\n\n"
    assert second.startswith("2, 1970-01-01 00:00:02, ")
    assert second.endswith("\nsince the last audit:\n  nothing changed\n\n")
    assert third.startswith("3, 1970-01-01 00:00:05, every 2.5 s\n1 errors\n")
    assert "    new: error refcount-low dax0.0" in third
    assert "\x1b" not in shown


def test_redraws_a_terminal() -> None:
    _, shown = watched([SOUND, BROKEN, SOUND], True, 2)
    screens = shown.split("\x1b[H\x1b[J")
    assert screens[0] == ""
    assert [screen[:7] for screen in screens[1:]] == ["audit 1", "audit 2", "audit 3"]
    assert "    gone: error refcount-low dax0.0" in screens[3]


def test_changes_are_those_since_the_last_audit() -> None:
    _, shown = watched([SOUND, BROKEN, BROKEN], False, 2)
    assert shown.split("audit 3")[1].endswith("  nothing changed\n\n")


def test_interrupted_before_the_first_audit() -> None:
    def audit() -> Report:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        watch(audit, lambda one: "", 1, out=Screen(False), sleep=Clock(0).sleep)


def test_interrupted_during_an_audit_keeps_the_last_report() -> None:
    def reports() -> Iterator[Report]:
        yield BROKEN
        raise KeyboardInterrupt

    one = reports()
    last = watch(lambda: next(one), str, 1, out=Screen(False), sleep=Clock(5).sleep)
    assert last is BROKEN


def test_a_target_that_can_not_be_read_any_more_ends_it() -> None:
    def reports() -> Iterator[Report]:
        yield SOUND
        raise TargetError("the guest went away")

    one = reports()
    with pytest.raises(TargetError):
        watch(lambda: next(one), str, 1, out=Screen(False), sleep=Clock(5).sleep)


@pytest.fixture
def live(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int], None]:
    """Have the running kernel be a simulated one, and the user leave after some audits."""

    def make(scenario: str, sleeps: int) -> None:
        path = tmp_path / "vmcore"
        build(load_scenario(scenario), kernel="7.2").write(path)

        def open_live(vmcoreinfo: str | None = None) -> Target:
            return replace(open_core(str(path)), kind="live", path="/proc/kcore")

        monkeypatch.setattr(vmemscope.target, "open_live", open_live)
        clock = Clock(sleeps)
        # Bound when it was defined: nothing else of the run takes its time from here.
        defaults = dict(watch.__kwdefaults__ or {}, sleep=clock.sleep, clock=clock.time)
        monkeypatch.setattr(watch, "__kwdefaults__", defaults)

    return make


@pytest.mark.parametrize(
    ("scenario", "status"),
    [("devdax-2m", 0), ("hole", 1), ("unreadable-table", 4)],
)
def test_exit_status_is_that_of_the_last_audit(
    live: Callable[[str, int], None],
    capsys: pytest.CaptureFixture[str],
    scenario: str,
    status: int,
) -> None:
    fixture = FIXTURES / f"{scenario}.toml"
    live(str(fixture) if fixture.exists() else scenario, 2)
    assert main(["pgmap", "--watch", "3"]) == status
    out, err = capsys.readouterr()
    assert err == ""
    assert out.count("every 3 s\n") == 3
    assert out.count("NAME ") == 3
    assert out.count("  nothing changed\n") == 2


def test_one_pagemap(live: Callable[[str, int], None], capsys: pytest.CaptureFixture[str]) -> None:
    live("devdax-2m", 1)
    assert main(["pgmap", "dax0.0", "--watch", "0.5"]) == 0
    assert capsys.readouterr().out.count("virt_to_page") == 2
    assert main(["pgmap", "dax9.0", "--watch", "0.5"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "no pagemap is called 'dax9.0'" in err


@pytest.mark.parametrize(
    "arguments",
    [
        ["-c", "vmcore"],
        ["--sim", "devdax-2m"],
        ["-k", "--format", "json"],
        ["-k", "-o", "report"],
    ],
)
def test_only_for_what_runs_and_as_a_table(arguments: list[str]) -> None:
    assert "--watch" in assert_one_line(run("pgmap", "--watch", "1", *arguments), 2)


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "soon", "1e9"])
def test_seconds(seconds: str) -> None:
    result = run("pgmap", "--watch", seconds)
    assert result.returncode == 2
    assert "no number of seconds" in result.stderr
