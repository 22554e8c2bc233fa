# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Device memory to put into a guest.

Each class says how QEMU or the kernel is asked for the memory and what
namespace the guest shall make of it. Sizes, alignments and addresses are in
bytes.

All devices of a guest must differ in size, or have different addresses given:
region numbers follow no order that the command line knows, so the guest's
regions differ in size or address.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

__all__ = (
    "FIVE_DEVICES",
    "GIB",
    "MIB",
    "DaxRegion",
    "Device",
    "DeviceTreePmem",
    "LegacyPmem",
    "Nvdimm",
    "Placed",
    "VirtioPmem",
    "devices_of",
    "parse_device",
    "parse_size",
)

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30


@dataclass(frozen=True, kw_only=True)
class Device:
    """A region of persistent memory and the namespace to make over all of it."""

    #: of the region; the namespace is smaller by its info block and alignment
    size: int
    #: as ndctl calls it; ``raw`` leaves the namespace as the kernel found it
    mode: Literal["devdax", "fsdax", "raw"] = "devdax"
    #: where the struct pages shall be: RAM, or the device itself (altmap)
    map: Literal["mem", "dev"] = "mem"
    align: int = 2 * MIB
    #: physical address; QEMU chooses if None
    addr: int | None = None

    def looks_like(self, other: Device) -> bool:
        """Return whether another device has the same region size in the guest."""
        return self.size == other.size and (
            self.addr == other.addr or None in (self.addr, other.addr)
        )

    def qemu_arguments(self, index: int, directory: Path) -> list[str]:
        """
        Return the options for QEMU.

        :param index: number of the device, for QEMU's names
        :param directory: directory for backing files
        """
        return []

    def kernel_parameters(self) -> list[str]:
        """Return what has to be on the kernel's command line."""
        return []

    def hotplug_memory(self) -> int:
        """Return how far QEMU's area for memory devices has to reach for this one."""
        return 0

    def carved_end(self) -> int:
        """Return the physical address behind it if it is a piece of QEMU's RAM, else 0."""
        return 0

    def setup_command(self, namespace: str) -> str:
        """
        Return the shell command that makes the namespace and prints it as JSON.

        :param namespace: name of the region's only namespace, still unused
        """
        if self.mode == "raw":
            return f"ndctl list --namespace={namespace}"
        return (
            f"ndctl create-namespace --force --reconfig={namespace} --mode={self.mode}"
            f" --map={self.map} --align={self.align} 2>/dev/console"
        )

    def _backing_file(self, index: int, directory: Path) -> list[str]:
        path = directory / f"memory{index}"
        with open(path, "wb") as file:
            file.truncate(self.size)
        return [
            "-object",
            f"memory-backend-file,id=memory{index},share=on,mem-path={path},size={self.size}",
        ]


@dataclass(frozen=True, kw_only=True)
class Nvdimm(Device):
    """An NVDIMM without labels, found through the ACPI NFIT."""

    #: NUMA node, one that QEMU knows of; the first if None
    node: int | None = None

    def qemu_arguments(self, index: int, directory: Path) -> list[str]:
        device = f"nvdimm,id=device{index},memdev=memory{index}"
        if self.addr is not None:
            device += f",addr={self.addr:#x}"
        if self.node is not None:
            device += f",node={self.node}"
        return [*self._backing_file(index, directory), "-device", device]

    def hotplug_memory(self) -> int:
        # QEMU wants room to align each to 1 GiB.
        return (self.addr or 0) + self.size + GIB


@dataclass(frozen=True, kw_only=True)
class VirtioPmem(Device):
    """Persistent memory on a virtio device; the kernel maps it even when raw."""

    def qemu_arguments(self, index: int, directory: Path) -> list[str]:
        device = f"virtio-pmem-pci,id=device{index},memdev=memory{index}"
        if self.addr is not None:
            device += f",memaddr={self.addr:#x}"
        return [*self._backing_file(index, directory), "-device", device]

    def hotplug_memory(self) -> int:
        return (self.addr or 0) + self.size + GIB


@dataclass(frozen=True, kw_only=True)
class LegacyPmem(Device):
    """A piece of the guest's RAM, declared persistent by ``memmap=nn!ss``."""

    addr: int = field()

    def kernel_parameters(self) -> list[str]:
        return [f"memmap={self.size}!{self.addr:#x}"]


@dataclass(frozen=True, kw_only=True)
class _Carved(Device):
    # A piece of QEMU's RAM that the guest's kernel does not take for its own.

    addr: int = field()

    def carved_end(self) -> int:
        return self.addr + self.size


@dataclass(frozen=True, kw_only=True)
class DeviceTreePmem(_Carved):
    """Persistent memory that the device tree names, behind the RAM that it names."""

    def device_tree(self) -> str:
        """Return its node as source text."""
        cells = [half for number in (self.addr, self.size) for half in divmod(number, 1 << 32)]
        return (
            f'pmem@{self.addr:x} {{ compatible = "pmem-region";'
            f" reg = <{' '.join(map(hex, cells))}>; }};"
        )


@dataclass(frozen=True, kw_only=True)
class DaxRegion(_Carved):
    """
    A devdax that ``dax_region.c`` makes of memory that the kernel's ``mem=`` left out.

    For kernels without NVDIMMs. All but the region is the kernel's: its device_dax
    driver makes the pagemap and the memory map.
    """


