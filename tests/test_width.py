# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Text reports in terminals of all widths, in pipes and in files.

No word of a report may change by the width: a line is broken between words, a table leaves
out columns, and only names are shortened.
"""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmemscope import Kernel, audit
from vmemscope.cli.main import main
from vmemscope.cli.watch import watch
from vmemscope.report import render_all
from vmemscope.report.width import broken, fitting_grid

from .kernels import DEVICE, image, write

WIDTHS = (60, 80, 100, 160)
#: what is audited: scenario, kernel
TARGETS = (
    ("mixed", "7.2"),
    ("two-nodes", "next"),
    ("hugetlb-boot", "next"),
    ("several-ranges", "6.1"),
    ("several-faults", "6.12"),
    ("name-escape", "6.12"),
    ("unreadable-table", "6.12"),
    (DEVICE, "7.2@s390x"),
    (DEVICE, "7.2@ppc64le-64k"),
    (DEVICE, "7.2@arm64-16k"),
    (DEVICE.replace("dax0.0", f"dax{10**25}.0"), "7.2@riscv64"),
)
COMMANDS = (
    ("report", "--format", "text"),
    ("pgmap", "--all"),
    ("pgmap", "FIRST"),
    ("memmap",),
    ("hugetlb", "--folios"),
    ("page", "--phys", "PHYS"),
    ("diff", "OTHER", "CORE"),
)


class Terminal(io.StringIO):
    """Says that it is a terminal. Its width is in the environment."""

    def isatty(self) -> bool:
        return True


def shown(arguments: tuple[str, ...], stream: io.StringIO) -> str:
    """Return what a command writes to a stream."""
    with redirect_stdout(stream), redirect_stderr(io.StringIO()):
        assert main(arguments) in (0, 1, 4)
    return stream.getvalue()


@pytest.fixture(scope="module", params=TARGETS, ids=lambda one: f"{one[0].strip()[:14]}-{one[1]}")
def core(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    scenario, kernel = request.param
    return write(image(scenario, kernel), tmp_path_factory.mktemp("width"))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write(image("mixed", "6.12"), tmp_path_factory.mktemp("other"))


def commands(core: str, other: str) -> Iterator[tuple[str, ...]]:
    """Return the commands that show a dump."""
    pagemaps = audit(Kernel.open_core(core)).pagemaps
    known = {"FIRST": "dax0.0", "PHYS": "0x1000", "OTHER": other, "CORE": core}
    if pagemaps:
        known["FIRST"] = f"{pagemaps[0].address:#x}"
        known["PHYS"] = f"{pagemaps[0].ranges[0].start:#x}"
    for command in COMMANDS:
        if pagemaps or "FIRST" not in command:
            arguments = tuple(known.get(one, one) for one in command)
            yield arguments if "CORE" in command else (*arguments, "-c", core)


def blocks(text: str) -> Iterator[tuple[str, list[str]]]:
    """Yield what each part between empty lines is, with its lines."""
    last = ""
    for block in text.strip("\n").split("\n\n"):
        lines = block.splitlines()
        if lines[0] == lines[0].upper() and "  " in lines[0].strip():
            yield "table", lines
        elif last.endswith("as mapped") and lines[0].strip().split()[0] in ("struct", "device"):
            yield "drawing", lines
        elif lines[0].startswith("entries that map a frame"):
            yield "histogram", lines
        else:
            yield "prose", lines
        last = lines[-1]


def test_a_terminal_changes_no_word(
    core: str, other: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """Each command on each dump at two of the widths: at the others on the next dump."""
    target = TARGETS.index(request.node.callspec.params["core"])
    for number, command in enumerate(commands(core, other)):
        plain = shown(command, io.StringIO())
        monkeypatch.setenv("COLUMNS", "1000")
        words = {*plain.split(), *shown(command, Terminal()).split(), "START"}
        # Of a range only the start may be shown.
        words |= {word.partition("-")[0] for word in words if word.startswith("0x")}
        for width in WIDTHS[(number + target) % 2 :: 2]:
            monkeypatch.setenv("COLUMNS", str(width))
            text = shown(command, Terminal())
            # Each line is there, broken or not, after those before it.
            joined, place = f" {' '.join(text.split())} ", 0
            for kind, lines in blocks(plain):
                for line in lines if kind == "prose" else ():
                    place = joined.find(f" {' '.join(line.split())} ", place)
                    assert place >= 0, (command, width, line)
            for kind, lines in blocks(text):
                for line in lines:
                    if len(line) > width:
                        # A word that is too wide, after its indent, or a name with a gap.
                        assert kind == "prose", (command, width, line)
                        assert len(line.split("  ")[-1].split()) == 1, (command, width, line)
                # No figure is cut, only names.
                if kind in ("table", "prose"):
                    for word in " ".join(lines).split():
                        assert word in words or word.endswith("..."), (command, width, word)


def test_files_and_pipes_have_each_line_whole(core: str, other: str, tmp_path: Path) -> None:
    """Whatever the terminal, so that "grep" finds a finding as JSON has it."""
    for command in commands(core, other):
        plain = shown(command, io.StringIO())
        path = tmp_path / "report"
        assert shown((*command, "-o", str(path)), Terminal()) == ""
        assert path.read_text() == plain
        if command[0] in ("report", "diff"):
            continue
        document = json.loads(shown((*command, "--format", "json"), io.StringIO()))
        one = command[1] if command[0] == "pgmap" and command[1] != "--all" else None
        pagemaps = [p for p in document.get("pgmaps", ()) if one in (None, p["address"])]
        found = [f for part in (document, *pagemaps) for f in part.get("findings", ())]
        lines = plain.splitlines()
        if one is None and document.get("bugs"):
            found = []
        for finding in found:
            start = f"{finding['severity']} {finding['rule']} "
            message = finding["message"]
            assert any(line.startswith(start) and message in line for line in lines), finding
        assert one is None or len(pagemaps) == 1


@pytest.mark.parametrize("name", ["", "pgmap", "report", "page", "survey", "sim"])
@pytest.mark.parametrize("width", WIDTHS)
def test_help(name: str, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = []
    for columns in (width, 1000):
        monkeypatch.setenv("COLUMNS", str(columns))
        out = io.StringIO()
        with redirect_stdout(out), pytest.raises(SystemExit):
            main([*name.split(), "--help"])
        _, text = out.getvalue().split("\n\n", 1)
        for line in text.splitlines():
            assert len(line) <= columns or len(line.split()) == 1, line
        texts.append(text)
    assert texts[0].split() == texts[1].split()


@pytest.mark.parametrize("width", [1, 20, 60, 80])
@given(text=st.text(st.sampled_from("ab0 :,\n"), max_size=300))
def test_broken(width: int, text: str) -> None:
    """Words stay, in their order; a line is too wide only if it is one word after its indent."""
    lines = broken(text, width).split("\n")
    assert " ".join(lines).split() == text.split()
    for line in lines:
        indent = len(line) - len(line.lstrip())
        # 20 columns of text, however narrow the terminal is
        assert len(line) <= max(width, indent + 2 + 20) or len(line.split()) == 1
    if all(len(line) <= width for line in text.split("\n")):
        assert "\n".join(lines) == text


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        # No number is torn from its unit.
        ("in all of them there are 512 MiB", ["in all of them there are", "  512 MiB"]),
        # The rest of a field stands below its value, of a list item under its text.
        ("a       one two three four five six", ["a       one two three four", "        five six"]),
        ("  - one two three four five six", ["  - one two three four five", "    six"]),
        # No column that the longest word does not fit in.
        ("aaa  " + "b" * 10 + " " + "c" * 26, ["aaa  bbbbbbbbbb", "  " + "c" * 26]),
        ("d" * 40, ["d" * 40]),
    ],
)
def test_where_a_line_is_broken(line: str, expected: list[str]) -> None:
    assert broken(line, 28).split("\n") == expected


def test_the_log_is_continued_after_its_time() -> None:
    lines = broken("[   12.345678] BUG: Bad page state in process  swapper  pfn:1234", 50)
    assert lines.split("\n")[1].startswith(" " * 15 + "swapper")


@pytest.mark.parametrize("width", range(1, 60))
def test_a_table_shortens_names_only(width: int) -> None:
    rows = [("n" * 30, "1234567890"), ("short", "5")]
    cells = {"NAME": lambda row: row[0], "FIGURE": lambda row: row[1]}
    lines = fitting_grid(rows, cells, [("NAME", "FIGURE")], {"FIGURE"}, width, {"NAME"})
    assert [line.split()[1] for line in lines] == ["FIGURE", "1234567890", "5"]
    names = [line.split()[0] for line in lines]
    assert names[2] == "short"
    assert names[1] == "n" * 30 or names[1].rstrip(".") == "n" * (len(names[1]) - 3)
    # 8 columns of a name, a gap, the figure
    assert max(map(len, lines)) <= max(width, 8 + 2 + 10)


def on_terminal(columns: int, *arguments: str) -> str:
    """Return what a process shows in a terminal of some width that the environment does not say."""
    main_fd, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    with subprocess.Popen(
        [sys.executable, "-m", "vmemscope", *arguments],
        stdin=subprocess.DEVNULL, stdout=terminal, stderr=terminal, env=environment,
    ):  # fmt: skip
        os.close(terminal)
        shown = b""
        # The terminal is gone when the process is: an error, not the end of a file.
        with suppress(OSError):
            while part := os.read(main_fd, 65536):
                shown += part
    os.close(main_fd)
    return shown.decode().replace("\r\n", "\n")


def test_a_real_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    core = os.path.basename(write(image("hugetlb", "6.12"), tmp_path))
    for width in (60, 100):
        lines = on_terminal(width, "memmap", "-c", core).splitlines()
        assert lines[-1] == "sound"
        assert width - 25 < max(map(len, lines)) <= width
    # A terminal that does not know its size, as on a serial line, gets what a pipe gets.
    assert on_terminal(0, "memmap", "-c", core) == shown(("memmap", "-c", core), io.StringIO())


def test_messages_and_the_table_of_a_survey(tmp_path: Path) -> None:
    """``-o`` names the file of records there: the table is for the terminal all the same."""
    core = write(image("hole", "6.12"), tmp_path)
    records = tmp_path / "records.ndjson"
    text = on_terminal(
        60, "survey", core, str(tmp_path / "nothing here at all"), "-o", str(records)
    )
    assert max(len(line) for line in text.splitlines() if " " in line.strip()) <= 60
    error = on_terminal(60, "page", "some thing", "--sim", "empty").splitlines()
    assert error[0].startswith("vmemscope: error: ")
    assert len(error) > 1
    assert max(map(len, error)) <= 60


def test_watching_in_a_narrow_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each report, and what changed since the last, at the width that the terminal has then."""
    before, after = (
        audit(Kernel.open_core(write(image(name, "6.12"), tmp_path))) for name in ("mixed", "hole")
    )
    reports = iter((before, after))
    widths = iter((80,))

    def resized(_: float) -> None:
        width = next(widths, None)
        if width is None:
            raise KeyboardInterrupt
        monkeypatch.setenv("COLUMNS", str(width))

    monkeypatch.setenv("COLUMNS", "60")
    terminal = Terminal()
    watch(
        lambda: next(reports),
        lambda report: render_all(report, int(os.environ["COLUMNS"])),
        1.0, out=terminal, sleep=resized,
    )  # fmt: skip
    first, second = terminal.getvalue().split("\x1b[H\x1b[J")[1:]
    assert "since the last audit:" in second
    for text, width in ((first, 60), (second, 80)):
        lines = [line for line in text.splitlines() if len(line.split()) > 1]
        assert width - 10 < max(map(len, lines)) <= width
