# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Odd values of every option and argument of every command: one clear line, and the right status.

The commands, options and arguments are those of the parser, so a new one is tried, too.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from vmemscope import Kernel
from vmemscope.cli.main import main, parser
from vmemscope.errors import VmemscopeError

from .kernels import image, write

_SUBPARSERS = next(one for one in parser()._actions if isinstance(one, argparse._SubParsersAction))
COMMANDS: dict[str, argparse.ArgumentParser] = dict(_SUBPARSERS.choices)
#: arguments of a command that is all right; CORE is a dump
GOOD = {
    "pgmap": {"-c": "CORE"},
    "memmap": {"-c": "CORE"},
    "hugetlb": {"-c": "CORE"},
    "page": {"which": "0x100", "-c": "CORE"},
    "report": {"-c": "CORE"},
    "diff": {"before": "CORE", "after": "CORE"},
    "survey": {"paths": "CORE"},
    "sim": {"scenario": "empty", "-o": "made"},
    "vmcoreinfo": {"-c": "CORE", "-o": "note"},
    "rules": {},
}
BLANK = ("", " ", "\n\t", "\N{NO-BREAK SPACE}")
#: no number, no file, no name of anything
WRONG = (
    "\0", "a\0b", "a\nb\x1b[2J\x07\u202e", "\udcff", "x" * 5000, "-1", "0x" + "f" * 40,
    "9" * 5000, "nan", "1e999", "/nowhere/%s{}", "../..",
)  # fmt: skip
#: options whose value may be any name
FILES = {"output"}


def actions() -> Iterator[tuple[str, argparse.Action]]:
    """Yield the options and arguments with a value, each with its command."""
    for name, command in COMMANDS.items():
        for action in command._actions:
            if action.nargs != 0 and action.dest != "help":
                yield name, action


ACTIONS = [
    pytest.param(name, action, id=f"{name}-{action.option_strings[-1:] or action.dest}")
    for name, action in actions()
]


def arguments(name: str, action: argparse.Action, value: str, core: str) -> list[str]:
    """Return the arguments of a command, one of them with this value."""
    given = dict(GOOD[name])
    if action.dest in ("core", "qemu", "sim"):
        given.pop("-c", None)
    positional = [one.dest for one in COMMANDS[name]._actions if not one.option_strings]
    if action.option_strings:
        for option in action.option_strings:
            given.pop(option, None)
        given[action.option_strings[-1]] = value
    else:
        given[action.dest] = value
    options = [
        part
        for option, text in given.items()
        if option not in positional
        # An option's value may start with a dash after "=" only.
        for part in ([f"{option}={text}"] if option.startswith("--") else [option, text])
    ]
    texts = [given[one] for one in positional if one in given]
    return [name, *(core if part == "CORE" else part for part in [*options, "--", *texts])]


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write(image("empty", "6.12"), tmp_path_factory.mktemp("values"))


def said(arguments: list[str], status: tuple[int, ...], capsys: pytest.CaptureFixture[str]) -> str:
    """Return the error of a command, which is one line after its usage."""
    try:
        found: object = main(arguments)
    except SystemExit as e:
        found = e.code
    out, err = capsys.readouterr()
    assert found in status, (arguments, err)
    assert out == ""
    usage, start, line = err.rpartition(": error: ")
    assert line.endswith("\n")
    assert line[:-1].isprintable(), line
    assert len(line) < 1000
    # The usage, if there is one, is what it is without the value, and has no error in it.
    assert not start or not re.search("error:|Traceback|internal", usage)
    assert "internal error" not in line
    return line[:-1]


