# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Boot a kernel under QEMU and talk to it.

In: a kernel and devices. Out: a :class:`Guest`, on which commands can be run
and of which dumps can be made, with the devices as the kernel found them.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import re
import shlex
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from qemu.qmp import ExecuteError, QMPClient, QMPError

from . import cxl
from .cxl import Cxl
from .devices import FIVE_DEVICES, GIB, DaxRegion, Device, DeviceTreePmem, Placed
from .hosttools import ensure_host_packages
from .initramfs import PORT_NAME, build_initramfs
from .kernel_module import build_module
from .machines import MACHINES
from .packages import Kernel, get_python, get_qemu

__all__ = (
    "MOUNT_HOST",
    "Cpu",
    "DumpFormat",
    "Guest",
    "GuestError",
    "LostGuestError",
    "Monitor",
    "Report",
    "ram_end",
)

#: of x86-64: ``max`` has 5-level paging, ``qemu64`` has not
Cpu = Literal["max", "qemu64"]
#: runs commands of QEMU's human monitor and returns what each printed
Monitor = Callable[[Sequence[str]], list[str]]
DumpFormat = Literal["elf", "kdump-zlib", "kdump-lzo", "kdump-snappy"]

#: seconds from the start of QEMU until the guest says hello; takes 10 on an
#: idle machine without KVM
_BOOT_TIMEOUT = 240
_COMMAND_TIMEOUT = 60
_DUMP_TIMEOUT = 600
#: lines of the console that go into an error
_CONSOLE_LINES = 150
#: mounts the host's files on /host, for a chroot
MOUNT_HOST = """
mkdir -p /host
mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=262144,cache=loose host /host
for directory in proc sys dev; do
	mount -o bind /$directory /host/$directory
done
mount -t securityfs securityfs /host/sys/kernel/security
mount -t tmpfs -o mode=1777 tmpfs /host/run
"""
#: where QEMU's q35 splits RAM: from this size on, only the first 2 GiB of it
#: are below 4 GiB
_Q35_SPLIT = 0xB0000000


class GuestError(Exception):
    """The guest, or QEMU, could not do what was asked of it."""


class LostGuestError(GuestError):
    """The guest is gone or does not answer; the message holds the end of its console."""


@dataclass(frozen=True)
class Report:
    """What the guest itself says about its device memory."""

    #: contents of ``/proc/iomem``
    iomem: str
    #: ``ndctl list --namespaces``
    namespaces: list[dict[str, Any]]
    #: ``daxctl list``
    dax: list[dict[str, Any]]
    #: the counters of ``/proc/vmstat`` that begin with nr_memmap (6.11 and
    #: later), in pages
    memmap: dict[str, int]


def ram_end(memory: int) -> int:
    """
    Return the physical address behind the last byte of an x86-64 guest's RAM.

    :param memory: size of RAM in bytes
    """
    return memory if memory < _Q35_SPLIT else memory + 2 * GIB


