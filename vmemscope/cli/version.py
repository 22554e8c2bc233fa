# SPDX-License-Identifier: LGPL-2.1-or-later
"""``vmemscope --version``: its version, and those of what reads dumps for it."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from typing import Any

from .. import __version__
from .streams import fitted

__all__ = ("Version", "versions")


class Version(argparse.Action):
    """Print versions, and exit."""

    def __init__(self, option_strings: list[str], dest: str, **kwargs: Any) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, **kwargs)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        print(fitted(versions(), sys.stdout))
        parser.exit()


def versions() -> str:
    """Return the versions of vmemscope, drgn, Python and libkdumpfile, on one line."""
    try:
        import drgn

        found = f"drgn {drgn.__version__}"
    except ImportError as e:
        found = f"no drgn ({e})"
    python = platform.python_version()
    return f"vmemscope {__version__} ({found}, Python {python}, {_libkdumpfile()})"


def _libkdumpfile() -> str:
    """
    Return the name of the library that drgn loaded, which ends in its version.

    The library has no function that returns it.
    """
    try:
        with open("/proc/self/maps", encoding="utf-8", errors="replace") as file:
            names = {os.path.basename(line.rsplit("/", 1)[-1].strip()) for line in file}
    except OSError:
        return "libkdumpfile not known"
    loaded = sorted(name for name in names if name.startswith("libkdumpfile"))
    if not loaded:
        return "no libkdumpfile"
    path = loaded[0]
    return "libkdumpfile " + path.partition(".so.")[2] if ".so." in path else path
