# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The dumps that makedumpfile of other architectures makes of a guest's memory.

In: a running guest and its ELF dump, which QEMU wrote. Out: that memory in makedumpfile's
formats, and which of them makedumpfile 1.7.8 makes right: it reads the memory map with a
walk of page tables of its own, which some kernels are beyond.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from .makedumpfile import makedumpfile
from .mmu import byte_order
from .proc_vmcore import with_kernel_addresses
from .targets import GuestTargets

__all__ = ("FORMATS", "FORMATS_FULL", "Format", "is_refused", "is_right", "made")


class Format(NamedTuple):
    """What makedumpfile is asked for."""

    #: bits of what is left out: 1 pages of zeros, which a kdump file has nevertheless,
    #: 2 and 4 page cache, 8 pages of processes, 16 free pages
    level: int
    options: tuple[str, ...]
    #: whether the dump has a VMCOREINFO: makedumpfile needs none up to level 1
    vmcoreinfo: bool = True


FORMATS = {
    "zstd-1": Format(1, ("-z",)),
    "zlib-31": Format(31, ("-c",)),
    "flattened-31": Format(31, ("-F", "-l")),
}
FORMATS_FULL = {
    **FORMATS,
    "zlib-0": Format(0, ("-c",)),
    "lzo-23": Format(23, ("-l",)),
    "stored-31": Format(31, ()),
    "elf-31": Format(31, ("-E",)),
    "lzo-1-without-vmcoreinfo": Format(1, ("-l",), vmcoreinfo=False),
}


def is_refused(flavour: str, format: Format) -> bool:
    """
    Return whether makedumpfile 1.7.8 refuses the kernel.

    It has no page tables of arm64 for 52 bits of virtual addresses (``arch/arm64.c:
    calculate_plat_config()``), and must be told how many there are.
    """
    return flavour == "arm64-16k" or (flavour == "arm64" and not format.vmcoreinfo)


def is_right(flavour: str, format: Format) -> bool:
    """
    Return whether makedumpfile 1.7.8 finds the memory map of a kernel.

    Without it, it leaves out any page, page tables too. ``arch/ppc64.c`` reads a page of a
    top-level table of 64 KiB, whatever the address, and pages are left out as damaged at each
    level; ``arch/riscv64.c`` takes a large leaf for a base page (fixed in its repository in May
    2026), which matters from level 2 on.
    """
    if not format.vmcoreinfo:
        return True
    return not (flavour == "powerpc64le" or (flavour == "riscv64" and format.level > 1))


def _vmcoreinfo(targets: GuestTargets) -> bytes:
    """
    Return the guest's VMCOREINFO, as makedumpfile takes it.

    All of Debian's kernels for arm64 are built for 52 bits of addresses (:func:`is_refused`). On
    a CPU with 48, their page tables are those of a kernel for 48, and so the note says that.
    """
    text = targets.guest.vmcoreinfo()
    if (targets.guest.kernel.flavour, targets.guest.cpu) == ("arm64", "cortex-a57"):
        base = -(1 << 48) - targets.witness["direct_map"]
        start = f"NUMBER(PHYS_OFFSET)={base % (1 << 64):#x}".encode()
        lines = [
            b"NUMBER(VA_BITS)=48"
            if line.startswith(b"NUMBER(VA_BITS)=")
            else start
            if line.startswith(b"NUMBER(PHYS_OFFSET)=")
            else line
            for line in text.split(b"\n")
        ]
        text = b"\n".join(lines)
    return text


def made(targets: GuestTargets, format: Format, path: Path) -> Path:
    """
    Have makedumpfile write a dump.

    :param path: file to write
    :raises MakedumpfileError: if makedumpfile refuses
    """
    source = path.with_suffix(".proc-vmcore")
    with_kernel_addresses(
        targets.vmcore,
        source,
        targets.witness["direct_map"],
        order=byte_order(targets.guest),
        vmcoreinfo=_vmcoreinfo(targets) if format.vmcoreinfo else b"",
    )
    try:
        options = (*format.options, "-d", str(format.level))
        return makedumpfile(source, path, *options, arch=targets.guest.kernel.arch)
    finally:
        source.unlink()
