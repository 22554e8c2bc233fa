# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Change a guest's memory at random, and audit it after each step.

A :class:`Layout` is a guest with memory of many kinds, a :class:`Step` changes it; both
are drawn from a seed. After each step :func:`~tests.guests.hunt_model.compare` holds all
audits against two witnesses. The first difference that no known kernel bug explains stops
the hunt: it replays ever fewer of the steps in new guests, and keeps a dump and a script
(``python -m tests.guests hunt --replay SCRIPT`` runs it again).

Steps may fail: the guest refuses many of them, and a step that meets another state when
it is replayed does nothing. What must be there is only read from the guest afterwards.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from .devices import GIB, KIB, MIB
from .guest import Cpu, Guest, GuestError, LostGuestError
from .hunt_model import (
    SECTION,
    Alarm,
    Expectations,
    Memory,
    Observed,
    Root,
    Vmemmap,
    compare,
    observe,
    walk,
)
from .initramfs import MODULES
from .matrix import at_least
from .packages import SERIES, Kernel, get_kernel
from .tested import PATH, record_hunt

__all__ = ("Hunt", "Layout", "Step", "main")

#: steps in one guest; then another layout is booted
_STEPS = 40
#: guests that shrinking may boot
_SHRINK_BOOTS = 10
_TIMEOUT = 90
_HUGE = "/sys/kernel/mm/hugepages/hugepages-{}kB"
_BLOCKS = "/sys/devices/system/memory"
_NODE_SIZE = 1152 * MIB


class Step(NamedTuple):
    """A change: its kind, and numbers that choose what it is done to and how."""

    kind: str
    #: chooses among what there is when it is done
    chosen: int
    options: tuple[str | int, ...] = ()

    def __str__(self) -> str:
        return " ".join(str(one) for one in (self.kind, self.chosen, *self.options))


class Part(NamedTuple):
    """A device of memory."""

    #: nvdimm, dimm, virtio-mem or virtio-pmem
    kind: str
    addr: int
    size: int
    #: bytes of labels at the end of an nvdimm
    labels: int
    node: int
    #: plugged in by a step, not there at boot
    later: bool


@dataclass(frozen=True)
class Layout:
    """A guest."""

    cpu: Cpu
    nodes: int
    parts: tuple[Part, ...]
    parameters: tuple[str, ...]

    @property
    def memory(self) -> int:
        """Bytes of RAM. All of it is below 4 GiB, so that it lies at address 0."""
        return self.nodes * _NODE_SIZE


