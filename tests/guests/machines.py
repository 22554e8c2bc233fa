# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The machines that QEMU has for each architecture, and what differs between them.

In: Debian's name of an architecture. Out: a :class:`Machine`, which is data only.
Addresses and sizes are in bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ("MACHINES", "Machine")

_NVDIMM = ("libnvdimm", "nfit", "nd_btt", "nd_pmem", "dax_pmem", "device_dax")
_PCI_PORT = ("virtio_pci", "virtio_console")


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What a guest of one architecture runs on."""

    #: name of the program of QEMU
    qemu: str
    #: Debian packages that the host needs for it: QEMU, its firmware, a compiler
    host_packages: tuple[str, ...]
    #: value of ``-machine``
    machine: str
    #: value of ``-cpu`` unless another is asked for
    cpu: str
    #: value of ``-cpu`` for a flavour of the kernel that needs another
    cpus: dict[str, str]
    #: name of the console's device in the guest
    console: str
    #: device that the guest's virtio-serial port is on
    port: str
    #: modules to load; those that a kernel has built in are passed over
    modules: tuple[str, ...]
    #: physical address of the first byte of RAM
    ram_start: int = 0
    #: further options for QEMU
    arguments: tuple[str, ...] = ()
    #: whether ``-serial`` is the console: with s390x it is a device of its own
    serial: bool = True
    #: whether QEMU 7.2 can have a ``-device vmcoreinfo``
    vmcoreinfo: bool = False
    #: whether QEMU takes memory devices, and with them ``slots`` and ``maxmem``
    memory_devices: bool = False
    #: the architecture as the kernel's Makefile calls it, for modules built for it
    kernel_arch: str = ""
    #: prefix of the cross compiler's programs
    cross: str = ""
    #: name of the program that runs programs of the architecture on the host, if it is another
    user: str = ""


#: by Debian's name of the architecture
MACHINES = {
    "amd64": Machine(
        qemu="qemu-system-x86_64",
        host_packages=("qemu-system-x86", "make", "gcc"),
        machine="q35,nvdimm=on",
        # qemu64 has 4-level paging
        cpu="max",
        cpus={},
        console="ttyS0",
        port="virtio-serial-pci",
        modules=(
            *("virtio_pci", "virtio_console", "qemu_fw_cfg"),
            *("libnvdimm", "nfit", "nd_btt", "nd_pmem", "nd_e820", "virtio_pmem"),
            *("dax_pmem", "device_dax", "dax_hmem", "kmem", "nvme"),
            *("9p", "9pnet_virtio"),
        ),
        vmcoreinfo=True,
        memory_devices=True,
        kernel_arch="x86",
    ),
    "arm64": Machine(
        qemu="qemu-system-aarch64",
        host_packages=("qemu-system-arm", "qemu-efi-aarch64", "qemu-user"),
        machine="virt,nvdimm=on,gic-version=3",
        # 48 bits of virtual addresses; max has 52, and a granule of 16 KiB
        cpu="cortex-a57",
        cpus={"arm64-16k": "max,pauth-impdef=on"},
        console="ttyAMA0",
        port="virtio-serial-pci",
        modules=(*_PCI_PORT, "qemu_fw_cfg", *_NVDIMM, "9p", "9pnet_virtio"),
        ram_start=0x40000000,
        user="qemu-aarch64",
        # NVDIMMs are found through ACPI, which is the firmware's
        arguments=("-bios", "/usr/share/qemu-efi-aarch64/QEMU_EFI.fd"),
        vmcoreinfo=True,
        memory_devices=True,
    ),
    "riscv64": Machine(
        qemu="qemu-system-riscv64",
        host_packages=("qemu-system-misc", "device-tree-compiler", "qemu-user"),
        machine="virt",
        cpu="rv64",
        cpus={},
        console="ttyS0",
        port="virtio-serial-pci",
        modules=(
            *_PCI_PORT,
            *("libnvdimm", "of_pmem", "nd_btt", "nd_pmem", "dax_pmem", "device_dax"),
            *("9p", "9pnet_virtio"),
        ),
        ram_start=0x80000000,
        user="qemu-riscv64",
    ),
    "ppc64el": Machine(
        qemu="qemu-system-ppc64",
        host_packages=(
            *("qemu-system-ppc", "qemu-user", "make", "gcc"),
            *("gcc-powerpc64le-linux-gnu", "libc6-dev-ppc64el-cross"),
        ),
        machine="pseries,cap-cfpc=broken,cap-sbbc=broken,cap-ibs=broken,cap-ccf-assist=off",
        # has radix page tables
        cpu="power9",
        cpus={},
        console="hvc0",
        port="virtio-serial-pci",
        modules=(*_PCI_PORT, "device_dax", "9p", "9pnet_virtio"),
        kernel_arch="powerpc",
        cross="powerpc64le-linux-gnu-",
        user="qemu-ppc64le",
    ),
    "s390x": Machine(
        qemu="qemu-system-s390x",
        host_packages=(
            *("qemu-system-misc", "qemu-user", "make", "gcc"),
            *("gcc-s390x-linux-gnu", "libc6-dev-s390x-cross"),
        ),
        machine="s390-ccw-virtio",
        cpu="max",
        cpus={},
        console="ttysclp0",
        port="virtio-serial-ccw",
        modules=("virtio_console", "device_dax", "9p", "9pnet_virtio"),
        serial=False,
        kernel_arch="s390",
        cross="s390x-linux-gnu-",
        user="qemu-s390x",
    ),
}
