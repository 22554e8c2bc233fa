# SPDX-License-Identifier: LGPL-2.1-or-later
"""
A real kdump: a guest crashes, and a second kernel saves its memory.

In: a kernel. Out: a :class:`CrashingGuest`, whose :meth:`~CrashingGuest.crash` loads
the same kernel into the memory set aside by ``crashkernel=``, with an initramfs
that copies ``/proc/vmcore`` to a disk, and crashes the first one. Before the copy, the
second kernel may run a command on ``/proc/vmcore``. No kexec-tools: the system call is made
by the host's Python, which both kernels run from the host's files.
"""

from __future__ import annotations

import shlex
import stat
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from .devices import FIVE_DEVICES, MIB, Device
from .guest import MOUNT_HOST, Guest
from .initramfs import _Cpio, _load_modules, _which
from .packages import Kernel

__all__ = ("CrashingGuest",)

#: bytes of RAM: the second kernel copies what is not its own page by page, which
#: takes long without KVM. Wherever KASLR puts the kernel, in the middle, too, what is
#: reserved must have room on one side of it.
_MEMORY = 896 * MIB
#: of these, for the second kernel
_RESERVED = 320 * MIB
#: what the copy says when it is done, at the end of the disk
_DONE = b"copied"
_SECTOR = 512
#: bytes before it for what the second kernel's command printed, with a length before that
_OUTPUT = 2 * MIB
#: seconds from the crash to the end of the copy; takes 40 on an idle machine
_TIMEOUT = 600

_INIT = rf"""#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mkdir -p /proc /sys /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
while read -r module; do
	insmod "/modules/$module.ko"
done < /modules/order
sectors=$(cat /sys/block/vda/size)
{MOUNT_HOST}
cp /command /host/run/command
TMPDIR=/run chroot /host /bin/sh /run/command >/output 2>&1
(printf '%d %d\n' $? "$(stat -c %s /output)"; cat /output) >/printed
dd if=/printed of=/dev/vda bs={_SECTOR} seek=$((sectors - 1 - {_OUTPUT // _SECTOR})) conv=sync
if dd if=/proc/vmcore of=/dev/vda bs=1M; then
	printf '{_DONE.decode()} %d\n' "$(stat -c %s /proc/vmcore)" |
		dd of=/dev/vda bs={_SECTOR} seek=$((sectors - 1)) conv=sync
fi
sync
poweroff -f
"""

# kexec_file_load(2), flags KEXEC_FILE_ON_CRASH
_LOAD = """
import ctypes, os, sys
kernel, initramfs = (os.open(path, os.O_RDONLY) for path in sys.argv[1:3])
command_line = sys.argv[3].encode() + b"\\0"
libc = ctypes.CDLL(None, use_errno=True)
if libc.syscall(320, kernel, initramfs, len(command_line), command_line, 2):
    sys.exit("kexec_file_load: " + os.strerror(ctypes.get_errno()))
"""


class CrashingGuest(Guest):
    """
    A guest that can be crashed, once.

    :param directory: for files of any size; belongs to the caller
    """

    def __init__(
        self, kernel: Kernel, directory: Path, devices: Sequence[Device] = FIVE_DEVICES
    ) -> None:
        self._files = directory
        disk = self._disk
        # RAM, the headers before it, the mark after it.
        disk.parent.mkdir(exist_ok=True)
        with disk.open("wb") as file:
            file.truncate(_MEMORY + MIB + _OUTPUT)
        super().__init__(
            kernel,
            devices,
            memory=_MEMORY,
            parameters=[f"crashkernel={_RESERVED >> 20}M"],
            qemu_arguments=["-drive", f"file={disk},if=virtio,format=raw,cache=unsafe"],
            host_files=True,
        )

    @property
    def _disk(self) -> Path:
        return self._files / "disk"

    def crash(self, path: Path, command: str = "true") -> tuple[int, str]:
        """
        Crash the kernel and wait for the dump of it; the guest is gone afterwards.

        :param path: where to put the dump, on the file system of the directory
        :param command: for the host's shell, run by the second kernel on the host's files
        :return: its exit status, and what it printed
        :raises GuestError: if the second kernel does not save the dump
        """
        with tempfile.TemporaryDirectory(prefix="capture-") as directory:
            initramfs = Path(directory) / "initramfs"
            _build_capture(self.kernel, initramfs, command)
            parameters = "console=ttyS0 nr_cpus=1 reset_devices panic=-1"
            words = (
                sys.executable,
                "-c",
                _LOAD,
                str(self.kernel.image),
                str(initramfs),
                parameters,
            )
            self.run_on_host_files(shlex.join(words), timeout=_TIMEOUT)
        self.run("(sleep 1; echo c > /proc/sysrq-trigger) &")
        assert self._qemu is not None
        try:
            self._qemu.wait(_TIMEOUT)
        except subprocess.TimeoutExpired as error:
            raise self._lost(f"no dump within {_TIMEOUT} s of the crash") from error
        with self._disk.open("r+b") as file:
            file.seek(-_SECTOR - _OUTPUT, 2)
            status, length = map(int, file.readline().split())
            output = file.read(length).decode()
            file.seek(-_SECTOR, 2)
            done, _, size = file.read(_SECTOR).rstrip(b"\0").partition(b" ")
            if done != _DONE:
                raise self._lost("the second kernel did not save the dump")
            file.truncate(int(size))
        self._disk.rename(path)
        return status, output


def _build_capture(kernel: Kernel, path: Path, command: str) -> None:
    modules = _load_modules(kernel.modules, ("virtio_pci", "virtio_blk", "9p", "9pnet_virtio"))
    archive = _Cpio()
    archive.add("/init", stat.S_IFREG | 0o755, _INIT.encode())
    archive.add("/bin/busybox", stat.S_IFREG | 0o755, _which("busybox").read_bytes())
    for name, content in modules.items():
        archive.add(f"/modules/{name}.ko", stat.S_IFREG | 0o644, content)
    order = "".join(f"{name}\n" for name in modules)
    archive.add("/command", stat.S_IFREG | 0o644, command.encode())
    archive.add("/modules/order", stat.S_IFREG | 0o644, order.encode())
    path.write_bytes(archive.close())
