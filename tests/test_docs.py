# SPDX-License-Identifier: LGPL-2.1-or-later
"""Examples in the manual show what the commands really print."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from vmemscope.cli.main import main

DOCS = Path(__file__).parent.parent / "docs"
#: pages whose examples can be run one after another, in an empty directory
PAGES = ("../README", "index", "tutorial", "pgmap", "sim")


def examples(page: str) -> Iterator[tuple[list[str], list[str]]]:
    """Return the commands of a page, each with the lines that it is said to print."""
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    command: list[str] | None = None
    shown: list[str] = []
    for line in [*text.splitlines(), "end"]:
        inside = line.startswith("    ")
        if command is not None and ((line and not inside) or line.startswith("    $ ")):
            yield command, shown
            command = None
        if line.startswith("    $ vmemscope ") and "|" not in line:
            command, shown = shlex.split(line[6:])[1:], []
        elif command is not None and line:
            shown.append(line[4:])


@pytest.mark.parametrize("page", PAGES)
def test_examples(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    for scenario in re.findall(r"```toml\n(.*?)```", text, flags=re.S):
        Path("my.toml").write_text(scenario, encoding="utf-8")
    ran = 0
    for command, shown in examples(page):
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            status = main(command)
        assert status in (0, 1), command
        lines = iter(out.getvalue().splitlines())
        for line in shown:
            # Three dots stand for any lines. Others are there, in this order.
            assert line == "..." or line in lines, (command, line)
        ran += 1
    assert ran > 1


def test_lines_that_are_not_printed_are_found() -> None:
    lines = iter(["a", "b"])
    assert "b" in lines
    assert "a" not in lines
