# SPDX-License-Identifier: LGPL-2.1-or-later
"""Options that choose which findings count."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ..errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from typing import TypeVar

    from ..report.documents.common import TargetReport

    _R = TypeVar("_R", bound=TargetReport)

__all__ = ("add_selection_options", "hint", "selection")


def add_selection_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose findings."""
    group = parser.add_argument_group("findings that are shown, and that the exit status follows")
    group.add_argument(
        "--min-severity",
        choices=("error", "warning", "note"),
        default="note",
        help="leave out less severe findings (default: note, all of them)",
    )
    group.add_argument(
        "--rule",
        dest="only_rules",
        metavar="RULE",
        action="append",
        default=[],
        help="leave out the findings of all other rules; can be given several times",
    )
    group.add_argument(
        "--ignore",
        metavar="FILE",
        help="leave out the findings that this TOML file lists, each with a reason and an expiry"
        " date",
    )


def selection(args: argparse.Namespace) -> Callable[[_R], _R]:
    """
    Return a function that leaves out of a report what the arguments say.

    :raises UsageError: if there is no such rule, or the ignore file can't be used
    """
    if args.min_severity == "note" and not args.only_rules and args.ignore is None:
        return lambda report: report
    from ..report.ignore import read_ignore_file
    from ..report.selection import Selection
    from ..rules import RULES
    from ..rules.rule import Severity

    for name in args.only_rules:
        if name not in RULES:
            raise UsageError(f"there is no rule {name!r}", hint(name, RULES))
    return Selection(
        Severity(args.min_severity),
        tuple(args.only_rules),
        () if args.ignore is None else read_ignore_file(args.ignore),
    ).of


def hint(name: str, known: Collection[str]) -> str:
    """Return what a user may have meant by a name that is not known."""
    from difflib import get_close_matches

    close = get_close_matches(name, known)
    return f"did you mean {' or '.join(close)}?" if close else "vmemscope rules lists them"
