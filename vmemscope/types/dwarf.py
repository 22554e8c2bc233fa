# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Types and symbols from DWARF, with drgn's own reader.

If a file is missing or belongs to another kernel, drgn logs a warning, and later
every name is unknown. Here it is an error, at once.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import TypesError
from ._hints import GIVE_VMLINUX

if TYPE_CHECKING:
    from drgn import Program

__all__ = ("load_dwarf",)

#: of struct elf64_hdr
_E_TYPE = 16


def load_dwarf(prog: Program, paths: Sequence[str | os.PathLike[str]]) -> None:
    """
    Load debugging symbols, and register the variables that DWARF does not describe.

    :param paths: ``vmlinux``, and any modules; if empty, drgn searches its default
        places for the kernel's
    :raises TypesError: if there are none for the kernel, or if a file is missing,
        not an ELF file, or belongs to another kernel
    """
    from drgn import MissingDebugInfoError

    for path in paths:
        try:
            with open(path, "rb") as file:
                head = file.read(_E_TYPE + 2)
        except (OSError, ValueError) as e:
            reason = getattr(e, "strerror", None) or e
            raise TypesError(f"cannot read {os.fspath(path)}: {reason}") from e
        if head[:4] != b"\x7fELF":
            raise TypesError(f"{os.fspath(path)} is not an ELF file", GIVE_VMLINUX)
        if head[_E_TYPE:] in (b"\4\0", b"\0\4"):
            # ET_CORE, in either byte order. drgn passes over it, and loads nothing then.
            raise TypesError(
                f"{os.fspath(path)} is a dump: it has no debugging symbols", GIVE_VMLINUX
            )
    # The checks below say more than this error.
    with contextlib.suppress(MissingDebugInfoError):
        prog.load_debug_info([os.fspath(path) for path in paths], main=not paths)
    _check_main_module(prog, paths)
    _check_all_used(prog, paths)
    _supplement(prog)


def _check_main_module(prog: Program, paths: Sequence[str | os.PathLike[str]]) -> None:
    try:
        main = prog.main_module()
    except LookupError:
        if paths:
            # It passes over what it can't make sense of, and then looks for no kernel.
            names = ", ".join(os.fspath(path) for path in paths)
            raise TypesError(f"drgn can load nothing from {names}", GIVE_VMLINUX) from None
        raise TypesError("drgn finds no kernel in the target") from None
    if not main.wants_debug_file():
        return
    kernel = f"kernel {_release(prog)} ({_build_id(main.build_id)})"
    hint = GIVE_VMLINUX
    if not paths:
        raise TypesError(f"there are no debugging symbols for {kernel} where drgn searches", hint)
    files = ", ".join(f"{os.fspath(path)} ({_build_id(_file_build_id(path))})" for path in paths)
    if any(_file_build_id(path) == main.build_id is not None for path in paths):
        raise TypesError(f"{files} has no debugging symbols for {kernel}", hint)
    raise TypesError(f"{files} does not belong to {kernel}", hint)


def _check_all_used(prog: Program, paths: Sequence[str | os.PathLike[str]]) -> None:
    modules = list(prog.modules())
    used = {
        os.path.realpath(path)
        for module in modules
        for path in (module.debug_file_path, module.loaded_file_path)
        if path is not None
    }
    for path in paths:
        if os.path.realpath(path) in used:
            continue
        build_id = _file_build_id(path)
        # A second file of the same build does no harm.
        if build_id is None or all(module.build_id != build_id for module in modules):
            raise TypesError(
                f"{os.fspath(path)} ({_build_id(build_id)}) belongs to no part of kernel "
                f"{_release(prog)} that is loaded",
                "leave it out",
            )


def _supplement(prog: Program) -> None:
    # DWARF does not describe variables that assembly defines: phys_base.
    from .finders import FINDER_NAME, ObjectFinder
    from .globals import variables_of

    finder = ObjectFinder(None, variables_of(prog.platform))
    prog.register_object_finder(FINDER_NAME, finder, enable_index=-1)


def _release(prog: Program) -> str:
    try:
        release: str = prog["UTS_RELEASE"].string_().decode(errors="backslashreplace")
    except LookupError:
        return "of unknown release"
    return release


def _build_id(build_id: bytes | None) -> str:
    return f"build ID {build_id.hex()}" if build_id else "no build ID"


def _file_build_id(path: str | os.PathLike[str]) -> bytes | None:
    # An extra module takes the build ID of the file it gets.
    import drgn

    module = drgn.Program().extra_module(os.fspath(path), create=True)
    module.try_file(os.fspath(path))
    build_id: bytes | None = module.build_id
    return build_id