@dataclass(frozen=True)
class Placed:
    """A device as the guest found it."""

    device: Device
    #: such as ``region0``; empty for a :class:`DaxRegion`
    region: str
    #: such as ``namespace0.0``; empty for a :class:`DaxRegion`
    namespace: str
    #: physical address of the first byte of the region
    start: int
    #: what ndctl printed about the namespace, or daxctl about the device
    info: dict[str, Any] = field(repr=False)

    @property
    def name(self) -> str:
        """Name of the device node, such as ``dax0.0`` or ``pmem4``."""
        if "daxregion" in self.info:
            return str(self.info["daxregion"]["devices"][0]["chardev"])
        if "chardev" in self.info:
            return str(self.info["chardev"])
        return str(self.info["blockdev"])


#: What is booted unless asked otherwise. QEMU puts them one after the other, so
#: the third begins at 0x150000000: aligned to a section, but not to its 1 GiB.
FIVE_DEVICES: tuple[Device, ...] = (
    Nvdimm(size=512 * MIB, mode="devdax", map="mem", align=2 * MIB),
    Nvdimm(size=768 * MIB, mode="devdax", map="dev", align=2 * MIB),
    Nvdimm(size=3 * GIB, mode="devdax", map="mem", align=GIB),
    Nvdimm(size=256 * MIB, mode="fsdax", map="mem"),
    Nvdimm(size=1 * GIB, mode="devdax", map="mem", align=4 * KIB),
)


def devices_of(flavour: str, series: str) -> tuple[Device, ...]:
    """
    Return devices of all kinds that a kernel of another architecture can have.

    :param flavour: a key of :data:`.packages.FLAVOURS` but amd64
    :param series: a key of :data:`.packages.SERIES`
    """
    page = {"arm64-16k": 16 * KIB, "powerpc64le-64k": 64 * KIB}.get(flavour, 4 * KIB)
    if flavour.startswith("arm64"):
        # It has no huge pages of 1 GiB for devices.
        huge = 2 * MIB if page == 4 * KIB else 32 * MIB
        return (
            Nvdimm(size=512 * MIB, mode="devdax", map="mem", align=huge),
            Nvdimm(size=768 * MIB, mode="devdax", map="dev", align=huge),
            Nvdimm(size=256 * MIB, mode="fsdax", map="mem", align=huge),
            Nvdimm(size=1 * GIB, mode="devdax", map="mem", align=page),
        )
    if flavour == "riscv64":
        # 6.12 has no huge pages of 1 GiB for devices: 7.2 has.
        large = 2 * MIB if series == "6.12" else GIB
        return (
            DeviceTreePmem(addr=0xC0000000, size=512 * MIB, align=2 * MIB),
            DeviceTreePmem(addr=0xE0000000, size=768 * MIB, map="dev", align=2 * MIB),
            DeviceTreePmem(addr=0x110000000, size=256 * MIB, mode="fsdax"),
            DeviceTreePmem(addr=0x140000000, size=3 * GIB, align=large),
            DeviceTreePmem(addr=0x200000000, size=1 * GIB, align=page),
        )
    huge = MIB if flavour == "s390x" else 2 * MIB
    return (
        DaxRegion(addr=0x40000000, size=512 * MIB, align=huge),
        DaxRegion(addr=0x80000000, size=3 * GIB, align=GIB),
        DaxRegion(addr=0x140000000, size=1 * GIB, align=page),
    )


def parse_size(text: str) -> int:
    """
    Parse a number of bytes.

    >>> parse_size("3G") == 3 * 2**30
    True

    :param text: a number in decimal or hexadecimal, with K, M or G behind it or not
    :raises ValueError: if it is not one
    """
    unit = {"K": KIB, "M": MIB, "G": GIB}.get(text[-1:].upper(), 1)
    return int(text if unit == 1 else text[:-1], 0) * unit


def parse_device(text: str) -> Device:
    """
    Parse a device as the command line spells it.

    >>> parse_device("nvdimm,size=512M,map=dev")
    Nvdimm(size=536870912, mode='devdax', map='dev', align=2097152, addr=None, node=None)

    :param text: ``nvdimm``, ``memmap``, ``virtio-pmem``, ``device-tree`` or
        ``dax-region``, then ``key=value`` for the fields of :class:`Nvdimm`,
        :class:`LegacyPmem`, :class:`VirtioPmem`, :class:`DeviceTreePmem` or
        :class:`DaxRegion`
    :raises ValueError: if it makes no device
    """
    kind, _, rest = text.partition(",")
    classes: dict[str, type[Device]] = {
        "nvdimm": Nvdimm,
        "memmap": LegacyPmem,
        "virtio-pmem": VirtioPmem,
        "device-tree": DeviceTreePmem,
        "dax-region": DaxRegion,
    }
    if kind not in classes:
        raise ValueError(f"no such kind of device: {kind} (there are {', '.join(classes)})")
    arguments: dict[str, Any] = {}
    for item in filter(None, rest.split(",")):
        key, equals, value = item.partition("=")
        if not equals:
            raise ValueError(f"not of the form key=value: {item}")
        arguments[key] = parse_size(value) if key in ("size", "align", "addr") else value
    if (mode := arguments.get("mode", "devdax")) not in ("devdax", "fsdax", "raw"):
        raise ValueError(f"no such mode: {mode}")
    if (where := arguments.get("map", "mem")) not in ("mem", "dev"):
        raise ValueError(f"no such map: {where}")
    try:
        return classes[kind](**arguments)
    except TypeError as error:
        raise ValueError(f"{kind}: {error}") from None
