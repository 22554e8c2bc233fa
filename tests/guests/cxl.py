# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Memory behind CXL: expanders for QEMU, and the regions that the guest's kernel makes of them.

All expanders hang on one host bridge, each on a root port of its own. Firmware would have
set up decoders; here the guest does, by sysfs, as the program ``cxl`` would: one region over
all of each expander (``Documentation/ABI/testing/sysfs-bus-cxl``).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .devices import GIB, KIB, MIB, Device

__all__ = ("CPU", "MODULES", "Cxl", "Run", "dax_device", "host_bridge", "make_regions")

#: runs a shell command in a guest, and returns what it printed
Run = Callable[[str], str]

#: modules to load beside those of the machine
MODULES = ("cxl_acpi", "cxl_pci", "cxl_mem", "cxl_pmem", "dax_cxl")
#: added to ``-cpu``: a guest that knows that it is one makes no region, as it can't flush
#: the host's caches
#: (``arch/x86/mm/pat/set_memory.c: cpu_cache_has_invalidate_memregion()``)
CPU = ",-hypervisor"

#: QEMU has it a multiple of this
_WINDOW = 256 * MIB
_LABELS = 128 * KIB

_WAIT = """
for i in $(seq 50); do
	[ $(ls -d /sys/bus/cxl/devices/endpoint* 2>/dev/null | wc -l) = %d ] && break
	sleep 0.2
done
"""
_WAIT_DAX = "for i in $(seq 50); do [ -e {device} ] && break; sleep 0.2; done"
_LIST = """
cd /sys/bus/cxl/devices
for endpoint in endpoint*; do
	decoder=$(ls -d $endpoint/decoder*.0)
	memory=$(basename $(readlink -f $endpoint/uport))
	echo "$(basename $decoder) $(cat $memory/ram/size) $(cat $memory/pmem/size)"
done
"""
_REGION = """
set -e
cd /sys/bus/cxl/devices
region=$(cat decoder0.0/create_{mode}_region)
echo $region > decoder0.0/create_{mode}_region
devices=$PWD
cd $region
[ {mode} = ram ] || cat /proc/sys/kernel/random/uuid > uuid
echo 256 > interleave_granularity
echo 1 > interleave_ways
echo {size} > size
echo {mode} > $devices/{decoder}/mode
echo {size} > $devices/{decoder}/dpa_size
echo {decoder} > target0
echo 1 > commit
echo $region > /sys/bus/cxl/drivers/cxl_region/bind
echo $region $(cat resource)
"""


@dataclass(frozen=True, kw_only=True)
class Cxl(Device):
    """A memory expander; of volatile memory no namespace is made, but a dax region."""

    persistent: bool = False

    def qemu_arguments(self, index: int, directory: Path) -> list[str]:
        kind = "persistent" if self.persistent else "volatile"
        device = f"cxl-type3,bus=port{index},id=device{index},sn={index + 1}"
        device += f",{kind}-memdev=memory{index}"
        labels = []
        if self.persistent:
            labels = ["-object", f"memory-backend-ram,id=labels{index},size={_LABELS}"]
            device += f",lsa=labels{index}"
        port = f"cxl-rp,bus=cxl,id=port{index},port={index},chassis=0,slot={index}"
        memory = self._backing_file(index, directory)
        return [*memory, *labels, "-device", port, "-device", device]

    def setup_command(self, namespace: str) -> str:
        # There are labels, and no namespace before there is one in them.
        region = namespace.replace("namespace", "region").removesuffix(".0")
        return (
            super()
            .setup_command(namespace)
            .replace(f"--reconfig={namespace}", f"--region={region}")
        )


def host_bridge(devices: Sequence[Device]) -> list[str]:
    """Return QEMU's options for what CXL devices hang on; none if there are none."""
    size = sum(one.size for one in devices if isinstance(one, Cxl))
    if not size:
        return []
    window = -(-size // _WINDOW) * _WINDOW
    return [
        *("-machine", f"cxl=on,cxl-fmw.0.targets.0=cxl,cxl-fmw.0.size={max(window, GIB)}"),
        *("-device", "pxb-cxl,bus_nr=12,bus=pcie.0,id=cxl"),
    ]


def make_regions(run: Run, devices: Sequence[Cxl]) -> dict[Cxl, tuple[str, int]]:
    """
    Have the guest make a region of each expander.

    :param devices: of different sizes, if of one kind
    :return: the region's name, and the physical address of its first byte
    """
    run(_WAIT % len(devices))
    decoders = {}
    for line in run(_LIST).splitlines():
        decoder, volatile, persistent = line.split()
        decoders[int(volatile, 0), int(persistent, 0)] = decoder
    made = {}
    for device in devices:
        mode = "pmem" if device.persistent else "ram"
        sizes = (0, device.size) if device.persistent else (device.size, 0)
        command = _REGION.format(mode=mode, size=device.size, decoder=decoders[sizes])
        region, start = run(command).split()
        made[device] = region, int(start, 0)
    return made


def dax_device(run: Run, region: str) -> dict[str, object]:
    """Return what daxctl says of the first device of a region of volatile memory."""
    number = int(region.removeprefix("region"))
    run(_WAIT_DAX.format(device=f"/sys/bus/dax/devices/dax{number}.0"))
    found = json.loads(run(f"daxctl list --region={number}") or "[]")
    one = found[0] if isinstance(found, list) else found
    return dict(one)
