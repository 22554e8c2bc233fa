# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find the vmcores in files and directories."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from ..errors import TargetError
from ..target.core import is_dump

__all__ = ("Dump", "find_dumps")

#: names that kdump gives to dumps: these are listed even if nothing in them is a dump any more
_NAMES = frozenset({"vmcore", "vmcore-incomplete", "vmcore.flat"})


class Dump(NamedTuple):
    """A file that is a dump, or should be one."""

    #: absolute
    path: str
    #: bytes
    size: int
    #: when it was last modified, in nanoseconds since 1970
    modified: int


def find_dumps(paths: Iterable[str], warn: Callable[[str], None]) -> list[Dump]:
    """
    Return the dumps in files and directories, each once, by path.

    A file that is named is listed whatever is in it. In a directory, and in those below it,
    a file is listed if it starts as a dump does, or has the name that kdump gives to one.
    Symbolic links in directories are not followed.

    :param warn: called with a sentence about what could not be read
    """
    found: dict[str, Dump] = {}
    for path in map(os.path.abspath, paths):
        several = _below(path, warn) if os.path.isdir(path) else [path]
        for one in several:
            try:
                status = os.stat(one)
            except OSError as e:
                if one == path:
                    # A record says that it could not be opened.
                    found.setdefault(one, Dump(one, 0, 0))
                else:
                    warn(f"cannot read {one}: {e.strerror}")
                continue
            found.setdefault(one, Dump(one, status.st_size, status.st_mtime_ns))
    return [found[path] for path in sorted(found)]


def _below(directory: str, warn: Callable[[str], None]) -> Iterator[str]:
    def failed(error: OSError) -> None:
        warn(f"cannot read {error.filename}: {error.strerror}")

    for place, directories, names in os.walk(directory, onerror=failed):
        directories.sort()
        for name in sorted(names):
            path = os.path.join(place, name)
            try:
                regular = stat.S_ISREG(os.lstat(path).st_mode)
                if regular and (name in _NAMES or is_dump(path)):
                    yield path
            except (OSError, TargetError) as e:
                warn(str(e))
