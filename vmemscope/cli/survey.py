# SPDX-License-Identifier: LGPL-2.1-or-later
"""``vmemscope survey``: audit many vmcores, and keep a record of each."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..errors import ExitStatus, UsageError
from .common import columns
from .progress import shown_progress
from .streams import fitted, say

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from ..report.documents.survey import SurveyRecord

NAME = "survey"
HELP = "audit many vmcores, and keep a record of each"
DESCRIPTION = """\
Find all vmcores in files and directories, and make all audits of each, in a process of
its own with a time and a memory limit. Keep a record of each in a file (-o), and show
the findings of all by rule, release and device type. Run again, it audits only vmcores
that are new or have changed.
"""
EXAMPLES = """\
examples:
  vmemscope survey /var/crash                        a table of all findings
  vmemscope survey /var/crash -o survey.parquet      and a record of each vmcore
  vmemscope survey /var/crash -o survey.ndjson -j 8
  vmemscope survey /srv/dumps -o survey.parquet --executor dask:tcp://head:8786
"""
EXIT_STATUS = """\
exit status:
  0  all vmcores are sound
  1  at least one has a finding of severity error
  2  wrong usage
  3  none could be audited
  4  some were not audited, or only in part, and no error found
"""

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
#: seconds that the audit of a vmcore may take, at most
_DAY = 86400


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this subcommand."""
    parser.add_argument(
        "paths", metavar="DIR|FILE", nargs="+", help="vmcores, and directories that have some"
    )
    group = parser.add_argument_group("records")
    group.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help="keep a record of each vmcore there: Parquet if FILE ends in .parquet, else NDJSON",
    )
    group.add_argument(
        "--again",
        choices=("failed", "all"),
        help="audit unchanged vmcores again: those that were not audited, or all",
    )
    group.add_argument("-q", "--quiet", action="store_true", help="show no progress and no notes")
    group = parser.add_argument_group("how")
    group.add_argument(
        "-j", "--jobs", metavar="N", type=_jobs, help="vmcores at a time (default: one a CPU)"
    )
    group.add_argument(
        "--time-limit",
        metavar="SECONDS",
        type=_seconds,
        default=600.0,
        help="end the audit of a vmcore after that time (default: 600)",
    )
    group.add_argument(
        "--memory-limit",
        metavar="SIZE",
        type=_size,
        default=4 << 30,
        help="memory that the audit of a vmcore may take, as 512M or 4G (default: 4G)",
    )
    group.add_argument(
        "--executor",
        metavar="local|dask:ADDRESS",
        default="local",
        help="where audits run: processes of this machine (default), or a Dask cluster whose"
        " workers have vmemscope and see the same files",
    )


def run(args: argparse.Namespace) -> int:
    """Run this subcommand."""
    from ..report.survey import render_survey
    from ..survey.dumps import find_dumps
    from ..survey.run import survey
    from ..survey.store import opened_store
    from ..survey.worker import ProcessLimits

    again = {None: (), "failed": (ExitStatus.CANNOT_AUDIT,), "all": tuple(ExitStatus)}[args.again]
    with opened_store(args.output) as store:
        dumps = find_dumps(args.paths, lambda text: _note(text, args))
        if not dumps:
            raise UsageError(f"there is no vmcore in {', '.join(args.paths)}")
        with (
            _executor(args) as (executor, jobs),
            shown_progress(args, "survey", " vmcores", scaled=False) as progress,
        ):
            audited = survey(
                dumps,
                executor,
                store,
                jobs=jobs,
                limits=ProcessLimits(args.time_limit, args.memory_limit),
                again=lambda status: status in again,
                progress=progress,
            )
        records = [one for dump in dumps if (one := store.get(dump.path)) is not None]
    sys.stdout.write(fitted(render_survey(records, audited, columns()), sys.stdout))
    return _status(records)


def _status(records: list[SurveyRecord]) -> ExitStatus:
    found = {one.status for one in records}
    if ExitStatus.FINDINGS in found:
        return ExitStatus.FINDINGS
    if found == {ExitStatus.CANNOT_AUDIT}:
        return ExitStatus.CANNOT_AUDIT
    return ExitStatus.SOUND if found == {ExitStatus.SOUND} else ExitStatus.PARTIAL


@contextmanager
def _executor(args: argparse.Namespace) -> Iterator[tuple[Executor, int]]:
    """Return what runs audits, and how many at a time."""
    kind, _, address = args.executor.partition(":")
    if kind == "local" and not address:
        from concurrent.futures import ThreadPoolExecutor

        jobs = args.jobs or len(os.sched_getaffinity(0))
        with ThreadPoolExecutor(jobs) as executor:
            yield executor, jobs
    elif kind == "dask" and address:
        from ..survey.cluster import dask_executor

        with dask_executor(address) as (executor, workers):
            yield executor, args.jobs or workers
    else:
        raise UsageError(
            f"there is no executor {args.executor!r}",
            "use local, or dask: and the scheduler's address",
        )


def _note(text: str, args: argparse.Namespace) -> None:
    if not args.quiet:
        say("note", text)


def _jobs(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 4096:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 to 4096")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    # NaN is in no range.
    if not 0 < seconds <= _DAY:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds up to {_DAY}")
    return seconds


def _size(text: str) -> int:
    number, unit = (text[:-1], text[-1].upper()) if text[-1:].isalpha() else (text, "")
    if not number.isdecimal() or unit not in _UNITS or not 0 < int(number) < 1 << 32:
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 512M or 4G")
    return int(number) * _UNITS[unit]
