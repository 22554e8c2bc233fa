# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Run the command line in a process of its own that is bounded in time and memory.

Forked, so that nothing has to be imported again and that whatever happens to it
(a loop without end, a crash in a library) happens to it alone.
"""

from __future__ import annotations

import faulthandler
import gc
import importlib
import io
import os
import pickle
import pkgutil
import re
import resource
import select
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

__all__ = ("Answer", "Limits", "Ran", "run")

#: what libraries and commands import once they need it
_LATE = ("numpy.ma", "tabulate")


@dataclass(frozen=True)
class Limits:
    """What a process may take."""

    #: seconds, for all of its commands together
    seconds: float = 20.0
    #: bytes of address space on top of what it begins with
    memory: int = 768 << 20


@dataclass(frozen=True)
class Answer:
    """What a command said."""

    arguments: tuple[str, ...]
    status: int
    out: str
    err: str
    seconds: float
    #: of an error that is no VmemscopeError
    traceback: str = ""


@dataclass(frozen=True)
class Ran:
    """What became of a process."""

    answers: tuple[Answer, ...]
    #: how it ended, if not by itself
    died: str | None
    #: bytes of memory at its peak, on top of what it began with
    memory: int
    #: what it wrote past Python, to its stderr
    noise: str
    #: what it was asked to find out besides
    result: Any = None


def run(
    commands: Sequence[Sequence[str]],
    limits: Limits = Limits(),
    judge: Callable[[Sequence[Answer]], Any] | None = None,
) -> Ran:
    """
    Run commands, one after the other.

    :param judge: called in the process with the answers; what it returns comes back
    """
    _import_all()
    reader, writer = os.pipe()
    noise = os.memfd_create("stderr")
    with warnings.catch_warnings():
        # Threads of numpy's libraries, which nothing here uses.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if not pid:
        os.close(reader)
        status = 1
        try:
            _child(commands, limits, judge, writer, noise)
            status = 0
        except BaseException:
            os.write(2, traceback.format_exc().encode(errors="replace"))
        finally:
            os._exit(status)
    os.close(writer)
    try:
        data, late = _read(reader, limits.seconds)
        if late:
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        said = os.pread(noise, 1 << 16, 0).decode(errors="replace")
    finally:
        os.close(reader)
        os.close(noise)
    answers, memory, result = pickle.loads(data) if data and not late else ((), 0, None)
    died = None
    if late:
        died = f"not done after {limits.seconds} s"
    elif os.WIFSIGNALED(status):
        died = signal.Signals(os.WTERMSIG(status)).name
    elif status:
        died = "it failed"
    return Ran(answers, died, memory, said, result)


def _read(reader: int, seconds: float) -> tuple[bytes, bool]:
    """Read to the end; return whether that did not come in time."""
    data, deadline = [], time.monotonic() + seconds
    while True:
        ready, _, _ = select.select([reader], [], [], max(deadline - time.monotonic(), 0))
        if not ready:
            return b"", True
        part = os.read(reader, 1 << 20)
        if not part:
            return b"".join(data), False
        data.append(part)


@cache
def _import_all() -> None:
    """Import what commands would, each anew in its process."""
    import vmemscope

    # A survey runs in processes of its own, and Dask is large: each fork would take longer.
    skipped = re.compile(r".*__main__|vmemscope\.survey\..*")
    for module in pkgutil.walk_packages(vmemscope.__path__, "vmemscope."):
        if not skipped.fullmatch(module.name):
            importlib.import_module(module.name)
    for name in _LATE:
        importlib.import_module(name)
    # What nobody reads is not copied.
    gc.collect()
    gc.freeze()


def _memory(what: str) -> int:
    """Return bytes of memory of this process: VmSize, VmRSS or VmHWM, its peak."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(what)) * 1024


def _child(
    commands: Sequence[Sequence[str]],
    limits: Limits,
    judge: Callable[[Sequence[Answer]], Any] | None,
    writer: int,
    noise: int,
) -> None:
    os.dup2(noise, 2)
    # Where it is when it hangs.
    faulthandler.dump_traceback_later(max(limits.seconds - 1, 0.5), file=noise)
    before = _memory("VmRSS")
    bound = _memory("VmSize") + limits.memory
    resource.setrlimit(resource.RLIMIT_AS, (bound, bound))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answers = [_run(tuple(arguments)) for arguments in commands]
    peak = max(_memory("VmHWM") - before, 0)
    result = None if judge is None else judge(answers)
    with os.fdopen(writer, "wb") as file:
        file.write(pickle.dumps((tuple(answers), peak, result)))


def _run(arguments: tuple[str, ...]) -> Answer:
    start = time.perf_counter()
    status, out, err = _main(arguments)
    seconds = time.perf_counter() - start
    details = ""
    if "internal error" in err or status < 0:
        try:
            _main((*arguments, "--debug"))
        except BaseException:
            details = traceback.format_exc()
    return Answer(arguments, status, out, err, seconds, details)


def _main(arguments: tuple[str, ...]) -> tuple[int, str, str]:
    from vmemscope.cli.main import main

    old = sys.stdout, sys.stderr
    out, err = io.StringIO(), io.StringIO()
    sys.stdout, sys.stderr = out, err
    _forget_handlers()
    try:
        status = main(arguments)
    except SystemExit as e:
        status = e.code if isinstance(e.code, int) else -1
    finally:
        sys.stdout, sys.stderr = old
    return status, out.getvalue(), err.getvalue()


def _forget_handlers() -> None:
    """Let the command line set its logging up anew: its handler writes to the old stderr."""
    import logging

    for name in ("drgn", "vmemscope"):
        logging.getLogger(name).handlers.clear()
