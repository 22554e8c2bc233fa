# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Build the initramfs that a guest runs.

In: a :class:`~tests.guests.packages.Kernel`. Out: a cpio archive with the
kernel's modules, busybox, ndctl and daxctl, and an init that loads the modules
in order of dependency and then does what it reads from a virtio-serial port. The
programs are the host's own, or Debian's where the guest is of another architecture.

The port is the guest's only means of reporting: the console belongs to the
kernel, whose messages get in between anything that is printed there. A command
comes as a line of base64; its answer is a line of JSON with its exit status
and, in base64, what it printed.
"""

from __future__ import annotations

import lzma
import re
import shutil
import stat
import subprocess
from collections.abc import Mapping
from pathlib import Path

from .machines import MACHINES
from .packages import Kernel, get_user_space

__all__ = ("MODULES", "PORT_NAME", "build_initramfs")

#: name of the virtio-serial port
PORT_NAME = "vmemscope.guest.0"

#: modules to load into a guest of x86-64
MODULES = MACHINES["amd64"].modules

_INIT = rf"""#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin:/usr/bin
mkdir -p /proc /sys /dev /run /tmp
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev

failed=
while read -r module; do
	insmod "/modules/$module.ko" || failed="$failed $module"
done < /modules/order

port=
for directory in /sys/class/virtio-ports/*; do
	if [ "$(cat "$directory/name")" = "{PORT_NAME}" ]; then
		port=/dev/${{directory##*/}}
	fi
done
if [ -z "$port" ]; then
	echo "init: there is no virtio port {PORT_NAME}"
	exit 1
fi
exec 3<>"$port"

printf '{{"release": "%s", "failed": "%s"}}\n' "$(uname -r)" "$failed" >&3
while IFS= read -r line <&3; do
	(eval "$(printf %s "$line" | base64 -d)") </dev/null >/tmp/output 2>&1
	printf '{{"status": %d, "output": "%s"}}\n' $? "$(base64 -w 0 /tmp/output)" >&3
done
"""


def _decompress(path: Path) -> bytes:
    if path.suffix == ".xz":
        return lzma.decompress(path.read_bytes())
    if path.suffix == ".zst":
        return subprocess.run(["zstd", "-dcq", path], check=True, capture_output=True).stdout
    return path.read_bytes()


def _load_modules(directory: Path, names: tuple[str, ...]) -> dict[str, bytes]:
    # Modules by name, each behind those it depends on.
    def spelt(name: str) -> str:
        # Files and dependencies use dashes and underscores as they please.
        return name.replace("-", "_")

    paths = {spelt(path.name.partition(".ko")[0]): path for path in directory.rglob("*.ko*")}
    builtin = {
        spelt(Path(line).stem) for line in (directory / "modules.builtin").read_text().split()
    }
    modules: dict[str, bytes] = {}

    def load(name: str) -> None:
        if name in modules or name in builtin:
            return
        if name not in paths:
            raise FileNotFoundError(f"{directory.name} has no module {name}")
        content = _decompress(paths[name])
        # Strings of the .modinfo section: "depends=libnvdimm,nd-btt"
        depends = re.search(rb"\0depends=([^\0]*)\0", content)
        for dependency in filter(None, depends[1].decode().split(",") if depends else ()):
            load(spelt(dependency))
        modules[name] = content

    for name in names:
        load(spelt(name))
    return modules


def _which(name: str) -> Path:
    path = shutil.which(name)
    if path is None:
        raise FileNotFoundError(f"there is no {name} on the host")
    return Path(path)


def _program(name: str) -> dict[str, bytes]:
    # A program and the libraries that it is linked with, by path.
    path = _which(name)
    output = subprocess.run(["ldd", path], check=True, capture_output=True, text=True).stdout
    libraries = re.findall(r"(/\S+) \(0x", output)
    files = {library: Path(library).read_bytes() for library in libraries}
    return {f"/usr/bin/{name}": path.read_bytes(), **files}


def _host_programs() -> dict[str, bytes]:
    return {
        **_program("ndctl"),
        **_program("daxctl"),
        "/bin/busybox": _which("busybox").read_bytes(),
    }


def _foreign_programs(arch: str) -> dict[str, bytes]:
    # The packages' libraries, all of them: the host's ldd can't read their programs.
    root = get_user_space(arch)
    paths = [root / "usr/bin" / name for name in ("ndctl", "daxctl", "busybox")]
    for pattern in ("usr/lib*/*.so*", "usr/lib/*-linux-gnu/*.so*"):
        # By the name that programs look for, which is a link to the one with the version.
        found = sorted(root.glob(pattern))
        versioned = {path.parent / path.readlink() for path in found if path.is_symlink()}
        paths += [path for path in found if path not in versioned]
    programs = {f"/{path.relative_to(root)}": path.read_bytes() for path in paths}
    programs["/bin/busybox"] = programs.pop("/usr/bin/busybox")
    return programs


class _Cpio:
    # An archive in the "newc" format, see Documentation/driver-api/early-userspace/
    # buffer-format.rst in the kernel tree.

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._names: set[str] = set()

    def add(self, name: str, mode: int, content: bytes = b"") -> None:
        name = name.lstrip("/")
        parent = str(Path(name).parent)
        if parent != "." and parent not in self._names:
            self.add(parent, stat.S_IFDIR | 0o755)
        self._names.add(name)
        encoded = name.encode() + b"\0"
        # inode, mode, uid, gid, nlink, mtime, filesize, device and rdevice
        # numbers, namesize, check
        numbers = (len(self._names), mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(encoded), 0)
        header = b"070701" + b"".join(b"%08x" % number for number in numbers) + encoded
        for part in header, content:
            self._parts += [part, bytes(-len(part) % 4)]

    def close(self) -> bytes:
        self.add("TRAILER!!!", 0)
        return b"".join(self._parts)


def build_initramfs(
    kernel: Kernel,
    path: Path,
    modules: tuple[str, ...] = MODULES,
    files: Mapping[str, bytes] | None = None,
) -> None:
    """
    Build the initramfs for a kernel.

    :param path: file to write
    :param modules: names of modules to load, in this order where dependencies allow
    :param files: further files by path
    :raises FileNotFoundError: if a module or a program is missing
    """
    loaded = _load_modules(kernel.modules, modules)
    archive = _Cpio()
    archive.add("/init", stat.S_IFREG | 0o755, _INIT.encode())
    if kernel.arch == "amd64":
        programs = _host_programs()
    else:
        programs = _foreign_programs(kernel.arch)
        # where programs expect the dynamic linker
        for name in ("lib", "lib64"):
            archive.add(name, stat.S_IFLNK | 0o777, f"usr/{name}".encode())
    for file, content in {**programs, **(files or {})}.items():
        archive.add(file, stat.S_IFREG | 0o755, content)
    for name, content in loaded.items():
        archive.add(f"/modules/{name}.ko", stat.S_IFREG | 0o644, content)
    order = "".join(f"{name}\n" for name in loaded)
    archive.add("/modules/order", stat.S_IFREG | 0o644, order.encode())
    path.write_bytes(archive.close())