class Guest:
    """
    A virtual machine, from ``with`` to the end of its block.

    On entry, the kernel is booted and a namespace is made on every device.
    There are two QMP sockets, because each serves one client at a time: the
    harness connects to its own as needed, :attr:`qmp` is left to the tool under
    test.

    :param kernel: what to boot
    :param devices: what to put in; of one size only with different addresses
    :param cpu: QEMU's model; what the kernel's machine has by default if None
    :param memory: size of RAM in bytes, without what is carved out of QEMU's for devices
    :param parameters: further parameters for the kernel
    :param qemu_arguments: further options for QEMU
    :param modules: modules to load; those of the machine if None
    :param built: modules to build from the sources beside this file, and to put into
        ``/modules``
    :param host_files: let the guest read the host's files, for
        :meth:`run_on_host_files`
    :param vmcoreinfo: have a ``-device vmcoreinfo`` where the machine can
    """

    def __init__(
        self,
        kernel: Kernel,
        devices: Sequence[Device] = FIVE_DEVICES,
        *,
        cpu: str | None = None,
        memory: int = GIB,
        parameters: Sequence[str] = (),
        qemu_arguments: Sequence[str] = (),
        modules: tuple[str, ...] | None = None,
        built: Sequence[str] = (),
        host_files: bool = False,
        vmcoreinfo: bool = True,
    ) -> None:
        if any(one.looks_like(other) for one, other in itertools.combinations(devices, 2)):
            raise ValueError("devices of one size differ in their addresses only: give them")
        self.kernel = kernel
        self.machine = MACHINES[kernel.arch]
        self.cpu = cpu or self.machine.cpus.get(kernel.flavour, self.machine.cpu)
        self.memory = memory
        #: what ``uname -r`` printed
        self.release = ""
        #: the devices, in the order in which they were asked for
        self.devices: tuple[Placed, ...] = ()
        self._wanted = tuple(devices)
        self._cxl = [one for one in devices if isinstance(one, Cxl)]
        self._parameters = tuple(parameters)
        self._qemu_arguments = tuple(qemu_arguments)
        self._modules = self.machine.modules if modules is None else modules
        self._built = list(built)
        if any(isinstance(device, DaxRegion) for device in devices):
            self._built.append("dax_region")
        if self._cxl:
            self.cpu += cxl.CPU
            self._modules += cxl.MODULES
        self._host_files = host_files
        self._host_mounted = False
        self._vmcoreinfo = vmcoreinfo and self.machine.vmcoreinfo

    def __enter__(self) -> Guest:
        ensure_host_packages(self.kernel.arch)
        self._temporary = tempfile.TemporaryDirectory(prefix="vmemscope-guest-")
        self._directory = Path(self._temporary.name)
        self._qemu: subprocess.Popen[bytes] | None = None
        self._port: socket.socket | None = None
        try:
            self._boot()
            self.devices = tuple(self._place(self._wanted))
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop the guest and remove its files."""
        if self._port is not None:
            self._port.close()
        if self._qemu is not None:
            # There is nothing in it to save.
            self._qemu.kill()
            self._qemu.wait()
        self._temporary.cleanup()

    def wait(self) -> None:
        """Wait until QEMU exits."""
        assert self._qemu is not None
        self._qemu.wait()

    @property
    def qmp(self) -> str:
        """Path of the QMP socket for the tool under test."""
        return str(self._directory / "qmp")

    def console(self) -> str:
        """Return what the kernel has printed on its console."""
        return (self._directory / "console").read_text(errors="replace")

    def run(
        self, command: str, *, timeout: float = _COMMAND_TIMEOUT, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """
        Run a shell command in the guest, as root.

        :param command: for busybox's shell; may be a whole script
        :param timeout: seconds
        :param check: raise an error if its exit status is not 0
        :return: with the output of both kinds in ``stdout``
        :raises GuestError: if it fails
        :raises LostGuestError: if no answer comes
        """
        assert self._port is not None
        self._port.settimeout(timeout)
        try:
            self._port.sendall(base64.b64encode(command.encode()) + b"\n")
            answer = self._receive()
        except TimeoutError:
            raise self._lost(f"the guest gave no answer within {timeout} s to: {command}") from None
        except OSError as error:
            raise self._lost(f"lost the guest ({error}) at: {command}") from error
        output = base64.b64decode(answer["output"]).decode(errors="replace")
        result = subprocess.CompletedProcess(command, answer["status"], output)
        if check and result.returncode:
            raise GuestError(f"exit status {result.returncode} in the guest: {command}\n{output}")
        return result

    def run_on_host_files(
        self,
        command: str,
        *,
        user: int = 0,
        timeout: float = _COMMAND_TIMEOUT,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """
        Run a shell command in the guest, with the host's programs and libraries.

        What it sees is the host's root directory, which can't be written to, but
        the guest's own ``/proc``, ``/sys`` and ``/dev``, and an empty ``/run`` that
        temporary files go to; the host's ``/tmp`` may well be where the tests are.

        :param command: for the host's ``/bin/sh``
        :param user: number of the user, and of the group, to run it as. Any but
            root can read all files, wherever on the host the programs are, and has
            no other capability.
        :return: as :meth:`run` does
        """
        if not self._host_files:
            raise ValueError("the guest was not made with host_files=True")
        if not self._host_mounted:
            self.run(MOUNT_HOST)
            self._host_mounted = True
        # By its path, or busybox would take its own setpriv.
        words = ["chroot", "/host", "/usr/bin/setpriv"]
        if user:
            words += [f"--reuid={user}", f"--regid={user}", "--clear-groups"]
            words += ["--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search"]
        words += ["/bin/sh", "-c", command]
        return self.run("TMPDIR=/run " + shlex.join(words), timeout=timeout, check=check)

    def run_python(
        self, command: str, *, timeout: float = _COMMAND_TIMEOUT
    ) -> subprocess.CompletedProcess[str]:
        """
        Run a shell command in a guest of another architecture, with Debian's Python for it.

        What it sees is what :func:`.packages.get_python` unpacked, which can't be
        written to, the guest's own ``/proc``, ``/sys`` and ``/dev``, and the package
        under test.

        :param command: for dash; ``$PYTHON`` is Python with the package in its path
        :return: as :meth:`run` does; any exit status will do
        """
        if not self._host_files:
            raise ValueError("the guest was not made with host_files=True")
        root = f"/host{get_python(self.kernel.arch)}"
        if not self._host_mounted:
            package = Path(__file__).parents[2]
            self.run(MOUNT_HOST.replace("/host/", f"{root}/"))
            self.run(f"mount -o bind /host{package} {root}/mnt")
            self._host_mounted = True
        # BLAS is where only update-alternatives would find it.
        setting = (
            "PATH=/usr/bin PYTHONPATH=/mnt PYTHONDONTWRITEBYTECODE=1"
            " LD_LIBRARY_PATH=$(echo /usr/lib/*/blas /usr/lib/*/lapack | tr ' ' ':')"
        )
        script = f"export {setting}; PYTHON=$(echo /usr/bin/python3.??); {command}"
        return self.run(
            "TMPDIR=/run " + shlex.join(["chroot", root, "/usr/bin/dash", "-c", script]),
            timeout=timeout,
            check=False,
        )

    def report(self) -> Report:
        """Ask the guest what it knows about its device memory."""
        vmstat = self.run("cat /proc/vmstat").stdout
        return Report(
            iomem=self.run("cat /proc/iomem").stdout,
            namespaces=_json_list(self.run("ndctl list --namespaces").stdout),
            dax=_json_list(self.run("daxctl list").stdout),
            memmap={
                name: int(value)
                for name, value in re.findall(r"^(nr_memmap\w*) (\d+)", vmstat, re.M)
            },
        )

    def execute(self, command: str, timeout: float = _COMMAND_TIMEOUT, **arguments: object) -> Any:
        """
        Execute a QMP command on the harness's own socket.

        :param timeout: seconds
        :return: what QEMU returned
        :raises GuestError: if it returned an error
        :raises LostGuestError: if it returned nothing
        """

        async def execute() -> object:
            client = QMPClient()
            await client.connect(str(self._directory / "qmp-harness"))
            try:
                return await asyncio.wait_for(client.execute(command, arguments), timeout)
            finally:
                await client.disconnect()

        try:
            return asyncio.run(execute())
        except ExecuteError as error:
            raise GuestError(f"QEMU could not do {command}: {error}") from error
        except (QMPError, asyncio.TimeoutError) as error:
            raise self._lost(f"QEMU gave no answer to {command}: {error!r}") from error

    @contextlib.contextmanager
    def recorded_events(self) -> Iterator[list[tuple[str, float]]]:
        """
        Listen on the harness's own QMP socket, where nothing else is executed meanwhile.

        :return: gets, at the end, the names of QEMU's events and when they were,
            in seconds
        """
        events: list[tuple[str, float]] = []
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_COMMAND_TIMEOUT)
            connection.connect(str(self._directory / "qmp-harness"))
            with connection.makefile("rw", encoding="utf-8") as file:
                file.readline()
                for end in (False, True):
                    if end:
                        yield events
                    # All that came before its answer came before the command.
                    command = "query-status" if end else "qmp_capabilities"
                    file.write(json.dumps({"execute": command}) + "\n")
                    file.flush()
                    while "return" not in (message := json.loads(file.readline())):
                        at = message["timestamp"]
                        seconds = at["seconds"] + at["microseconds"] / 1e6
                        events.append((message["event"], seconds))

    def dump_formats(self) -> list[str]:
        """
        Return the formats that this build of QEMU can write.

        Debian's is built without lzo and snappy.
        """
        formats: list[str] = self.execute("query-dump-guest-memory-capability")["formats"]
        return formats

    def dump(self, path: Path, format: DumpFormat = "elf", *, ram_only: bool | None = None) -> None:
        """
        Dump the guest's memory; it is stopped meanwhile.

        :param path: file to write
        :param format: as QEMU calls it; see :meth:`dump_formats`
        :param ram_only: leave out the contents of the nvdimms. QEMU can do that
            for ELF files only, where it is the default here.
        """
        if ram_only is None:
            ram_only = format == "elf"
        elif ram_only and format != "elf":
            raise ValueError("QEMU can't leave memory out of a kdump file")
        arguments: dict[str, object] = {"paging": False, "protocol": f"file:{path}"}
        if format != "elf":
            arguments["format"] = format
        if ram_only:
            x86 = self.kernel.arch == "amd64"
            length = ram_end(self.memory) if x86 else self.memory
            arguments.update(begin=self.machine.ram_start, length=length)
        self.execute("dump-guest-memory", _DUMP_TIMEOUT, **arguments)

    def vmcoreinfo(self) -> bytes:
        """
        Return the text of the kernel's VMCOREINFO, read from the guest's memory.

        :raises GuestError: if what is there is not a note of it
        """
        # "0x81d46000 1024": where the note is, and its size in hexadecimal
        where, size = self.run("cat /sys/kernel/vmcoreinfo").stdout.split()
        note = self.read_physical(int(where, 16), int(size, 16))
        order = "big" if self.kernel.arch == "s390x" else "little"
        name_size, size_of_text = (int.from_bytes(note[at : at + 4], order) for at in (0, 4))
        start = 12 + -(-name_size // 4) * 4
        if note[12 : 12 + name_size] != b"VMCOREINFO\0":
            raise GuestError(f"there is no VMCOREINFO at {where} of the guest")
        return note[start : start + size_of_text]

    def read_physical(self, address: int, size: int) -> bytes:
        """Read the guest's physical memory through QEMU."""
        path = self._directory / "memory"
        self.execute("pmemsave", val=address, size=size, filename=str(path))
        return path.read_bytes()

    @contextlib.contextmanager
    def monitor(self) -> Iterator[Monitor]:
        """Open the human monitor on the harness's own socket, which nobody else uses meanwhile."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_COMMAND_TIMEOUT)
            connection.connect(str(self._directory / "qmp-harness"))
            with connection.makefile("rw", encoding="utf-8") as file:
                file.readline()
                file.write('{"execute": "qmp_capabilities"}\n')
                file.flush()
                file.readline()

                def ask(commands: Sequence[str]) -> list[str]:
                    answers = []
                    # Some at once, not so many that both sides wait for the other.
                    for start in range(0, len(commands), 64):
                        batch = commands[start : start + 64]
                        for command in batch:
                            arguments = {"command-line": command}
                            message = {"execute": "human-monitor-command", "arguments": arguments}
                            file.write(json.dumps(message) + "\n")
                        file.flush()
                        wanted = len(answers) + len(batch)
                        while len(answers) < wanted:
                            answer = json.loads(file.readline())
                            if "error" in answer:
                                raise GuestError(f"QEMU's monitor: {answer['error']['desc']}")
                            if "return" in answer:
                                answers.append(answer["return"])
                    return answers

                yield ask

    def _boot(self) -> None:
        files = {
            f"/modules/{name}.ko": build_module(self.kernel, name).read_bytes()
            for name in self._built
        }
        build_initramfs(self.kernel, self._directory / "initramfs", self._modules, files)
        if any(isinstance(device, DeviceTreePmem) for device in self._wanted):
            self._write_device_tree()
        # QEMU connects to this socket, so that there is no moment at which what
        # the guest says could be lost.
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(self._directory / "port"))
            listener.listen(1)
            with open(self._directory / "qemu.log", "wb") as log:
                self._qemu = subprocess.Popen(
                    self._command(),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    # Ctrl-C is for the harness.
                    start_new_session=True,
                )
            deadline = time.monotonic() + _BOOT_TIMEOUT
            listener.settimeout(1)
            while self._port is None:
                try:
                    self._port, _ = listener.accept()
                except TimeoutError:
                    if self._qemu.poll() is not None or time.monotonic() > deadline:
                        raise self._lost("QEMU did not start") from None
        self._port.settimeout(max(1, deadline - time.monotonic()))
        try:
            hello = self._receive()
        except TimeoutError:
            raise self._lost(f"the guest was not up within {_BOOT_TIMEOUT} s") from None
        except OSError as error:
            raise self._lost(f"lost the guest while it booted ({error})") from error
        self.release = hello["release"]
        if hello["failed"]:
            raise self._lost(f"the guest could not load the modules{hello['failed']}")

    def _machine_options(self) -> list[str]:
        machine = self.machine
        hotplug = sum(device.hotplug_memory() for device in self._wanted)
        carved = max([device.carved_end() for device in self._wanted], default=0)
        memory = f"{max(self.memory, carved - machine.ram_start) >> 20}M"
        if machine.memory_devices:
            memory += f",slots=16,maxmem={(self.memory + hotplug + GIB) >> 20}M"
        return [
            # should the harness be killed, QEMU is not to outlive it
            *("setpriv", "--pdeathsig", "KILL"),
            *(get_qemu() if self._cxl else (machine.qemu,)),
            # KVM would be faster, but is not everywhere and not the same everywhere
            *("-accel", "tcg,thread=multi"),
            *("-machine", machine.machine),
            *("-cpu", self.cpu),
            *("-m", memory),
            *("-nodefaults", "-no-reboot", "-display", "none"),
            *machine.arguments,
        ]

    def _command(self) -> list[str]:
        machine = self.machine
        parameters = [f"console={machine.console}", "panic=-1", *self._parameters]
        if machine.serial:
            console = ["-serial", f"file:{self._directory}/console"]
        else:
            console = ["-chardev", f"file,id=console,path={self._directory}/console"]
            console += ["-device", "sclpconsole,chardev=console"]
        command = [
            *self._machine_options(),
            *console,
            *(("-device", "vmcoreinfo") if self._vmcoreinfo else ()),
            *("-qmp", f"unix:{self._directory}/qmp-harness,server=on,wait=off"),
            *("-qmp", f"unix:{self.qmp},server=on,wait=off"),
            *("-device", machine.port),
            *("-chardev", f"socket,id=port,path={self._directory}/port"),
            *("-device", f"virtserialport,chardev=port,name={PORT_NAME}"),
            *("-kernel", str(self.kernel.image)),
            *("-initrd", f"{self._directory}/initramfs"),
        ]
        if self._host_files:
            # A file system in a file system (/proc) has inode numbers of its own.
            share = "path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap"
            command += ["-virtfs", f"local,{share}"]
        command += cxl.host_bridge(self._wanted)
        for index, device in enumerate(self._wanted):
            command += device.qemu_arguments(index, self._directory)
            parameters += device.kernel_parameters()
        if any(isinstance(device, DeviceTreePmem) for device in self._wanted):
            command += ["-dtb", f"{self._directory}/device-tree"]
        if any(isinstance(device, DaxRegion) for device in self._wanted):
            parameters.append(f"mem={self.memory}")
        return [*command, "-append", " ".join(parameters), *self._qemu_arguments]

    def _write_device_tree(self) -> None:
        # QEMU's own, with less RAM and with the devices in place of the rest.
        path = self._directory / "device-tree"
        options = self._machine_options()
        subprocess.run([*options, "-machine", f"dumpdtb={path}"], check=True, capture_output=True)
        convert = ["dtc", "-q", "-I", "dtb", "-O", "dts", str(path)]
        text = subprocess.run(convert, check=True, capture_output=True, text=True).stdout
        start, size = divmod(self.machine.ram_start, 1 << 32), divmod(self.memory, 1 << 32)
        reg = " ".join(map(hex, (*start, *size)))
        text, count = re.subn(r"(\bmemory@\w+ \{[^}]*\breg = <)[^>]*>", rf"\g<1>{reg}>", text)
        assert count == 1, text
        nodes = [one.device_tree() for one in self._wanted if isinstance(one, DeviceTreePmem)]
        # behind the properties of the root, before its last brace
        text = "\n".join((text[: text.rindex("}")], *nodes, "};"))
        subprocess.run(
            ["dtc", "-q", "-I", "dts", "-O", "dtb", "-o", str(path)],
            input=text.encode(),
            check=True,
            capture_output=True,
        )

    def _place(self, devices: Sequence[Device]) -> list[Placed]:
        # Find each device, in the order in which they were asked for.
        regions = [one for one in devices if isinstance(one, DaxRegion)]
        if regions:
            lists = [("start", [one.addr for one in regions])]
            lists += [("size", [one.size for one in regions])]
            lists += [("align", [one.align for one in regions])]
            parameters = [f"{name}={','.join(map(hex, values))}" for name, values in lists]
            self.run(f"insmod /modules/dax_region.ko {' '.join(parameters)}")
            found = _json_list(self.run("daxctl list").stdout)
            names = {one["chardev"]: one for one in found}
            # The module numbers its regions; the kernel names their devices by that.
            made = [names[f"dax{index}.0"] for index in range(len(regions))]
        else:
            made = []
        by_device = {
            device: Placed(device, "", "", device.addr, info)
            for device, info in zip(regions, made, strict=True)
        }
        if self._cxl:
            by_device.update(self._place_cxl())
        others = [one for one in devices if one not in by_device]
        by_device.update(zip(others, self._place_namespaces(others), strict=True))
        return [by_device[device] for device in devices]

    def _place_cxl(self) -> Iterator[tuple[Device, Placed]]:
        # Make all regions; of persistent memory the namespace is still to be made.
        def run(command: str) -> str:
            return self.run(command).stdout

        for device, (region, start) in cxl.make_regions(run, self._cxl).items():
            if not device.persistent:
                yield device, Placed(device, region, "", start, cxl.dax_device(run, region))

    def _place_namespaces(self, devices: Sequence[Device]) -> list[Placed]:
        # Find each device's region and make its namespace.
        if not devices:
            return []
        output = self.run(
            "cd /sys/bus/nd/devices; for region in region*; do"
            " echo $region $(cat $region/size $region/resource); done"
        ).stdout
        regions = [
            (name, int(size), int(start, 0))
            for name, size, start in re.findall(r"^(region\d+) (\d+) (\w+)$", output, re.M)
        ]
        placed = []
        for device in devices:
            found = [
                (name, start)
                for name, size, start in regions
                if size == device.size and device.addr in (None, start)
            ]
            if len(found) != 1:
                raise GuestError(f"the guest has no region for {device}, it has:\n{output}")
            ((region, start),) = found
            # Without labels, there is one namespace over the whole region.
            namespace = f"{region.replace('region', 'namespace')}.0"
            (info,) = _json_list(self.run(device.setup_command(namespace)).stdout)
            placed.append(Placed(device, region, namespace, start, info))
        return placed

    def _receive(self) -> dict[str, Any]:
        # The next line from the guest. The socket's timeout counts from each
        # piece that arrives.
        assert self._port is not None
        line = bytearray()
        while not line.endswith(b"\n"):
            piece = self._port.recv(1 << 16)
            if not piece:
                raise ConnectionResetError("the connection was closed")
            line += piece
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _lost(self, message: str) -> LostGuestError:
        parts = [message]
        for name in ("qemu.log", "console"):
            path = self._directory / name
            lines = path.read_text(errors="replace").splitlines() if path.exists() else []
            if lines:
                parts += [f"--- end of {name}:", *lines[-_CONSOLE_LINES:]]
        return LostGuestError("\n".join(parts))


def _json_list(text: str) -> list[dict[str, Any]]:
    # ndctl and daxctl print an array, a single object, or nothing.
    if not text.strip():
        return []
    value = json.loads(text)
    return value if isinstance(value, list) else [value]
