# SPDX-License-Identifier: LGPL-2.1-or-later
"""An executor on a Dask cluster. Dask runs the audits of a worker that died on others."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager

from ..errors import TargetError, UsageError
from ..report.words import safe

try:
    import distributed
    from distributed.comm import get_address_host_port
except ImportError as e:
    raise UsageError(
        "--executor dask: needs dask and distributed", "pip install 'vmemscope[dask]'"
    ) from e

__all__ = ("dask_executor",)

#: seconds to wait for the scheduler
_PATIENCE = 15


@contextmanager
def dask_executor(address: str) -> Iterator[tuple[Executor, int]]:
    """
    Yield an executor on a cluster, and how many audits it can run at a time.

    :param address: of the scheduler
    :raises UsageError: if it is no address
    :raises TargetError: if there is none, or it has no workers
    """
    try:
        # A client that can't be made waits half a minute, and leaves a traceback behind.
        get_address_host_port(address)
    except ValueError as e:
        raise UsageError(
            f"{address!r} is no address of a Dask scheduler: {e}", "as tcp://HOST:8786"
        ) from e
    try:
        client = distributed.Client(address, timeout=_PATIENCE, set_as_default=False)
    except (OSError, ValueError) as e:
        raise TargetError(f"cannot reach the Dask scheduler {safe(address)}: {e}") from e
    with client:
        threads = sum(client.nthreads().values())
        if not threads:
            raise TargetError(f"the Dask scheduler {safe(address)} has no workers")
        # Each audit is another task, also that of the same dump.
        yield client.get_executor(pure=False), threads
