# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Audit one dump in a process of its own, whatever becomes of that process.

:func:`audited` is what an executor runs: it takes and returns what every executor can move
between processes and machines.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from typing import NamedTuple

from ..report.document import json_text, read_as, to_document
from ..report.documents.summary import timestamp
from ..report.documents.survey import SurveyRecord
from ..report.words import safe
from ..text import binary_size
from ..timing import Stopwatch
from .dumps import Dump

__all__ = ("ProcessLimits", "audited", "failure", "parse_record", "start", "stop")

#: the process; a test puts another in its place
COMMAND = (sys.executable, "-m", "vmemscope.survey.child")
#: characters of its stderr that an error repeats
_SAID = 300
#: what Python, the dynamic linker and numpy's library say on stderr when memory runs out
_NO_MEMORY = (
    "memoryerror",
    "cannot allocate memory",
    "failed to map segment",
    "memory allocation still failed",
)

_running: set[subprocess.Popen[bytes]] = set()
_lock = threading.Lock()
_stopped = threading.Event()


class ProcessLimits(NamedTuple):
    """What the audit of one dump may take."""

    seconds: float = 600.0
    #: bytes
    memory: int = 4 << 30


def audited(dump: Dump, limits: ProcessLimits) -> str:
    """Audit a dump, and return its record as a line of JSON."""
    watch = Stopwatch()
    # An archive of Python code may have put itself there.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    # Threads of numpy's linear algebra take memory, and nothing here uses them.
    environment.update(OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1")
    command = (
        *COMMAND, dump.path, str(dump.size), str(dump.modified), json.dumps(limits._asdict()),
    )  # fmt: skip
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        # An interrupt of the terminal is for the one who started the survey.
        start_new_session=True,
    ) as process:
        with _lock:
            _running.add(process)
        if _stopped.is_set():
            process.kill()
        try:
            out, err = process.communicate(timeout=limits.seconds)
            error = _why(process.returncode, err, limits)
        except subprocess.TimeoutExpired:
            process.kill()
            out, error = b"", f"its audit took longer than {limits.seconds:g} s"
        finally:
            with _lock:
                _running.discard(process)
    if error is None:
        try:
            parse_record(out)
            return out.decode("ascii")
        except ValueError:
            error = "its audit returned no record"
    return failure(dump, error, watch)


def failure(dump: Dump, error: str, watch: Stopwatch) -> str:
    """
    Return the record of a dump that was not audited, as a line of JSON.

    :param error: why, in a sentence
    :param watch: started with the attempt
    """
    record = SurveyRecord.failed(
        safe(dump.path),
        dump.size,
        dump.modified,
        error=" ".join(error.split()),
        time=timestamp(watch.started),
        seconds=watch.seconds,
    )
    return json_text(to_document(record))


def parse_record(line: str | bytes) -> SurveyRecord:
    """
    Return the record in a line of JSON.

    :raises ValueError: if it is none
    """
    try:
        return read_as(SurveyRecord, json.loads(line))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def start() -> None:
    """Let processes be started again."""
    _stopped.clear()


def stop() -> None:
    """End all processes that audit dumps, and those that will be started."""
    _stopped.set()
    with _lock:
        for process in _running:
            process.kill()


def _why(status: int, err: bytes, limits: ProcessLimits) -> str | None:
    """Return why a process left no record, ``None`` if it ended well."""
    if status == 0:
        return None
    if status < 0:
        try:
            name = signal.Signals(-status).name
        except ValueError:
            name = f"signal {-status}"
        return f"the process of its audit was ended by {name}"
    said = err.decode("utf-8", "replace").strip()
    if any(one in said.lower() for one in _NO_MEMORY):
        return f"its audit needs more than {binary_size(limits.memory)} of memory"
    last = said.rsplit("\n", 1)[-1][:_SAID]
    return f"the process of its audit failed: {last or f'exit status {status}'}"
