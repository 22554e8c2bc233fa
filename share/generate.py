#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Make the man pages and the shell completions from the parsers: ``python share/generate.py``.

Run it after a change of an option. It needs ``pip install '.[dev]'``. The wheel has the files, so
pip puts them where ``man`` and the shells look (``share/`` of the environment).
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

SHARE = Path(__file__).parent
#: shell -> file of its completion
COMPLETIONS = {
    "bash": SHARE / "bash-completion" / "completions" / "vmemscope",
    "zsh": SHARE / "zsh" / "site-functions" / "_vmemscope",
    "fish": SHARE / "fish" / "vendor_completions.d" / "vmemscope.fish",
}
#: options whose value is a file
_FILES = {"--core", "--symbols", "--system-map", "--vmcoreinfo", "--output", "--ignore"}
#: arguments whose value is a file, by their name
_FILE_ARGUMENTS = {"A", "B", "DIR|FILE"}


def commands() -> tuple[
    argparse.ArgumentParser, dict[str, argparse.ArgumentParser], dict[str, str]
]:
    """Return the parser of the command line, those of its commands, and a line about each."""
    from vmemscope.cli.main import parser

    top = parser()
    (action,) = (one for one in top._actions if isinstance(one, argparse._SubParsersAction))
    helps = {one.dest: one.help or "" for one in action._choices_actions}
    return top, dict(action.choices), helps


def man_pages() -> dict[str, str]:
    """Return the man pages: name of a file -> text."""
    from vmemscope.cli.main import parser

    top, several, helps = commands()
    listed = "".join(
        f".TP\n.BR vmemscope\\-{name} (1)\n{_roff(text)}\n" for name, text in helps.items()
    )
    alone = argparse.ArgumentParser(
        prog="vmemscope", description=top.description, usage="vmemscope [OPTION...] COMMAND ..."
    )
    for one in parser()._actions:
        if one.option_strings and not isinstance(one, argparse._HelpAction):
            alone._add_action(one)
    pages = {
        "vmemscope.1": _page(
            alone, "audit the kernel's memory map", top.epilog, [("commands", listed)]
        )
    }
    for name, one in several.items():
        pages[f"vmemscope-{name}.1"] = _page(one, helps[name], one.epilog, [], f"vmemscope-{name}")
    return pages


def _page(
    parser: argparse.ArgumentParser,
    about: str,
    epilog: str | None,
    sections: list[tuple[str, str]],
    title: str = "vmemscope",
) -> str:
    from argparse_manpage.manpage import Manpage

    parser.epilog = None
    made: Any = parser
    made._manpage = [{"heading": name, "content": text} for name, text in sections]
    made._manpage += [
        {"heading": name, "content": f".nf\n{_roff(text)}\n.fi"}
        for name, text in _parts(epilog or "")
    ]
    page = Manpage(parser)
    page.description = about
    page.manual = "vmemscope"
    page.source = "vmemscope"
    # The same each time.
    page.date = ""
    page.prog = title
    return str(page)


def _parts(epilog: str) -> list[tuple[str, str]]:
    """Return the sections of an epilog: ``title:``, and indented lines."""
    parts: list[tuple[str, str]] = []
    for line in epilog.splitlines():
        if line.endswith(":") and not line.startswith(" "):
            parts.append((line[:-1], ""))
        elif parts and line.strip():
            title, text = parts[-1]
            parts[-1] = title, f"{text}\n{line}" if text else line
    return parts


def _roff(text: str) -> str:
    return text.replace("\\", "\\e").replace("-", "\\-")


def completion(shell: str) -> str:
    """Return the completion of a shell."""
    import shtab

    top, several, helps = commands()
    for name, parser in several.items():
        # Some versions of shtab show all of a description.
        parser.description = helps[name]
    for parser in (top, *several.values()):
        for action in parser._actions:
            if _FILES & set(action.option_strings) or action.metavar in _FILE_ARGUMENTS:
                action.complete = shtab.FILE  # type: ignore[attr-defined]
    return str(shtab.complete(top, shell))


def main() -> None:
    """Write all files."""
    # man breaks lines itself, whatever the terminal here is.
    os.environ["COLUMNS"] = "1000"
    directory = SHARE / "man" / "man1"
    directory.mkdir(parents=True, exist_ok=True)
    for path in directory.glob("*.1"):
        path.unlink()
    for name, text in man_pages().items():
        (directory / name).write_text(text, encoding="utf-8")
    for shell, path in COMPLETIONS.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(completion(shell), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
