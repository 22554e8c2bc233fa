# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Types and symbols of a kernel, for drgn.

:func:`attach_types` gives a :class:`drgn.Program` the types, variables, constants
and symbols of its kernel, from the kernel's own memory (BTF and kallsyms) or from
debugging symbols (DWARF). Then ``prog["pgmap_array"]``, ``prog.type("struct page")`` and
drgn's helpers work. :func:`check_needs` checks that the program has every name that
an audit relies on.

:mod:`.btf`, :mod:`.btf_sections`, :mod:`.kallsyms` and :mod:`.symbol_text` decode.
:mod:`.finders` and :mod:`.symbols` answer drgn from these. :mod:`.globals` is the table
of the C types of variables. :mod:`.modules` finds the BTF of modules. :mod:`.sense`
handles types that make no sense.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING

from ..errors import TypesError
from ._hints import GIVE_VMLINUX
from .needs import Need, NeedKind, Shape, check_needs
from .sense import sensible_types

if TYPE_CHECKING:
    from drgn import Program

    from .symbols import SymbolTable

__all__ = (
    "Need",
    "NeedKind",
    "Shape",
    "TypesSource",
    "attach_types",
    "check_needs",
    "has_types",
    "sensible_types",
)


class TypesSource(str, Enum):
    """The source of types and symbols."""

    AUTO = "auto"
    BTF = "btf"
    DWARF = "dwarf"

    __str__ = str.__str__


def has_types(prog: Program) -> bool:
    """Return whether a program has types of its kernel already."""
    try:
        prog.type("struct page")
    except LookupError:
        return False
    return True


_SYS_BTF = "/sys/kernel/btf/vmlinux"
_PROC_KALLSYMS = "/proc/kallsyms"

# The kernel takes no more than 16 MB of BTF (BTF_MAX_SIZE).
_MAX_BTF_SIZE = 1 << 24
# 7.2 has 200,000 symbols in 12 MB; with all modules, /proc/kallsyms has 20.
_MAX_SYSTEM_MAP_SIZE = 1 << 27


def attach_types(
    prog: Program,
    source: TypesSource | str = TypesSource.AUTO,
    symbol_files: Sequence[str | os.PathLike[str]] = (),
    *,
    system_map: str | os.PathLike[str] | None = None,
    btf: bytes | None = None,
) -> TypesSource:
    """
    Give a program the types and symbols of its kernel.

    Call it once, before the first drgn helper: helpers cache what they find, so a
    second source would be mixed with the first.

    :param source: ``auto`` takes DWARF if there are *symbol_files*; else BTF;
        else, if the kernel has no BTF, DWARF from the places that drgn searches
    :param symbol_files: ``vmlinux``, and any modules, with DWARF
    :param system_map: the kernel's ``System.map``, or its saved ``/proc/kallsyms``: used
        with BTF instead of the kernel's own symbols, which VMCOREINFO locates since 6.0
    :param btf: BTF of vmlinux, used instead of the kernel's own
    :return: ``TypesSource.BTF`` or ``TypesSource.DWARF``
    :raises TypesError: if *source* has no types
    """
    source = TypesSource(source)
    if source is TypesSource.DWARF or (source is TypesSource.AUTO and symbol_files):
        _attach_dwarf(prog, symbol_files)
        return TypesSource.DWARF
    try:
        _attach_btf(prog, system_map, btf)
    except TypesError as no_btf:
        if source is TypesSource.BTF:
            raise
        try:
            _attach_dwarf(prog, ())
        except TypesError:
            # Report why there is no BTF: BTF needs nothing from the user.
            raise no_btf from None
        return TypesSource.DWARF
    return TypesSource.BTF


def _attach_dwarf(prog: Program, symbol_files: Sequence[str | os.PathLike[str]]) -> None:
    from .dwarf import load_dwarf

    load_dwarf(prog, symbol_files)


def _attach_btf(
    prog: Program, system_map: str | os.PathLike[str] | None, data: bytes | None
) -> None:
    # Register nothing before everything was read: an error leaves the program as it was.
    from ..vmcoreinfo import parse
    from .btf import Btf
    from .finders import FINDER_NAME, register_types
    from .modules import module_types
    from .symbols import symbol_finder

    try:
        vmcoreinfo = parse(prog["VMCOREINFO"].string_())
    except LookupError:
        raise TypesError("the target is not a Linux kernel, or has no VMCOREINFO") from None
    if system_map is None:
        symbols = _symbols(prog, vmcoreinfo)
    else:
        symbols = _system_map(system_map, vmcoreinfo)
    blob = Btf(_read_btf(prog, symbols, vmcoreinfo) if data is None else data)
    prog.register_symbol_finder(FINDER_NAME, symbol_finder(symbols), enable_index=0)
    register_types(prog, blob, partial(module_types, prog=prog))


def _is_running_kernel(prog: Program) -> bool:
    from drgn import ProgramFlags

    running = ProgramFlags.IS_LIVE | ProgramFlags.IS_LOCAL
    return bool(prog.flags & running == running)


def _symbols(prog: Program, vmcoreinfo: Mapping[str, str]) -> SymbolTable:
    from .kallsyms import KallsymsImage
    from .symbol_text import KallsymsText

    try:
        return KallsymsImage(prog, vmcoreinfo)
    except TypesError:
        if not _is_running_kernel(prog):
            raise
        try:
            with open(_PROC_KALLSYMS, "rb") as file:
                text = file.read()
        except OSError:
            text = b""
        if not text:
            raise
        return KallsymsText(text)


def _system_map(path: str | os.PathLike[str], vmcoreinfo: Mapping[str, str]) -> SymbolTable:
    from .symbol_text import SystemMap

    try:
        with open(path, "rb") as file:
            text = file.read(_MAX_SYSTEM_MAP_SIZE)
    except (OSError, ValueError) as e:
        reason = getattr(e, "strerror", None) or e
        raise TypesError(f"cannot read {os.fspath(path)}: {reason}") from e
    return SystemMap(text, vmcoreinfo, os.fspath(path))


def _read_btf(prog: Program, symbols: SymbolTable, vmcoreinfo: Mapping[str, str]) -> bytes:
    if _is_running_kernel(prog):
        # World-readable, and a single read.
        try:
            with open(_SYS_BTF, "rb") as file:
                return file.read(_MAX_BTF_SIZE)
        except OSError:
            pass
    from ..target.reads import READ_ERRORS

    # include/asm-generic/vmlinux.lds.h
    starts, stops = symbols.named("__start_BTF"), symbols.named("__stop_BTF")
    hint = GIVE_VMLINUX
    if not starts or not stops:
        release = vmcoreinfo.get("OSRELEASE", "of unknown release")
        raise TypesError(
            f"kernel {release} has no BTF (CONFIG_DEBUG_INFO_BTF is off)",
            hint,
        )
    start, stop = starts[0].address, stops[0].address
    if not start < stop <= start + _MAX_BTF_SIZE:
        raise TypesError(f"the kernel's BTF can't be from 0x{start:x} to 0x{stop:x}", hint)
    try:
        data: bytes = prog.read(start, stop - start)
    except READ_ERRORS as e:
        raise TypesError(f"cannot read the kernel's BTF at 0x{start:x}: {e}", hint) from e
    return data
