# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a file is that is no kernel dump, by its first bytes, and what to do with it."""

from __future__ import annotations

import os
import stat
import struct

from ..errors import TargetError

__all__ = ("read_head", "refusal")

#: bytes that are looked at: as many as the header of a Linux kernel image needs
_HEAD = 1024
_ELF = b"\x7fELF"
_ET_CORE = 4
_EXECUTABLES = {1: "an object file or kernel module", 2: "an executable", 3: "a shared object"}

_DECOMPRESS = "decompress it first: {}"
_QEMU_DUMP = (
    "make a dump of the guest instead, with 'virsh dump --memory-only' or QMP's dump-guest-memory"
)
_MAKE_DUMP = "a dump needs the headers that makedumpfile, kdump or QEMU's dump-guest-memory write"

#: first bytes -> what the file is, and what to do
_KINDS: tuple[tuple[bytes, str, str], ...] = (
    (b"\x1f\x8b", "compressed with gzip", _DECOMPRESS.format("gzip -dk {path}")),
    (b"\xfd7zXZ\0", "compressed with xz", _DECOMPRESS.format("xz -dk {path}")),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", _DECOMPRESS.format("zstd -d {path}")),
    (b"BZh", "compressed with bzip2", _DECOMPRESS.format("bzip2 -dk {path}")),
    (b"\x04\x22\x4d\x18", "compressed with lz4", _DECOMPRESS.format("lz4 -d {path}")),
    (b"\x02\x21\x4c\x18", "compressed with lz4", _DECOMPRESS.format("lz4 -d {path}")),
    (b"\x89LZO\0\r\n\x1a\n", "compressed with lzop", _DECOMPRESS.format("lzop -d {path}")),
    (b"LZIP", "compressed with lzip", _DECOMPRESS.format("lzip -dk {path}")),
    (b"\x5d\0\0", "compressed with lzma", _DECOMPRESS.format("unlzma -k {path}")),
    (b"PK\3\4", "a zip archive", "unpack it first: unzip {path}"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it first: 7z x {path}"),
    (b"EMiL", "a LiME memory image", _MAKE_DUMP),
    (b"AVML", "an AVML memory image", _MAKE_DUMP),
    (b"LibvirtQemudSave", "a guest saved by libvirt", _QEMU_DUMP),
    (b"LibvirtQemudPart", "a guest that libvirt did not finish saving", _QEMU_DUMP),
    (b"QEVM", "a migration stream of QEMU", _QEMU_DUMP),
    (b"QFI\xfb", "a qcow2 disk image", _QEMU_DUMP),
    (b"KDMV", "a VMDK disk image", "convert the guest's snapshot with vmss2core instead"),
    (b"vhdxfile", "a VHDX disk image", _MAKE_DUMP),
    (b"conectix", "a VHD disk image", _MAKE_DUMP),
    *(
        (magic, "a VMware snapshot", "convert it first: vmss2core -N6 {path}")
        for magic in (
            b"\xd0\xbe\xd2\xbe",
            b"\xd1\xba\xd1\xba",
            b"\xd2\xbe\xd2\xbe",
            b"\xd3\xbe\xd3\xbe",
        )
    ),
    (b"LinuxGuestRecord", "a saved Xen guest", "make a dump of it with 'xl dump-core' instead"),
    (b"LibxlFmt", "a saved Xen guest", "make a dump of it with 'xl dump-core' instead"),
    (b"Xen\0saved\0domain", "a saved Xen guest", "make a dump of it with 'xl dump-core' instead"),
    (b"PAGEDUMP", "a Windows dump", _MAKE_DUMP),
    # s390-tools: include/dump/s390_dump.h, DF_S390_MAGIC and DF_S390_MAGIC_EXT
    *(
        (
            bytes.fromhex(magic),
            "a stand-alone dump of s390",
            "convert it first: zgetdump -f elf {path} > NEWFILE",
        )
        for magic in ("a8190173618f23fd", "a8190173618f23fe")
    ),
    (b"PAGEDU64", "a Windows dump", _MAKE_DUMP),
    (b"OSRELEASE=", "a VMCOREINFO note", "give it with --vmcoreinfo, and the dump with -c"),
    (b"{", "a JSON document", "compare it with 'vmemscope diff', or give a vmcore"),
)


def read_head(path: str) -> bytes:
    """
    Read the first bytes of a dump.

    :raises TargetError: if it can't be opened, or is no regular file or block device
    """
    try:
        # A FIFO without a writer would be waited for.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            mode = os.fstat(fd).st_mode
            if stat.S_ISDIR(mode):
                raise TargetError(f"{path} is a directory", "give the vmcore in it")
            if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
                raise TargetError(
                    f"{path} is not a regular file",
                    "a dump is read in no order, so a pipe or device will not do: save it first",
                )
            return os.read(fd, _HEAD)
        finally:
            os.close(fd)
    except (OSError, ValueError) as e:
        reason = e.strerror if isinstance(e, OSError) else str(e)
        raise TargetError(f"cannot open {path}: {reason}") from e


def refusal(path: str, head: bytes) -> TargetError:
    """
    Return the error for a file that is no kernel dump.

    :param head: its first bytes, as :func:`read_head` returns them
    """
    dump = "give an ELF or kdump-compressed vmcore with -c"
    if not head:
        return TargetError(f"{path} is not a kernel dump: it is empty", "was the disk full?")
    if head.startswith(_ELF) and len(head) > 18:
        order = ">" if head[5] == 2 else "<"
        kind = _EXECUTABLES.get(struct.unpack_from(f"{order}H", head, 16)[0], "no core file")
        hint = f"{dump}, and a vmlinux or debug file with -s"
        return TargetError(f"{path} is not a kernel dump: it is {kind} (ELF)", hint)
    for magic, what, hint in _KINDS:
        if head.startswith(magic):
            return TargetError(f"{path} is not a kernel dump: it is {what}", hint.format(path=path))
    if head[257:262] == b"ustar":
        hint = f"unpack it first: tar xf {path}"
        return TargetError(f"{path} is not a kernel dump: it is a tar archive", hint)
    if head[0x202:0x206] == b"HdrS":
        return TargetError(f"{path} is not a kernel dump: it is a kernel image (bzImage)", dump)
    if head.strip(b"\0") == b"":
        return TargetError(
            f"{path} is not a kernel dump: it starts with zeros",
            "a raw image of memory has no headers that say what is where: " + _MAKE_DUMP,
        )
    return TargetError(f"{path} is not a kernel dump", f"{dump}; a raw image of memory will not do")


def is_core(head: bytes) -> bool:
    """Return whether the first bytes of an ELF file are those of a core file."""
    if len(head) < 18 or head[5] not in (1, 2):
        # Cut off or damaged, which whoever reads its headers says.
        return True
    kind = struct.unpack_from(">H" if head[5] == 2 else "<H", head, 16)[0]
    return bool(kind == _ET_CORE or kind not in _EXECUTABLES)
