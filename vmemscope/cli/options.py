# SPDX-License-Identifier: LGPL-2.1-or-later
"""Options that subcommands share: which target, which types, where the output goes."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from .streams import say

if TYPE_CHECKING:
    from ..target import Target

__all__ = ("add_output_options", "add_target_options", "add_types_options", "opener")


def add_target_options(parser: argparse.ArgumentParser, *, types: bool = True) -> None:
    """
    Add the options that choose a target, named as drgn names them.

    A parser with a default for ``program`` is for a program that is open: it gets none.

    :param types: whether to add the options that choose types and symbols, too
    """
    if parser.get_default("program") is not None:
        parser.set_defaults(
            kernel=False, core=None, qemu=None, sim=None, vmcoreinfo=None,
            types="auto", symbols=[], system_map=None,
        )  # fmt: skip
        return
    group = parser.add_argument_group("target")
    exclusive = group.add_mutually_exclusive_group()
    exclusive.add_argument(
        "-k", "--kernel", action="store_true", help="the running kernel (default)"
    )
    exclusive.add_argument("-c", "--core", metavar="PATH", help="a vmcore")
    exclusive.add_argument(
        "--qemu", metavar="ADDRESS", help="a QEMU guest, by its QMP address (unix:PATH, HOST:PORT)"
    )
    exclusive.add_argument(
        "--sim", metavar="SCENARIO", help="a simulated kernel: a built-in scenario, or a file"
    )
    group.add_argument(
        "--vmcoreinfo", metavar="PATH", help="use a saved VMCOREINFO note instead of the target's"
    )
    if types:
        add_types_options(parser)


def add_types_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose a target's types and symbols."""
    group = parser.add_argument_group("types and symbols")
    group.add_argument(
        "--types",
        choices=("auto", "btf", "dwarf"),
        default="auto",
        help="take types from the kernel's own BTF or from debug symbols"
        " (default: debug symbols if given, else BTF)",
    )
    group.add_argument(
        "-s",
        "--symbols",
        metavar="PATH",
        action="append",
        default=[],
        help="a vmlinux or other file with debug symbols; can be given several times",
    )
    group.add_argument(
        "--system-map",
        metavar="PATH",
        help="take symbols from a System.map, or a saved /proc/kallsyms, and types from BTF:"
        " for kernels before 6.0, which do not say where their symbols are",
    )


def add_output_options(
    parser: argparse.ArgumentParser, formats: tuple[str, ...], default: str | None = None
) -> None:
    """
    Add the options for the output: format, file, progress.

    :param default: how the default is chosen, in words; the first format if ``None``
    """
    group = parser.add_argument_group(
        "output",
        "Text in a terminal is as wide as that: tables leave out columns that do not fit, and long"
        " lines are broken. In a file or a pipe each line is whole, and a table has 100 columns.",
    )
    group.add_argument(
        "--format",
        choices=formats,
        default=formats[0] if default is None else None,
        help=f"default: {default or formats[0]}",
    )
    group.add_argument(
        "-o", "--output", metavar="FILE", help="write there, whole or not at all; - is stdout"
    )
    group.add_argument("-q", "--quiet", action="store_true", help="show no progress and no notes")


@contextmanager
def opener(args: argparse.Namespace) -> Iterator[Callable[[], Target]]:
    """
    Yield a function that opens the target that the arguments choose.

    A simulated kernel is a vmcore in a temporary file, which exists as long as the context.
    """
    with ExitStack() as stack:
        core = args.core
        if args.sim:
            import tempfile

            from ..sim import build, load_scenario
            from .sim import MORE_ROOM, write_image

            scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="vmemscope-"))
            core = os.path.join(scratch, "vmcore")
            write_image(build(load_scenario(args.sim)), core, MORE_ROOM)

        def opened() -> Target:
            target = _open(core, args)
            if args.sim:
                from msgspec.structs import replace

                # The user did not choose the path of the temporary file.
                return replace(target, path=f"sim:{args.sim}")
            return target

        yield opened


def _set_up_logging(args: argparse.Namespace) -> None:
    """Show drgn's log and our own on stderr, a line a message; all of it with --debug."""
    import logging

    class Stderr(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            # Not the stderr of the first call, which may be closed by now.
            say(record.levelname.lower(), self.format(record))

    # drgn's warnings are advice for its shell (reassemble a flattened dump); errors are
    # exceptions.
    quiet = logging.ERROR if getattr(args, "quiet", False) else logging.WARNING
    for name, level in (("drgn", logging.ERROR), ("vmemscope", quiet)):
        logger = logging.getLogger(name)
        if not logger.handlers:
            logger.addHandler(Stderr())
            logger.propagate = False
        logger.setLevel(logging.DEBUG if args.debug else level)


def _open(core: str | None, args: argparse.Namespace) -> Target:
    from .. import target

    _set_up_logging(args)
    target.without_plugins()
    if core is not None:
        return target.open_core(core, args.vmcoreinfo)
    if args.qemu is not None:
        return target.open_qemu(args.qemu, args.vmcoreinfo)
    return target.open_live(args.vmcoreinfo)