def draw_layout(generator: random.Random) -> Layout:
    """Draw a guest."""
    nodes = generator.choice((1, 2, 2))
    memory = nodes * _NODE_SIZE
    address, parts = 4 * GIB, []
    kinds = ["nvdimm", "nvdimm", "nvdimm", "dimm", "dimm"]
    kinds += generator.sample(("nvdimm", "virtio-mem", "virtio-pmem", "dimm"), 3)
    generator.shuffle(kinds)
    for kind in kinds:
        # Most begin and end with sections. Regions are multiples of 16 MiB.
        unit = generator.choice((SECTION, SECTION, 64 * MIB, 16 * MIB))
        if kind in ("dimm", "virtio-mem"):
            unit = SECTION
        size = generator.choice((64, 128, 256, 384, 1024, 2048, 3072)) * MIB
        size = max(unit, size + generator.choice((0, 0, 0, unit)))
        if kind in ("dimm", "virtio-mem"):
            size = min(max(size, 256 * MIB), GIB)
        labels = 128 * KIB if kind == "nvdimm" and generator.random() < 0.4 else 0
        address = -(-address // unit) * unit + unit * generator.choice((0, 0, 1, 2))
        later = kind == "dimm" or (kind == "nvdimm" and generator.random() < 0.3)
        # QEMU takes them off the end.
        size += labels
        node = generator.randrange(nodes)
        parts.append(Part(kind, address, size, labels, node, later))
        address += size
    parameters = []
    if generator.random() < 0.5:
        parameters.append("hugetlb_free_vmemmap=on")
    parameters.append(
        "memhp_default_state=" + generator.choice(("offline", "online", "online_movable"))
    )
    if generator.random() < 0.5:
        parameters.append("memory_hotplug.memmap_on_memory=1")
    unit = generator.choice((SECTION, 2 * MIB))
    # Above what the kernel and the initramfs need, apart from each other.
    if generator.random() < 0.5:
        size = generator.choice((64, 128, 256)) * MIB
        start = 512 * MIB + generator.randrange(128 * MIB // unit + 1) * unit
        parameters.append(f"memmap={size >> 20}M!{start:#x}")
    if generator.random() < 0.5:
        size = generator.choice((128, 192, 256)) * MIB
        start = (memory - 384 * MIB) // unit * unit
        # From anything to type 0xefffffff, enum e820_type: E820_TYPE_SOFT_RESERVED.
        parameters.append(f"memmap={size >> 20}M%{start:#x}+0xefffffff")
    cpu = generator.choice(("max", "max", "qemu64"))
    return Layout(cpu, nodes, tuple(parts), tuple(parameters))


_MODES = ("devdax", "devdax", "devdax", "devdax", "fsdax", "raw", "sector")
_MAPS = ("mem", "mem", "dev")
_ALIGNS = ("4K", "2M", "2M", "1G", "1G")

#: how often each kind of step is drawn, and the options that are drawn with it
_KINDS: dict[str, tuple[int, Callable[[random.Random], tuple[str | int, ...]]]] = {
    "make namespace": (
        8,
        lambda g: (g.choice(_MODES), g.choice(_MAPS), g.choice(_ALIGNS), g.choice((16, 48, 100))),
    ),
    "remake namespace": (
        10,
        lambda g: (g.choice(_MODES), g.choice(_MAPS), g.choice(_ALIGNS)),
    ),
    "destroy namespace": (3, lambda g: ()),
    "disable namespace": (2, lambda g: ()),
    "enable namespaces": (2, lambda g: ()),
    "to system-ram": (5, lambda g: (g.choice(("", "--no-online", "--no-movable")),)),
    "to devdax": (4, lambda g: ()),
    "make dax": (3, lambda g: (g.choice((2, 32, 64, 256)), g.choice(("2M", "4K", "1G")))),
    "destroy dax": (2, lambda g: ()),
    "block": (8, lambda g: (g.choice(("offline", "online", "online_kernel", "online_movable")),)),
    "blocks": (3, lambda g: (g.choice(("offline", "online", "online_movable")),)),
    "huge": (8, lambda g: (g.choice((0, 1, 5, 20, 60)),)),
    "gigantic": (3, lambda g: (g.choice((0, 1, 2)),)),
    "surplus": (1, lambda g: (g.choice((0, 4)),)),
    "demote": (2, lambda g: (g.choice((1, 2)),)),
    "hvo": (4, lambda g: (g.choice((0, 1)),)),
    "use": (3, lambda g: (g.choice((1, 3, 8)),)),
    "release": (2, lambda g: ()),
    "poison": (2, lambda g: (g.choice(("hard_offline_page", "soft_offline_page")),)),
    "plug": (5, lambda g: ()),
    "unplug": (3, lambda g: ()),
    "virtio-mem": (3, lambda g: (g.choice((0, 2, 64, 130, 256)),)),
}


def draw_step(generator: random.Random, kind: str | None = None) -> Step:
    """Draw a step, or the options of one."""
    if kind is None:
        weights = [weight for weight, _ in _KINDS.values()]
        (kind,) = generator.choices(list(_KINDS), weights)
    return Step(kind, generator.randrange(1 << 16), _KINDS[kind][1](generator))


class Running:
    """A guest of a layout, which steps are done to."""

    def __init__(self, kernel: Kernel, layout: Layout, directory: Path) -> None:
        self.layout = layout
        self.directory = directory
        self._files: list[tuple[int, Path]] = []
        self._plugged: set[int] = set()
        arguments = [*("-m", f"slots=32,maxmem={64 * GIB >> 20}M")]
        for node in range(layout.nodes):
            arguments += self._backend(f"ram{node}", _NODE_SIZE, node * _NODE_SIZE)
            arguments += ["-numa", f"node,nodeid={node},memdev=ram{node}"]
        for index, part in enumerate(layout.parts):
            if not part.later:
                arguments += self._backend(f"memory{index}", part.size, part.addr)
                arguments += ["-device", ",".join(f"{k}={v}" for k, v in _device(index, part))]
        self.guest = Guest(
            kernel,
            (),
            cpu=layout.cpu,
            memory=layout.memory,
            parameters=layout.parameters,
            qemu_arguments=arguments,
            modules=(*MODULES, "virtio_mem"),
        )

    def _backend(self, name: str, size: int, address: int) -> list[str]:
        path = self.directory / name
        with open(path, "wb") as file:
            file.truncate(size)
        self._files.append((address, path))
        return ["-object", f"memory-backend-file,id={name},share=on,mem-path={path},size={size}"]

    def start(self, series: str) -> None:
        """Learn what lasts, once the guest is up."""
        self.memory = Memory(self._files)
        self.root = Root.of(self.guest, self.memory)
        if any(part.labels for part in self.layout.parts):
            # Regions that have labels need them written.
            self.guest.run(
                "ndctl disable-region all; ndctl init-labels all; ndctl enable-region all"
            )
        self.guest.run("mkdir -p /huge; mount -t hugetlbfs none /huge")
        self.observed = observe(self.guest)
        ram = [
            (start, end)
            for start, end, name in self.observed.iomem
            if name == "System RAM" and end < self.layout.memory
        ]
        self.known = Expectations(
            early=frozenset(
                number for a, b in ram for number in range(a // SECTION, b // SECTION + 1)
            ),
            series=series,
            masks=at_least(series, "7.1"),
        )

    def _pick(self, chosen: int, names: Sequence[Any]) -> Any:
        names = sorted(names)
        return names[chosen % len(names)] if names else None

    def do(self, step: Step) -> str | None:
        """
        Do a step.

        :return: why the guest refused it, empty if it did it; ``None`` if there is nothing
            to do it to
        """
        command = self._command(step, self.observed)
        if command is None:
            return None
        result = self.guest.run(command, timeout=_TIMEOUT, check=False)
        self.observed = self.settle()
        lines = [line for line in result.stdout.splitlines() if line.strip()]
        return (lines[0] if lines else "refused") if result.returncode else ""

    def settle(self) -> Observed:
        """Return what the guest says once it says the same twice."""
        before = observe(self.guest)
        for _ in range(20):
            time.sleep(0.1)
            now = observe(self.guest)
            if now.settled(before):
                break
            before = now
        return now

    def _command(self, step: Step, now: Observed) -> str | None:
        chosen, options = step.chosen, step.options
        namespace = self._pick(chosen, now.namespaces)
        hmem = sorted(name for name, (_, nd) in now.dax.items() if not nd)
        kmem = sorted(name for name, (driver, _) in now.dax.items() if driver == "kmem")
        device = self._pick(chosen, [name for name in now.dax if name not in kmem])
        #: the memory blocks that were not there at boot
        blocks = [n for n in now.blocks if n not in self.known.early]
        huge, gigantic = _HUGE.format(2048), _HUGE.format(1048576)
        if step.kind == "make namespace":
            free = [name for name, (_, _, rest) in now.regions.items() if rest]
            region = self._pick(chosen, free)
            if region is None:
                return None
            mode, where, align, percent = options
            size = now.regions[region][2] * int(percent) // 100 // (64 * MIB) * (64 * MIB)
            given = "" if int(percent) == 100 or not size else f" --size={size}"
            return f"ndctl create-namespace --region={region}{given} {_mode(mode, where, align)}"
        if step.kind == "remake namespace" and namespace:
            return f"ndctl create-namespace --force --reconfig={namespace} {_mode(*options)}"
        if step.kind in ("destroy namespace", "disable namespace") and namespace:
            force = "--force " if step.kind.startswith("destroy") else ""
            return f"ndctl {step.kind.replace(' ', '-')} {force}{namespace}"
        if step.kind == "enable namespaces":
            return "ndctl enable-namespace all"
        if step.kind == "to system-ram" and device:
            return f"daxctl reconfigure-device --force --mode=system-ram {options[0]} {device}"
        if step.kind == "to devdax" and kmem:
            name = self._pick(chosen, kmem)
            return f"daxctl reconfigure-device --force --mode=devdax {name}"
        if step.kind == "make dax" and hmem:
            size, align = options
            region = str(self._pick(chosen, hmem))[3:].partition(".")[0]
            return f"daxctl create-device --region={region} --size={size}M --align={align}"
        if step.kind == "destroy dax" and hmem:
            name = self._pick(chosen, hmem)
            return f"daxctl disable-device {name}; daxctl destroy-device {name}"
        if step.kind == "block" and blocks:
            block = self._pick(chosen, blocks)
            return f"echo {options[0]} > {_BLOCKS}/memory{block}/state"
        if step.kind == "blocks" and blocks:
            files = " ".join(f"{_BLOCKS}/memory{n}/state" for n in sorted(blocks))
            return f"for one in {files}; do echo {options[0]} > $one; done; true"
        if step.kind == "huge":
            return f"echo {options[0]} > {huge}/nr_hugepages"
        if step.kind == "gigantic":
            return f"echo {options[0]} > {gigantic}/nr_hugepages"
        if step.kind == "surplus":
            return f"echo {options[0]} > {huge}/nr_overcommit_hugepages"
        if step.kind == "demote":
            return f"echo {options[0]} > {gigantic}/demote"
        if step.kind == "hvo":
            return f"echo {options[0]} > /proc/sys/vm/hugetlb_optimize_vmemmap"
        if step.kind == "use":
            return f"fallocate -l {int(options[0]) * 2}M /huge/file{chosen % 4}"
        if step.kind == "release":
            return "rm $(ls /huge/* | head -n 1)"
        if step.kind == "poison":
            # Of RAM that the kernel's image is not in, and of devices.
            places = [
                (start, end + 1)
                for start, end, name in now.iomem
                if start >= 256 * MIB and name.startswith(("System RAM", "dax"))
            ]
            if not places:
                return None
            start, end = places[chosen % len(places)]
            address = start + chosen * 997 * 4096 % (end - start)
            return f"echo {address:#x} > {_BLOCKS}/{options[0]}"
        if step.kind in ("plug", "unplug"):
            return self._plug(step)
        if step.kind == "virtio-mem":
            names = [f"device{i}" for i, p in enumerate(self.layout.parts) if p.kind == step.kind]
            if not names:
                return None
            size = int(options[0]) * MIB
            self._qmp(
                "qom-set",
                path=f"/machine/peripheral/{names[0]}",
                property="requested-size",
                value=size,
            )
            return "sleep 2"
        return None

    def _plug(self, step: Step) -> str | None:
        later = {index for index, part in enumerate(self.layout.parts) if part.later}
        index = self._pick(
            step.chosen, later - self._plugged if step.kind == "plug" else later & self._plugged
        )
        if index is None:
            return None
        part = self.layout.parts[index]
        if step.kind == "plug":
            name, path = f"memory{index}", self.directory / f"memory{index}"
            if not path.exists():
                self._backend(name, part.size, part.addr)
                self.memory.add(part.addr, path)
                options = {"mem-path": str(path), "size": part.size, "share": True}
                self._qmp(
                    "object-add", **{"qom-type": "memory-backend-file", "id": name}, **options
                )
            self._qmp("device_add", **dict(_device(index, part)))
            self._plugged.add(index)
        else:
            self._qmp("device_del", id=f"device{index}")
        return "sleep 2"

    def _qmp(self, command: str, **arguments: object) -> bool:
        try:
            self.guest.execute(command, **arguments)
        except LostGuestError:
            raise
        except GuestError as error:
            print(f"    {error}", flush=True)
            return False
        return True

    def walked(self) -> Vmemmap:
        """Return the vmemmap as the page tables map it now."""
        return walk(self.memory, self.root)

    def compare(self, generator: random.Random) -> list[Alarm]:
        """Run all audits, twice if there is a difference: the guest runs on."""
        for attempt in range(3):
            if attempt:
                self.observed = self.settle()
            found = compare(
                self.guest, self.memory, self.root, self.known, generator, self.observed
            )
            if not found:
                break
        return found


def _device(index: int, part: Part) -> list[tuple[str, Any]]:
    # Options of QEMU's -device and of device_add.
    found: list[tuple[str, Any]] = [
        ("driver", {"dimm": "pc-dimm", "nvdimm": "nvdimm"}.get(part.kind, f"{part.kind}-pci")),
        ("id", f"device{index}"),
        ("memdev", f"memory{index}"),
        ("memaddr" if part.kind.startswith("virtio") else "addr", part.addr),
    ]
    if part.kind != "virtio-pmem":
        found.append(("node", part.node))
    if part.labels:
        found.append(("label-size", part.labels))
    return found


def _mode(mode: str | int, where: str | int, align: str | int) -> str:
    if mode in ("raw", "sector"):
        return f"--mode={mode}"
    return f"--mode={mode} --map={where} --align={align}"


@dataclass
class Hunt:
    """A hunt over one kernel, and what came of it."""

    kernel: Kernel
    seed: int
    out: Path | None = None
    boots: int = 0
    steps: int = 0
    refused: int = 0
    #: steps that were done, by kind
    kinds: Counter[str] = field(default_factory=Counter)
    causes: Counter[str] = field(default_factory=Counter)
    #: guests that the kernel brought down, and the kernel's own complaints, by title
    lost: list[str] = field(default_factory=list)
    complaints: Counter[str] = field(default_factory=Counter)
    alarms: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0
    _started: float = 0

    @contextmanager
    def running(self, layout: Layout) -> Iterator[Running]:
        """Boot a layout."""
        with tempfile.TemporaryDirectory(prefix="vmemscope-hunt-") as directory:
            running = Running(self.kernel, layout, Path(directory))
            with running.guest:
                running.start(self.kernel.series)
                self.boots += 1
                try:
                    yield running
                finally:
                    self.causes.update(running.known.causes)
                    running.memory.close()

    def run(
        self, seconds: float, *, steps: int = _STEPS, boots: int | None = None, stop: bool = True
    ) -> None:
        """
        Hunt until the time is up.

        :param steps: steps in each guest
        :param boots: most guests, as many as there is time for if ``None``
        :param stop: stop at the first alarm
        """
        start = self._started = time.monotonic()
        seed = self.seed
        while time.monotonic() - start < seconds and not (stop and self.alarms):
            if boots is not None and seed - self.seed == boots:
                break
            generator = random.Random(seed)
            layout = draw_layout(generator)
            print(f"seed {seed}: {layout}", flush=True)
            self._guest(layout, generator, seed, steps, start + seconds)
            self.seconds = time.monotonic() - start
            seed += 1

    def _guest(
        self, layout: Layout, generator: random.Random, seed: int, steps: int, end: float
    ) -> None:
        done: list[Step] = []
        found: list[Alarm] = []
        # Namespaces to begin with.
        first = [draw_step(generator, "remake namespace") for _ in range(3)]
        try:
            with self.running(layout) as running:
                found = self._audit(running, done, seed)
                while not found and len(done) < steps and time.monotonic() < end:
                    step = first.pop() if first else draw_step(generator)
                    if self._do(running, step, done):
                        found = self._audit(running, done, seed)
                if found:
                    self._keep(running, layout, done, seed, found)
        except LostGuestError as error:
            title = _title(str(error))
            print(f"  lost the guest: {title}", flush=True)
            self.lost.append(f"seed {seed}, after {len(done)} steps: {title}")
            if self.out:
                (self.out / f"lost-{seed}.txt").write_text("\n".join([*map(str, done), str(error)]))
            return
        if found:
            shrunk = self.shrink(layout, done, found[0])
            self.alarms[-1]["shrunk"] = [str(one) for one in shrunk]
            self._script(layout, shrunk, seed)
            print("  steps that are needed:", *map(str, shrunk), sep="\n    ", flush=True)

    def _do(self, running: Running, step: Step, done: list[Step]) -> bool:
        # Do a step; return whether anything can have changed.
        refused = running.do(step)
        if refused is None:
            return False
        done.append(step)
        self.steps += 1
        self.kinds[step.kind] += not refused
        self.refused += bool(refused)
        seconds = time.monotonic() - self._started
        print(
            f"{seconds:5.0f} s {len(done):3} {step}" + (f" ({refused[:90]})" if refused else ""),
            flush=True,
        )
        return True

    def _audit(self, running: Running, done: list[Step], seed: int) -> list[Alarm]:
        log = running.guest.run("dmesg -c", check=False).stdout
        for line in re.findall(r"(?:WARNING|BUG|Oops)[:\s].*", log):
            self.complaints[re.sub(r"0x[0-9a-f]+|\b[0-9a-f]{8,}\b|\d+", "N", line)[:100]] += 1
            print(f"      the kernel says: {line}", flush=True)
        return running.compare(random.Random(seed * 1000 + len(done)))

    def _keep(
        self, running: Running, layout: Layout, done: list[Step], seed: int, found: list[Alarm]
    ) -> None:
        self.alarms.append(
            {
                "seed": seed,
                "series": self.kernel.series,
                "release": self.kernel.release,
                "found": [one._asdict() for one in found[:20]],
                "steps": [str(one) for one in done],
            }
        )
        print(f"ALARM, seed {seed}, {self.kernel.release}", flush=True)
        for one in found[:20]:
            print(f"  {one.kind}: {one.text}", flush=True)
        if self.out:
            self._script(layout, done, seed)
            running.guest.dump(self._path(seed, "core").absolute(), "kdump-zlib")

    def _path(self, seed: int, suffix: str) -> Path:
        assert self.out
        return self.out / f"alarm-{self.kernel.series}-{seed}.{suffix}"

    def _script(self, layout: Layout, steps: Sequence[Step], seed: int) -> None:
        if self.out:
            document = {
                "series": self.kernel.series,
                "layout": asdict(layout),
                "steps": list(steps),
                "alarm": self.alarms[-1],
            }
            self._path(seed, "json").write_text(json.dumps(document, indent=1))

    def replay(self, layout: Layout, steps: Sequence[Step]) -> list[Alarm]:
        """Do steps in a new guest; return the differences after the last."""
        with self.running(layout) as running:
            for step in steps:
                running.do(step)
            return running.compare(random.Random(1))

    def shrink(
        self, layout: Layout, steps: Sequence[Step], alarm: Alarm, boots: int = _SHRINK_BOOTS
    ) -> list[Step]:
        """
        Return fewer steps after which the same kind of difference is there.

        The last step is always one of them.

        :param boots: most guests to boot, one for each attempt
        """
        kept = list(steps)
        size = max(1, len(kept) - 1)
        while size >= 1 and kept:
            at, smaller = 0, False
            while at < len(kept) - 1:
                if not boots:
                    return kept
                boots -= 1
                attempt = kept[:at] + kept[min(at + size, len(kept) - 1) :]
                try:
                    again = any(one.kind == alarm.kind for one in self.replay(layout, attempt))
                except GuestError:
                    again = False
                print(f"  shrinking: {len(attempt)} steps: {again}", flush=True)
                if again:
                    kept, smaller = attempt, True
                else:
                    at += size
            size = size // 2 if not smaller or size > len(kept) else min(size, len(kept) // 2)
        return kept

    def summary(self) -> dict[str, Any]:
        """Return what came of it, as ``docs/tested.md`` has it."""
        return {
            "release": self.kernel.release,
            "seconds": round(self.seconds),
            "boots": self.boots,
            "steps": self.steps,
            "refused": self.refused,
            "kinds": dict(sorted(self.kinds.items())),
            "causes": dict(self.causes),
            "complaints": dict(self.complaints),
            "lost": self.lost,
            "alarms": [
                f"seed {one['seed']}: {one['found'][0]['kind']}: {one['found'][0]['text'][:200]}"
                for one in self.alarms
            ],
        }


def _title(text: str) -> str:
    # What the kernel's console says of its end.
    for pattern in (r"(?:kernel BUG|BUG:|Oops|Kernel panic).*", r"no answer within.*"):
        found = re.search(pattern, text)
        if found:
            return found[0][:160]
    return text.splitlines()[0][:160]


def _load(path: Path) -> tuple[str, Layout, list[Step]]:
    document = json.loads(path.read_text())
    layout = document["layout"]
    layout["parts"] = tuple(Part(*one) for one in layout["parts"])
    layout["parameters"] = tuple(layout["parameters"])
    steps = [Step(kind, chosen, tuple(options)) for kind, chosen, options in document["steps"]]
    return document["series"], Layout(**layout), steps


def main(arguments: Sequence[str]) -> int:
    """Hunt as the command line says; return 1 if there was an alarm."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.guests hunt",
        description="change a guest's memory at random, and audit it after each step",
    )
    parser.add_argument("--kernel", choices=SERIES, default="7.2", help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=1800, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=_STEPS, help="in each guest: %(default)s")
    parser.add_argument("--go-on", action="store_true", help="do not stop at an alarm")
    parser.add_argument("--replay", type=Path, metavar="SCRIPT", help="do what a script says")
    parser.add_argument(
        "--out", type=Path, default=Path("hunt"), help="directory for what is kept (hunt)"
    )
    parser.add_argument(
        "--record",
        action="store_true",
        help=f"add the summary to {PATH.relative_to(PATH.parents[1])}",
    )
    given = parser.parse_args(arguments)
    given.out.mkdir(parents=True, exist_ok=True)
    if given.replay:
        series, layout, steps = _load(given.replay)
        hunt = Hunt(get_kernel(series), given.seed, given.out)
        found = hunt.replay(layout, steps)
        for one in found:
            print(f"{one.kind}: {one.text}")
        return bool(found)
    hunt = Hunt(get_kernel(given.kernel), given.seed, given.out)
    try:
        hunt.run(given.seconds, steps=given.steps, stop=not given.go_on)
    finally:
        print(json.dumps(hunt.summary(), indent=1))
        if given.record:
            record_hunt(given.kernel, hunt.summary())
    return bool(hunt.alarms)
