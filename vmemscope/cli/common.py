# SPDX-License-Identifier: LGPL-2.1-or-later
"""Code that subcommands share, from the options to the exit status."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..errors import UsageError, VmemscopeError, internal_error
from ..timing import Stopwatch
from .options import add_output_options, add_target_options, opener
from .progress import shown_progress
from .streams import fitted, say, terminal_columns

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from ..machine import Kernel
    from ..progress import Progress
    from ..report.documents.common import TargetReport
    from ..report.documents.pgmap import PagemapReport
    from ..target.base import Target


__all__ = (
    "RECORDS",
    "add_audit_options",
    "check_type_options",
    "columns",
    "dump_hint",
    "opened_kernel",
    "record",
    "recorded",
    "show",
    "show_notes",
    "vmemmap_progress",
    "write",
)

#: formats of which each audit leaves a record, also one that failed
RECORDS = ("ndjson", "openmetrics")

#: columns where the output is no terminal
_WIDTH = 100


def add_audit_options(
    parser: argparse.ArgumentParser, formats: tuple[str, ...], default: str | None = None
) -> None:
    """
    Add the options that choose the target, the format and the output file.

    :param default: how the default format is chosen, in words; the first if ``None``
    """
    add_target_options(parser)
    add_output_options(parser, formats, default)


def check_type_options(args: argparse.Namespace) -> None:
    """
    Check that the options about types and symbols fit together.

    :raises UsageError: if they do not
    """
    if args.types == "btf" and args.symbols:
        raise UsageError("debug symbols (-s) are not used with --types btf")
    if args.system_map is not None and (args.types == "dwarf" or args.symbols):
        raise UsageError("debug symbols (-s) have all symbols: --system-map is not used with them")


@contextmanager
def opened_kernel(args: argparse.Namespace) -> Iterator[Kernel]:
    """
    Open the kernel that the arguments choose, with their types.

    ``args.program`` is one that somebody else opened.

    :raises VmemscopeError: if it can't be opened
    """
    if getattr(args, "program", None) is not None:
        from ..helpers import kernel_of

        yield kernel_of(args.program)
        return
    from ..machine import Kernel

    check_type_options(args)
    with opener(args) as opened:
        kernel = Kernel.open(opened, args.types, args.symbols, args.system_map)
        # Only now: a target that can't be audited gets one line, its error.
        show_notes(kernel.target, args)
        yield kernel


def show_notes(target: Target, args: argparse.Namespace) -> None:
    """Print what the user should know of a target, to standard error."""
    if not getattr(args, "quiet", False):
        for note in target.notes:
            say("note", note)


@contextmanager
def recorded(args: argparse.Namespace) -> Iterator[Stopwatch]:
    """
    Time an audit. If it fails, write so, in a format of which each audit leaves a record.

    Wrong usage leaves none: there was nothing to audit.
    """
    watch = Stopwatch()
    if args.format == "openmetrics":
        # It may not be installed, which the user should read at once.
        from ..report import render_openmetrics  # noqa: F401
    try:
        yield watch
    except UsageError:
        raise
    except VmemscopeError as e:
        _record_failure(args, str(e), watch)
        raise
    except Exception as e:
        _record_failure(args, internal_error(e), watch)
        raise


def _record_failure(args: argparse.Namespace, error: str, watch: Stopwatch) -> None:
    if args.format in RECORDS:
        from .. import report as reports

        render = getattr(reports, f"render_{args.format}_failure")
        error = " ".join(error.split())
        write(render(args.command, *_target_of(args), error, watch=watch), args)


def record(
    report: TargetReport,
    args: argparse.Namespace,
    watch: Stopwatch,
    only: PagemapReport | None = None,
) -> str:
    """Return a report in one of :data:`RECORDS`."""
    from .. import report as reports

    text: str = getattr(reports, f"render_{args.format}")(report, only, watch=watch)
    return text


def _target_of(args: argparse.Namespace) -> tuple[str, str]:
    """Return kind and path of the target that the arguments choose, as a report names it."""
    if args.core is not None:
        return "core", args.core
    if args.sim is not None:
        return "core", f"sim:{args.sim}"
    if args.qemu is not None:
        return "qemu", args.qemu
    return "live", "/proc/kcore"


def vmemmap_progress(args: argparse.Namespace) -> AbstractContextManager[Progress | None]:
    """Show how much of the vmemmap was read."""
    return shown_progress(args, "vmemmap", " pages")


def dump_hint(name: str) -> str:
    """Return a hint for users who give a dump where something else is expected."""
    return "; a dump is given with -c" if os.path.isfile(name) else ""


def columns(output: str | None = None) -> int:
    """
    Return the columns that a table may use.

    :param output: the file that gets it, stdout by default
    """
    found = terminal_columns(sys.stdout) if output in (None, "-") else None
    return _WIDTH if found is None else found


def show(text: str, args: argparse.Namespace) -> None:
    """Write a text report: as it is to a file or a pipe, broken at spaces to a terminal."""
    write(fitted(text, sys.stdout) if args.output in (None, "-") else text, args)


def write(text: str, args: argparse.Namespace) -> None:
    """Write text to the output file, or to stdout."""
    if args.output in (None, "-"):
        sys.stdout.write(text)
    else:
        from ..report import write_atomically

        write_atomically(args.output, text)