@pytest.mark.parametrize(("name", "action"), ACTIONS)
def test_blank(
    name: str,
    action: argparse.Action,
    core: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """No value is left out by an empty one: that is wrong usage, and nothing runs."""
    monkeypatch.chdir(tmp_path)
    for value in BLANK:
        line = said(arguments(name, action, value, core), (2,), capsys)
        assert repr(value) in line
        assert (action.metavar or "") in line or action.option_strings
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "action"), ACTIONS)
def test_wrong(
    name: str,
    action: argparse.Action,
    core: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for value in WRONG:
        if action.dest in FILES and value not in (*WRONG[:2], *WRONG[-2:], "x" * 5000):
            continue
        if action.dest == "paths" and value == "../..":
            # It has dumps of other tests.
            continue
        if (name, action.dest) == ("survey", "paths") and "\0" not in value:
            # It has a record of each file that it was given, and this is its report.
            assert main(arguments(name, action, value, core)) == 3
            out, err = capsys.readouterr()
            assert err == ""
            assert out.startswith("1 vmcore: 1 not audited\n")
            assert out.replace("\n", "").isprintable()
        else:
            assert said(arguments(name, action, value, core), (2, 3), capsys)


@pytest.mark.parametrize("value", ["pgmap\n\x1b[2J", "--\x1b]0;x\x07", ""])
def test_commands_and_options_that_are_none(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    said([value], (2,), capsys)
    said(["pgmap", "--sim", "empty", value or "--x"], (2,), capsys)


@pytest.mark.parametrize(
    "address",
    ["localhost:0", "localhost:65536", "localhost:-1", "localhost:x", ":4444", "unix:", "[::1]:"],
)
def test_no_qmp_address(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    line = said(["pgmap", "--qemu", address], (2,), capsys)
    assert "unix:PATH" in line
    assert "HOST:PORT" in line


@pytest.mark.parametrize("option", ["vmcoreinfo", "system_map", "symbols"])
def test_null_bytes_in_paths_of_a_script(option: str, core: str) -> None:
    """Of the command line they can't come, but from a program that opens dumps."""
    value = ["\0"] if option == "symbols" else "\0"
    with pytest.raises(VmemscopeError, match=r"null (byte|character)"):
        Kernel.open_core(core, **{option: value})  # type: ignore[arg-type]
    with pytest.raises(VmemscopeError, match=r"null (byte|character)"):
        Kernel.open_core("\0")


@pytest.mark.parametrize("command", ["pgmap", "page", "memmap", "hugetlb", "report"])
def test_a_dump_without_its_option(
    command: str, core: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first that a newcomer tries: this machine must not be audited instead."""
    line = said([command, core], (2,), capsys)
    assert line.endswith("; a dump is given with -c")
    assert core in line
    # Where dumps are arguments, one too many is just that.
    assert "-c" not in said(["diff", core, core, core], (2,), capsys)


def test_a_file_called_as_a_pagemap(
    core: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A name without a slash is that of a pagemap, whatever lies in the directory."""
    monkeypatch.chdir(tmp_path)
    Path("dax0.0").touch()
    assert "no pagemap is called 'dax0.0'" in said(["pgmap", "dax0.0", "-c", core], (2,), capsys)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_the_exit_status_of_its_command(name: str) -> None:
    epilog = COMMANDS[name].epilog or ""
    _, _, statuses = epilog.partition("exit status:\n")
    assert "  0  " in statuses
    assert "  2  " in statuses
    assert ("got worse" in statuses) == (name == "diff")
    assert ("error" in statuses) == (name not in ("diff", "rules", "sim", "vmcoreinfo"))


@pytest.mark.parametrize(
    "arguments",
    [
        ["pgmap", "--sim", "empty"],
        ["sim", "empty", "-o", "-"],
        ["sim", "empty", "-o", "made"],
        ["report", "--sim", "empty", "-o", "report.html"],
        ["pgmap", "-c", "CORE", "-o", "report"],
        ["vmcoreinfo", "-c", "CORE", "-o", "note"],
        ["survey", "CORE", "-o", "records.ndjson"],
        ["survey", "CORE", "-o", "records.parquet"],
    ],
    ids=" ".join,
)
def test_no_room_for_what_is_written(arguments: list[str], core: str, tmp_path: Path) -> None:
    """A full disk, also that of temporary files: one line, and no half of a file is left."""

    def limit() -> None:
        # As a full disk, but for the error's number (EFBIG).
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))

    done = subprocess.run(
        [sys.executable, "-B", "-m", "vmemscope"]
        + [core if one == "CORE" else one for one in arguments],
        cwd=tmp_path, capture_output=True, check=False, preexec_fn=limit,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("vmemscope: error: can't write ")
    assert "File too large" in line
    assert (done.returncode, done.stdout) == (2, b"")
    # A survey goes on from its journal.
    assert all(one.name.endswith(".journal") for one in tmp_path.iterdir())


def test_a_file_that_may_not_be_written_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "made"
    directory.mkdir()
    assert "Is a directory" in said(["sim", "empty", "-o", str(directory)], (2,), capsys)
    assert directory.is_dir()
