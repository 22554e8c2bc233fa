# SPDX-License-Identifier: LGPL-2.1-or-later
"""Boot a guest by hand, or hunt in guests."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, get_args

from . import hunt
from .devices import FIVE_DEVICES, MIB, devices_of, parse_device, parse_size
from .guest import DumpFormat, Guest, GuestError
from .hosttools import HostToolsError
from .packages import FLAVOURS, SERIES, KernelNotFoundError, get_kernel, look_up

_T = TypeVar("_T")


def _argument(parse: Callable[[str], _T]) -> Callable[[str], _T]:
    # argparse says nothing of why a ValueError was raised.
    def parse_argument(text: str) -> _T:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parse_argument


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.guests",
        description="boot a Debian kernel under QEMU with device memory, and leave it running"
        " until Ctrl-C",
        epilog="example: python -m tests.guests --kernel 6.12"
        " --device nvdimm,size=3G,addr=0x104000000,align=1G; 'hunt' changes the memory of"
        " guests at random and audits it (hunt --help)",
    )
    parser.add_argument(
        "--list", action="store_true", help="list the kernels of a flavour and exit"
    )
    parser.add_argument("--kernel", choices=SERIES, default="6.1", help="default: %(default)s")
    parser.add_argument(
        "--flavour",
        choices=FLAVOURS,
        default="amd64",
        help="of Debian's kernels (default: %(default)s)",
    )
    parser.add_argument(
        "--device",
        metavar="KIND,KEY=VALUE...",
        action="append",
        type=_argument(parse_device),
        help="nvdimm, virtio-pmem or memmap, of other architectures device-tree (riscv64) or"
        " dax-region (powerpc64le, s390x), with size= mode=devdax|fsdax|raw map=mem|dev align="
        " addr=; may be given several times (default: one of each kind of memory map)",
    )
    parser.add_argument(
        "--cpu",
        help="QEMU's model; of x86-64, max has 5-level paging, which is the default, qemu64"
        " has 4-level",
    )
    parser.add_argument(
        "--memory", metavar="SIZE", type=_argument(parse_size), default="1G", help="default: 1G"
    )
    parser.add_argument(
        "--parameter",
        metavar="TEXT",
        action="append",
        default=[],
        help="add to the kernel's command line",
    )
    parser.add_argument("--dump", metavar="PATH", type=Path, help="write a dump and exit")
    parser.add_argument(
        "--format", choices=get_args(DumpFormat), default="elf", help="default: %(default)s"
    )
    return parser


def _list_kernels(flavour: str) -> None:
    for series in SERIES:
        try:
            found = look_up(series, flavour)
        except KernelNotFoundError as error:
            print(f"{series:6} {error}")
        else:
            state = "downloaded" if found.directory.is_dir() else ""
            print(f"{series:6} {found.suite:10} {found.release:24} {found.version:14} {state}")


def _run(arguments: argparse.Namespace) -> None:
    print("getting the kernel ...", flush=True)
    flavour = arguments.flavour
    kernel = get_kernel(arguments.kernel, flavour)
    foreign = () if flavour == "amd64" else devices_of(flavour, arguments.kernel)
    print(f"booting {kernel.release} ...", flush=True)
    with Guest(
        kernel,
        arguments.device or foreign or FIVE_DEVICES,
        cpu=arguments.cpu,
        memory=arguments.memory,
        parameters=arguments.parameter,
    ) as guest:
        for device in guest.devices:
            print(
                f"{device.name:8} {device.start:#x} {device.device.size // MIB} MiB"
                f" {device.device.mode} map={device.device.map}"
            )
        if arguments.dump:
            guest.dump(arguments.dump.absolute(), arguments.format)
            print(f"wrote {arguments.dump}")
            return
        print(f"QMP socket: {guest.qmp}")
        print(f"try: vmemscope pgmap --all --qemu unix:{guest.qmp}", flush=True)
        guest.wait()


def main() -> int:
    """Do what the command line says; return the exit status."""
    # Python leaves it ignored where a shell started it in the background.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Leave the with statement when killed, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        if sys.argv[1:2] == ["hunt"]:
            return hunt.main(sys.argv[2:])
        arguments = _parser().parse_args()
        if arguments.list:
            _list_kernels(arguments.flavour)
        else:
            _run(arguments)
    except KeyboardInterrupt:
        return 0
    except (GuestError, HostToolsError, KernelNotFoundError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
