# SPDX-License-Identifier: LGPL-2.1-or-later
"""Audit many dumps on an executor, each once, and keep their records."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait

from ..progress import Progress
from ..timing import Stopwatch
from .dumps import Dump
from .store import Store
from .worker import ProcessLimits, audited, failure, parse_record, start, stop

__all__ = ("survey",)

#: dumps that an executor has at a time, for each one that it can audit at a time
_AHEAD = 4


def survey(
    dumps: Iterable[Dump],
    executor: Executor,
    store: Store,
    *,
    jobs: int,
    limits: ProcessLimits | None = None,
    again: Callable[[int], bool] = lambda status: False,
    progress: Progress | None = None,
) -> int:
    """
    Audit dumps, but for those whose record is kept and which have not changed since.

    :param executor: runs the audits; threads will do, as each audit has a process of its own.
        It is not shut down
    :param store: keeps the records
    :param jobs: how many dumps the executor can audit at a time
    :param limits: what the audit of one dump may take
    :param again: status of a record -> whether to audit the dump again
    :param progress: called with the dumps done and how many there are
    :return: how many dumps were audited
    """
    limits = limits or ProcessLimits()
    listed = list(dumps)
    left = [one for one in listed if _is_due(one, store, again)]
    total, done, queue = len(listed), len(listed) - len(left), iter(left)
    pending: dict[Future[str], tuple[Dump, Stopwatch]] = {}
    start()
    try:
        while True:
            while len(pending) < max(jobs, 1) * _AHEAD:
                dump = next(queue, None)
                if dump is None:
                    break
                pending[executor.submit(audited, dump, limits)] = dump, Stopwatch()
            if progress is not None:
                progress(done, total)
            if not pending:
                return len(left)
            finished, _ = wait(pending, return_when=FIRST_COMPLETED)
            for future in finished:
                dump, watch = pending.pop(future)
                store.add(parse_record(_result(future, dump, watch)))
                done += 1
    except BaseException:
        for future in pending:
            future.cancel()
        stop()
        raise


def _result(future: Future[str], dump: Dump, watch: Stopwatch) -> str:
    """Return the record of a dump, also if the executor could not run its audit."""
    try:
        return future.result()
    except Exception as e:
        return failure(dump, f"its audit could not be run: {type(e).__name__}: {e}", watch)


def _is_due(dump: Dump, store: Store, again: Callable[[int], bool]) -> bool:
    record = store.get(dump.path)
    if record is None or (record.size, record.modified) != (dump.size, dump.modified):
        return True
    return again(record.status)
