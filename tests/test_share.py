# SPDX-License-Identifier: LGPL-2.1-or-later
"""Man pages and completions: they have all that the parsers have, and work."""

from __future__ import annotations

import argparse
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from vmemscope.cli.main import parser

SHARE = Path(__file__).parent.parent / "share"
_SPEC = importlib.util.spec_from_file_location("generate", SHARE / "generate.py")
assert _SPEC is not None
assert _SPEC.loader is not None
generate = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(generate)

_SUBPARSERS = next(one for one in parser()._actions if isinstance(one, argparse._SubParsersAction))
COMMANDS: dict[str, argparse.ArgumentParser] = dict(_SUBPARSERS.choices)
AGAIN = "run: python share/generate.py"


def options(one: argparse.ArgumentParser) -> set[str]:
    return {
        option
        for action in one._actions
        if action.help != argparse.SUPPRESS
        for option in action.option_strings
    }


def page(name: str) -> str:
    path = SHARE / "man" / "man1" / f"{name}.1"
    assert path.exists(), AGAIN
    return path.read_text(encoding="utf-8").replace("\\-", "-").replace("\\fB", "")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_page_for_each_command(name: str) -> None:
    text = page(f"vmemscope-{name}")
    assert text.startswith(f".TH VMEMSCOPE-{name.upper()} ")
    assert {one for one in options(COMMANDS[name]) - {"--help"} if one not in text} == set(), AGAIN
    assert ".SH EXAMPLES" in text
    assert ".SH EXIT STATUS" in text
    assert f"vmemscope-{name} (1)" in page("vmemscope"), AGAIN


@pytest.mark.parametrize("name", COMMANDS)
def test_a_page_says_what_help_says(name: str) -> None:
    text = page(f"vmemscope-{name}")
    for action in COMMANDS[name]._actions:
        if action.help and action.help != argparse.SUPPRESS and action.dest != "help":
            assert action.help in text, AGAIN
    for line in (COMMANDS[name].epilog or "").splitlines():
        assert line.startswith(("examples:", "exit status:")) or line in text, AGAIN


def test_no_page_is_left_over() -> None:
    pages = {path.name for path in (SHARE / "man" / "man1").iterdir()}
    assert pages == {"vmemscope.1", *(f"vmemscope-{name}.1" for name in COMMANDS)}, AGAIN


@pytest.mark.share
def test_pages_are_good_roff() -> None:
    for path in (SHARE / "man" / "man1").iterdir():
        done = subprocess.run(
            ["man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z", str(path)],
            capture_output=True, text=True, env={"MANROFFSEQ": "", "PATH": "/usr/bin:/bin"},
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("shell", generate.COMPLETIONS)
def test_completions_have_all_options(shell: str) -> None:
    text = generate.COMPLETIONS[shell].read_text(encoding="utf-8")
    for name, one in COMMANDS.items():
        assert re.search(rf"\b{name}\b", text), AGAIN
        for option in options(one):
            written = option
            if shell == "fish":
                written = f"-l {option[2:]}" if option.startswith("--") else f"-s {option[1:]}"
            assert written in text, AGAIN


def test_bash_completes(tmp_path: Path) -> None:
    (tmp_path / "vmcore").touch()
    script = f"""
source {generate.COMPLETIONS["bash"]}
complete_line() {{
    COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
    function=$(complete -p vmemscope | sed 's/.*-F \\([^ ]*\\).*/\\1/')
    "$function" vmemscope "${{@: -1}}" "${{@: -2:1}}"
    echo "${{COMPREPLY[@]}}"
}}
complete_line vmemscope pg
complete_line vmemscope pgmap --form
complete_line vmemscope pgmap --format kt
complete_line vmemscope pgmap --core vmc
"""
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert done.stdout.splitlines() == ["pgmap", "--format", "ktap", "vmcore"]


@pytest.mark.share
@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_can_read_theirs(shell: str) -> None:
    subprocess.run([shell, "-n", str(generate.COMPLETIONS[shell])], check=True)


def test_versions() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "vmemscope", "--version"], capture_output=True, text=True, check=True
    )
    version = r"[0-9]+(\.[0-9a-z]+)+"
    assert re.fullmatch(
        rf"vmemscope {version} \(drgn {version}, Python {version}, libkdumpfile {version}\)\n",
        done.stdout,
    )
    assert done.stderr == ""


def test_versions_without_drgn() -> None:
    code = "import sys; sys.modules['drgn'] = None\n"
    code += "from vmemscope.cli.main import main; main(['--version'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0
    assert "no drgn (" in done.stdout
    assert "no libkdumpfile" in done.stdout
