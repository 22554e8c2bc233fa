# SPDX-License-Identifier: LGPL-2.1-or-later
"""``vmemscope diff``: compare two reports or vmcores."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ..errors import ExitStatus, TargetError
from .common import check_type_options, opened_kernel, show, write
from .options import add_output_options, add_types_options
from .pgmap import audited

if TYPE_CHECKING:
    from ..report.documents.pgmap import Report

NAME = "diff"
HELP = "compare two reports or vmcores"
DESCRIPTION = """\
Compare two reports: pagemaps added and removed, frames and memory saved, findings
new and gone. Each report is a JSON document that pgmap --format json wrote, or a
vmcore, which vmemscope audits first.

These are worse: a new finding of severity error; a pagemap that is less
deduplicated; memory that can't be read any more. A removed pagemap is not.
"""
EXAMPLES = """\
examples:
  vmemscope diff before.json after.json
  vmemscope diff good-vmcore bad-vmcore
  vmemscope diff before.json vmcore --format json
"""
EXIT_STATUS = """\
exit status:
  0  nothing got worse
  1  something got worse
  2  wrong usage
  3  one of the two could not be read
"""

#: first byte of a JSON document after white space; no dump has it
_JSON = (b"{", b"[")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this subcommand."""
    parser.add_argument("before", metavar="A", help="a JSON document or a vmcore")
    parser.add_argument("after", metavar="B", help="another one, to compare with A")
    add_types_options(parser)
    parser.add_argument("--vmcoreinfo", metavar="PATH", help=argparse.SUPPRESS)
    add_output_options(parser, ("text", "json"))
    # Dumps are audited as "pgmap" does by default.
    parser.set_defaults(contents="sample")


def run(args: argparse.Namespace) -> int:
    """Run this subcommand."""
    check_type_options(args)
    sources = args.before, args.after
    before, after = (_report(path, args) for path in sources)

    from ..report import render_diff, render_json
    from ..report.compare import compare

    diff = compare(before, after, sources)
    if args.format == "json":
        write(render_json(diff), args)
    else:
        show(render_diff(diff), args)
    return ExitStatus.FINDINGS if diff.worse else ExitStatus.SOUND


def _report(path: str, args: argparse.Namespace) -> Report:
    from ..report.document import MAX_DOCUMENT, read_report

    try:
        with open(path, "rb") as file:
            data = file.read(512)
            if data.lstrip().startswith(_JSON):
                # Not opened twice: it may be a pipe.
                data += file.read(MAX_DOCUMENT)
                if len(data) > MAX_DOCUMENT:
                    raise TargetError(f"{path} is no report: it is larger than any")
                return read_report(data, path)
    except OSError as e:
        raise TargetError(f"cannot open {path}: {e.strerror}") from e
    except ValueError as e:
        raise TargetError(f"cannot open {path}: {e}") from e
    chosen = argparse.Namespace(**{**vars(args), "core": path, "qemu": None, "sim": None})
    with opened_kernel(chosen) as kernel:
        return audited(kernel, chosen)
