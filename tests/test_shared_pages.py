# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Pages of the memory map that describe several devices, or RAM, too.

Devices, RAM from boot and RAM added later lie side by side at random places, on all
architectures. Two witnesses say which pages and frames there are, one page at a time: the
simulator's own page tables, and drgn's walker (not on riscv64, where drgn has none). Which
pages count with RAM follows from the kernel's rules: sections from boot are described as a
whole, and RAM is there before devices.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import NamedTuple

import numpy as np
import pytest
from drgn import FaultError
from drgn.helpers.linux.mm import follow_phys

from vmemscope.audits.page import audit_each
from vmemscope.cli.main import main
from vmemscope.collect import collect
from vmemscope.errors import UsageError
from vmemscope.machine import Kernel
from vmemscope.report.html import render_html
from vmemscope.sim.faults import Finding
from vmemscope.sim.image import Image
from vmemscope.sim.kernel import SimulatedKernel
from vmemscope.sim.units import GIB, MIB
from vmemscope.vmemmap.layout import Geometry
from vmemscope.vmemmap.shared_pages import cut_to_keepers

from .kernels import Audited, audit_core, image, write

ARCHS = (
    *("ppc64le-64k", "arm64-64k", "arm64-16k", "x86_64", "riscv64", "arm64", "ppc64le", "s390x"),
)
#: those in which a page of the memory map describes more than a subsection
SHARING = ARCHS[:3]

#: what a simulated kernel refuses, and what the kernel would do
REFUSED = (
    "the altmap is too small",
    "no part of a section can be deduplicated after",
    "maps no page for the end of what begins at",
)


class Machine:
    """Writes a scenario of devices and RAM side by side."""

    def __init__(self, random: Random, arch: str) -> None:
        self.random = random
        self.arch = arch
        self.section = {"arm64-64k": 512, "s390x": 256, "ppc64le": 16, "ppc64le-64k": 16}.get(
            arch, 128
        )
        self.devices: list[str] = []
        self.blocks: list[str] = []

    def text(self) -> str:
        """Return the scenario."""
        random = self.random
        end = random.choice([512, 514, 520, 546, 576, 1000])
        node = f'[[node]]\nstart = 0\nsize = "{end}M"\n'
        self.fill(end + random.choice([0, 0, 2, 4, 64, 300]))
        at = 4096 + 2 * random.randrange(64)
        for _ in range(random.randrange(3)):
            at = self.fill(at)
            start = -(-at // self.section) * self.section
            if start - at >= 4 and random.random() < 0.5:
                # Up to the block, whatever page that is in.
                self.device(at, start - at)
            self.block(start)
            at = start + self.section
        self.fill(at)
        # They are added in any order.
        random.shuffle(self.devices)
        return "scale = false\n" + node + "".join(self.blocks + self.devices)

    def fill(self, at: int) -> int:
        """Put some devices from a place on, in MiB; return where they end."""
        for _ in range(self.random.randrange(1, 4)):
            size = self.random.choice([4, 6, 16, 30, 62, 64, 96, 128, 254, 512])
            at = self.device(at, size) + self.random.choice([0, 0, 0, 2, 4, 64])
        return at

    def device(self, start: int, size: int) -> int:
        number = len(self.devices)
        kind = self.random.choice(["devdax", "fsdax", "altmap", "hmem", "ranges"])
        align = self.random.choice(["4K", "2M"])
        if self.arch.startswith("arm64-"):
            align = "4K"
        lines = [f'name = "{f"pmem{number}" if kind == "fsdax" else f"dax{number}.0"}"']
        place = f'start = {start << 20:#x}\nsize = "{size}M"'
        if kind == "fsdax":
            lines += ['type = "fsdax"', place]
        elif kind == "ranges" and size >= 30:
            # Two ranges, with 2 MiB between that nothing describes, or somebody's.
            lines += ['type = "hmem"', 'align = "4K"']
            second = f'{{start = {start + 12 << 20:#x}, size = "{size - 12}M"}}'
            lines.append(f'ranges = [{{start = {start << 20:#x}, size = "10M"}}, {second}]')
        else:
            lines += [f'type = "{"hmem" if kind == "hmem" else "devdax"}"', f'align = "{align}"']
            lines += [place] + ['map = "dev"'] * (kind == "altmap" and size >= 30)
        self.devices.append("[[pagemap]]\n" + "\n".join(lines) + "\n")
        return start + size

    def block(self, start: int) -> None:
        online = self.random.choice(["true", "false"])
        where = self.random.choice(["mem", "mem", "self"])
        self.blocks.append(
            f'[[block]]\nstart = {start << 20:#x}\nsize = "{self.section}M"\n'
            f'online = {online}\nmap = "{where}"\n'
        )


class Witness(NamedTuple):
    """What there is, one page at a time."""

    #: name of a device -> its vpages, and the frame of each
    devices: dict[str, dict[int, int | None]]
    #: vpages that count with RAM
    ram: set[int]

    @property
    def counted(self) -> dict[int, int | None]:
        """The vpages that count with devices."""
        return {
            vpage: pfn
            for pages in self.devices.values()
            for vpage, pfn in pages.items()
            if vpage not in self.ram
        }

    def sums(self) -> tuple[int, int, int]:
        """Return pages and frames behind devices, each once, and pages saved."""
        frames = [pfn for pfn in self.counted.values() if pfn is not None]
        return len(self.counted), len(set(frames)), len(frames) - len(set(frames))

    def shared(self) -> dict[int, list[str]]:
        """Return the vpages that describe a device and something else, and the devices."""
        having: dict[int, list[str]] = {}
        for name, pages in self.devices.items():
            for vpage in pages:
                having.setdefault(vpage, []).append(name)
        return {v: names for v, names in having.items() if len(names) > 1 or v in self.ram}


def vpages_of(kernel: SimulatedKernel, first: int, end: int) -> range:
    """Return the vpages with the ``struct page``s of page frames."""
    size, page = kernel.addresses.struct_page_size, kernel.units.page_size
    return range(first * size // page, -(-end * size // page))


def address_of(kernel: SimulatedKernel, vpage: int) -> int:
    return kernel.addresses.vmemmap_base + vpage * kernel.units.page_size


def witness_of(kernel: SimulatedKernel) -> Witness:
    units, step = kernel.units, kernel.units.pages_per_subsection
    devices: dict[str, dict[int, int | None]] = {}
    own: set[int] = set()
    for record in kernel.pagemaps:
        pages: dict[int, int | None] = {}
        for first, end in record.ranges:
            own.update(range(first, end, step))
            for vpage in vpages_of(kernel, first, end):
                found = kernel.tables.translate(address_of(kernel, vpage))
                pages[vpage] = None if found is None else found // units.page_size
        devices[record.name] = pages
    ram: set[int] = set()
    for number in kernel.boot_memmap:
        first = number * units.pages_per_section
        for pfn in range(first, first + units.pages_per_section, step):
            if pfn not in own:
                ram.update(vpages_of(kernel, pfn, pfn + step))
    for block in kernel.scenario.blocks:
        ram.update(
            vpages_of(kernel, block.start >> units.page_shift, block.end >> units.page_shift)
        )
    return Witness(devices, ram)


def made(arch: str, seed: int, sharing: bool = False) -> Iterator[Image]:
    """Yield the image of a seed, maybe of one of the next: some have what the kernel refuses."""
    for number in range(40):
        text = Machine(Random(f"{arch} {seed} {number}"), arch).text()
        try:
            built = image(text, f"7.2@{arch}")
        except UsageError as e:
            if any(words in str(e) for words in REFUSED):
                continue
            raise
        if not sharing or any(len(n) > 1 for n in witness_of(built.kernel).shared().values()):
            yield built


def check_sums(done: Audited, witness: Witness, page_size: int) -> None:
    pages, frames, saved = witness.sums()
    summary = done.pgmap.summary
    assert (summary.vmemmap_pages, summary.backing_frames) == (pages, frames)
    areas = [area for area in done.memmap.areas if area.kind == "pagemap"]
    assert sum(area.pages for area in areas) == pages
    # It is left out where no two devices have the same frame.
    assert (done.memmap.summary.device_frames or sum(area.frames for area in areas)) == frames
    assert sum(area.mapped for area in areas) - frames == saved
    assert summary.saved_bytes == saved * page_size


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("arch", ARCHS)
def test_pages_and_frames_count_once(tmp_path: Path, arch: str, seed: int) -> None:
    built = next(made(arch, seed))
    kernel, witness = built.kernel, witness_of(built.kernel)
    core = Path(write(built, tmp_path))
    done = audit_core(core)
    # What ppc64 leaves of compound pages in a leaf that it finds there (docs/architectures.md).
    allowed = {("pgmap", "page-uninitialised")} if arch == "ppc64le" else set()
    assert {(one.command, one.rule) for one in done.found()} <= allowed
    check_sums(done, witness, kernel.units.page_size)
    shared = witness.shared()
    assert arch in SHARING or not shared
    areas = {area.name: area for area in done.memmap.areas if area.kind == "pagemap"}
    seen: set[int] = set()
    by_place = sorted(done.pgmap.pagemaps, key=lambda one: one.ranges[0].start)
    for one in by_place:
        assert one.name is not None
        pages = witness.devices[one.name]
        frames = {pfn for pfn in pages.values() if pfn is not None}
        assert (one.vmemmap.pages, one.frames.backing) == (len(pages), len(frames))
        # ppc64 leaves a large leaf as it is that it finds.
        assert one.frames.expected == one.frames.backing or arch == "ppc64le"
        mine = {vpage for vpage in pages if vpage in shared}
        if not mine:
            assert not one.shared_pages
            assert not areas[one.name].shared_pages
            continue
        assert one.shared_pages
        assert one.shared_pages == areas[one.name].shared_pages
        others = {name for vpage in mine for name in shared[vpage]} - {one.name}
        others |= {"System RAM"} if mine & witness.ram else set()
        assert set(one.shared_pages.others) == others
        assert one.shared_pages.pages == len(mine)
        assert areas[one.name].pages == len(pages) - one.shared_pages.elsewhere
        if len(one.ranges) == 1 and all(len(other.ranges) == 1 for other in by_place):
            assert one.shared_pages.elsewhere == len(mine & (witness.ram | seen))
        seen |= pages.keys()


@pytest.mark.parametrize("arch", [arch for arch in ARCHS if arch != "riscv64"])
def test_drgn_finds_the_same_frames(tmp_path: Path, arch: str) -> None:
    """Both witnesses agree, so that neither has to be trusted alone."""
    built = next(made(arch, 0, arch in SHARING))
    witness = witness_of(built.kernel)
    prog = Kernel.open_core(write(built, tmp_path)).prog
    random = Random(arch)
    for pages in witness.devices.values():
        # All at the ends, some in the middle.
        chosen = sorted(pages)
        chosen = [*chosen[:3], *random.sample(chosen, min(8, len(chosen))), *chosen[-3:]]
        for vpage in chosen:
            try:
                address = address_of(built.kernel, vpage)
                found = int(follow_phys(prog["init_mm"].address_of_(), address))
            except FaultError:
                assert pages[vpage] is None
            else:
                assert found // built.kernel.units.page_size == pages[vpage]


@pytest.mark.parametrize("arch", SHARING)
def test_page_finds_the_frame_of_a_shared_page(tmp_path: Path, arch: str) -> None:
    built = next(made(arch, 1, True))
    kernel, witness = built.kernel, witness_of(built.kernel)
    opened = Kernel.open_core(write(built, tmp_path))
    shared = witness.shared()
    asked = []
    for record in kernel.pagemaps:
        for first, end in record.ranges:
            asked += [(first, record.name), (end - 1, record.name)]
    reports = audit_each(opened, [pfn for pfn, _ in asked])
    populated = set()
    for (pfn, name), page in zip(asked, reports, strict=True):
        (vpage,) = vpages_of(kernel, pfn, pfn + 1)
        assert page.place is not None
        assert page.place.name == name
        assert page.frame is not None
        assert page.frame.pfn == witness.devices[name][vpage]
        assert vpage in shared or page.place.populated != "neighbour"
        assert page.place.populated == "neighbour" or vpage not in witness.ram
        assert not page.findings
        populated.add(page.place.populated)
    assert "neighbour" in populated


@pytest.mark.parametrize("arch", SHARING)
def test_all_formats_have_the_same_sums(
    tmp_path: Path, arch: str, capsys: pytest.CaptureFixture[str]
) -> None:
    built = next(made(arch, 2, True))
    witness = witness_of(built.kernel)
    core = write(built, tmp_path)
    pages, frames, _ = witness.sums()
    words = f"{pages} pages"
    main(["pgmap", "--all", "-c", core])
    text = capsys.readouterr().out
    assert re.search(rf"pagemaps: {words} of vmemmap \(.*\) in {frames} frames", text)
    main(["memmap", "-c", core])
    memmap = capsys.readouterr().out
    assert re.search(rf"^devices: .* described by {words} in {frames} frames", memmap, re.M)
    sharing = {name for names in witness.shared().values() for name in names}
    for out in (text, memmap):
        said = re.findall(r"^([a-z0-9.]+) (?:shares|has no page of its own: it shares)", out, re.M)
        assert set(said) == sharing
        assert len(said) == len(sharing)
    report = collect(Kernel.open_core(core))
    html = render_html(report)
    assert f"{words} of vmemmap" in html
    assert report.pgmap is not None
    for name in sharing:
        (one,) = (one for one in report.pgmap.pagemaps if one.name == name)
        assert one.shared_pages
        assert one.shared_pages.sentence in html
        main(["pgmap", name, "-c", core])
        assert one.shared_pages.sentence in capsys.readouterr().out


# Damage to a page that devices share.


#: three devices in one page of 64 KiB, two in one of 16 KiB; the second comes first
IN_ONE_PAGE = """
scale = false
[[pagemap]]
name = "dax1.0"
type = "hmem"
align = "4K"
start = {second}
size = "{size}M"
[[pagemap]]
name = "dax0.0"
type = "hmem"
align = "4K"
start = {first}
size = "{size}M"
[[pagemap]]
name = "dax2.0"
type = "hmem"
align = "4K"
start = {third}
size = "96M"
"""


def in_one_page(arch: str) -> tuple[Image, int]:
    """Return an image, and the first vpage that its devices share."""
    # Not where a large leaf begins.
    size, start = (2 if arch == "arm64-16k" else 16), 9216
    places = {"first": start, "second": start + size, "third": start + 2 * size}
    text = IN_ONE_PAGE.format(size=size, **{name: at << 20 for name, at in places.items()})
    built = image(text, f"7.2@{arch}")
    return built, vpages_of(built.kernel, start * MIB >> built.kernel.units.page_shift, 1 << 60)[0]


def entry_of(kernel: SimulatedKernel, vpage: int) -> tuple[np.ndarray, int]:
    address = address_of(kernel, vpage)
    table = kernel.tables.last(address)
    assert table is not None
    return table, kernel.tables.index(address, kernel.units.page_shift)


def having(kernel: SimulatedKernel, vpage: int) -> list[str]:
    """Return the devices that a vpage describes, by address."""
    found = [
        (first, record.name)
        for record in kernel.pagemaps
        for first, end in record.ranges
        if vpage in vpages_of(kernel, first, end)
    ]
    return [name for _, name in sorted(found)]


def found_in(built: Image, directory: Path) -> set[Finding]:
    return audit_core(Path(write(built, directory))).found()


@pytest.mark.parametrize("arch", SHARING)
def test_a_hole_is_each_devices(tmp_path: Path, arch: str) -> None:
    built, vpage = in_one_page(arch)
    table, index = entry_of(built.kernel, vpage)
    table[index] = 0
    address = address_of(built.kernel, vpage)
    names = having(built.kernel, vpage)
    assert len(names) > 1
    expected = {Finding("pgmap", "hole", name, address) for name in names}
    assert found_in(built, tmp_path) == {
        *expected, Finding("memmap", "section-unmapped", None, address)
    }  # fmt: skip


@pytest.mark.parametrize(
    ("count", "rule"), [(0, "refcount-low"), (2, "refcount-high"), (7, "refcount-high")]
)
@pytest.mark.parametrize("arch", SHARING)
def test_references_are_judged_once(tmp_path: Path, arch: str, count: int, rule: str) -> None:
    built, vpage = in_one_page(arch)
    kernel = built.kernel
    pfn = witness_of(kernel).devices["dax0.0"][vpage]
    assert pfn is not None
    kernel.memmap.set_refcount(pfn, count)
    keeper = having(kernel, vpage)[0]
    expected = {Finding("pgmap", rule, keeper, address_of(kernel, vpage))}
    assert found_in(built, tmp_path) == expected


@pytest.mark.parametrize("arch", SHARING)
def test_a_frame_that_is_not_the_pages_own(tmp_path: Path, arch: str) -> None:
    """The frame of another page of one of the devices; its references are too few then."""
    built, vpage = in_one_page(arch)
    kernel = built.kernel
    last = max(witness_of(kernel).devices["dax2.0"])
    assert last not in witness_of(kernel).shared()
    (table, index), (other, at) = entry_of(kernel, vpage), entry_of(kernel, last)
    table[index] = other[at]
    done = audit_core(Path(write(built, tmp_path)))
    keeper = having(kernel, vpage)[0]
    found = {(one.rule, one.pagemap) for one in done.found() if one.command == "pgmap"}
    assert ("frame-shared", "dax2.0") in found
    assert ("refcount-low", keeper) in found
    # One count, and one page that is not alone.
    outcomes = [o for one in done.pgmap.pagemaps for o in one.outcomes if o.violations]
    assert sorted(one.rule for one in outcomes if not one.rule.startswith(("page", "pgmap"))) == [
        "frame-shared", "refcount-low",
    ]  # fmt: skip
    check_sums(done, witness_of(kernel), kernel.units.page_size)


@pytest.mark.parametrize("arch", SHARING)
def test_a_frame_that_is_no_memory(tmp_path: Path, arch: str) -> None:
    """That of a device which the page does not describe, and which has no altmap."""
    built, vpage = in_one_page(arch)
    kernel = built.kernel
    _, end = kernel.pagemap("dax2.0").ranges[0]
    table, index = entry_of(kernel, vpage)
    table[index] = kernel.tables.pte(end - 1)
    done = audit_core(Path(write(built, tmp_path)))
    keeper, *others = having(kernel, vpage)
    rules = {(one.rule, one.pagemap) for one in done.found()}
    assert ("frame-not-memory", keeper) in rules
    assert not {("frame-not-memory", name) for name in others} & rules


#: a device with an altmap between two that have none
ALTMAP = """
scale = false
[[pagemap]]
name = "dax1.0"
type = "devdax"
align = "4K"
map = "dev"
start = {second}
size = "{size}M"
[[pagemap]]
name = "dax0.0"
type = "hmem"
align = "4K"
start = {first}
size = "62M"
[[pagemap]]
name = "dax2.0"
type = "hmem"
align = "4K"
start = {third}
size = "62M"
"""


@pytest.mark.parametrize("place", [(64, 64), (62, 64), (62, 66), (62, 130), (30, 62)])
@pytest.mark.parametrize("arch", SHARING)
def test_the_altmap_of_any_of_the_devices_may_give_the_frame(
    tmp_path: Path, arch: str, place: tuple[int, int]
) -> None:
    """Whichever comes first; and no other frame of the device may."""
    start, size = 9216 + place[0], place[1]
    text = ALTMAP.format(
        first=start - 62 << 20, second=start << 20, third=start + size << 20, size=size
    )
    page = {"arm64-16k": 4}.get(arch, 64)
    # By steps of a page from the start, which arm64 does not align.
    reached = start // page + -(-size // page)
    if arch.startswith("arm64") and reached * page < start + size:
        with pytest.raises(UsageError, match=f"no page for the end .* {start << 20:#x}"):
            image(text, f"7.2@{arch}")
        return
    built = image(text, f"7.2@{arch}")
    kernel = built.kernel
    witness = witness_of(kernel)
    first, end = kernel.pagemap("dax1.0").ranges[0]
    done = audit_core(Path(write(built, tmp_path)))
    assert done.found() == set()
    check_sums(done, witness, kernel.units.page_size)
    (one,) = (one for one in done.pgmap.pagemaps if one.name == "dax1.0")
    on_device = {pfn for pfn in witness.devices["dax1.0"].values() if first <= (pfn or 0) < end}
    assert one.altmap is not None
    assert one.altmap.alloc == len(on_device)
    outcome = next(o for o in one.outcomes if o.rule == "altmap-alloc")
    assert outcome.outcome.value == "checked"
    # Behind what it can hand out is data.
    for vpage in sorted(witness.shared()):
        built = image(text, f"7.2@{arch}")
        table, index = entry_of(built.kernel, vpage)
        table[index] = built.kernel.tables.pte(end - 1)
        found = audit_core(Path(write(built, tmp_path))).found()
        assert "frame-not-memory" in {one.rule for one in found}


# Large leaves that devices share.

#: two devices in one leaf on all of these
IN_ONE_LEAF = """
scale = false
[[pagemap]]
name = "dax0.0"
type = "hmem"
align = "4K"
start = 0x200000000
size = "32M"
[[pagemap]]
name = "dax1.0"
type = "hmem"
align = "4K"
start = 0x202000000
size = "16M"
"""


@pytest.mark.parametrize(("count", "rule"), [(0, "refcount-low"), (2, "refcount-high")])
@pytest.mark.parametrize("arch", ["riscv64", "ppc64le", "ppc64le-64k", "s390x"])
def test_references_of_a_leaf_are_judged_once(
    tmp_path: Path, arch: str, count: int, rule: str
) -> None:
    """With the device at its start, which was added first."""
    built = image(IN_ONE_LEAF, f"7.2@{arch}")
    kernel, witness = built.kernel, witness_of(built.kernel)
    vpage = min(witness.devices["dax0.0"])
    leaf = kernel.tables.leaf(address_of(kernel, vpage))
    assert leaf is not None
    assert leaf[0] > kernel.units.page_shift
    assert kernel.tables.leaf(address_of(kernel, max(witness.devices["dax1.0"]))) == leaf
    pfn = witness.devices["dax0.0"][vpage]
    assert pfn is not None
    assert kernel.memmap.refcount(pfn) == 1
    kernel.memmap.set_refcount(pfn, count)
    found = found_in(built, tmp_path)
    assert found == {Finding("pgmap", rule, "dax0.0", address_of(kernel, vpage))}


def test_references_of_a_leaf_that_boot_made_are_not_judged(tmp_path: Path) -> None:
    """A struct page of 56 bytes: a leaf has parts of two sections, and that of RAM was first."""
    built = image(
        'struct_page = 56\n[[node]]\nstart = 0\nsize = "256M"\n[[node]]\nstart = 0x108000000\n'
        'size = "256M"\n[[pagemap]]\nname = "dax0.0"\ntype = "hmem"\nalign = "4K"\n'
        'start = 0x100000000\nsize = "128M"\n',
        "7.2",
    )
    kernel, witness = built.kernel, witness_of(built.kernel)
    last = max(witness.devices["dax0.0"])
    boot = {block for blocks in kernel.boot_memmap.values() for block in blocks}
    size = kernel.units.pmd_pages
    shared = last // size * size
    pfn = witness.devices["dax0.0"][shared]
    assert pfn in boot
    assert kernel.memmap.refcount(pfn) != 1
    assert found_in(built, tmp_path) == set()


# Frames that are used in part.


#: 96 MiB of a section of 128 MiB, of which riscv64 maps all of the memory map by a large leaf;
#: and 6 MiB, of which arm64 describes 2 by a page of 16 KiB
IN_PART = """
scale = false
[[pagemap]]
name = "dax0.0"
type = "hmem"
align = "4K"
start = 0x200000000
size = "{size}M"
"""


@pytest.mark.parametrize(
    ("arch", "size", "beyond"),
    [("riscv64", 96, 24), ("riscv64", 2, 120), ("arm64-16k", 6, 1), ("arm64-64k", 2, 40)],
)
def test_what_no_device_uses_of_a_frame_can_be_read(
    tmp_path: Path, arch: str, size: int, beyond: int
) -> None:
    """It is there, with what was left in it, and means nothing."""
    built = image(IN_PART.format(size=size), f"7.2@{arch}")
    shift = built.kernel.units.page_shift
    pfn = (0x200000000 >> shift) + (size + beyond << 20 >> shift)
    core = write(built, tmp_path)
    (page,) = audit_each(Kernel.open_core(core), [pfn])
    assert page.place is None
    assert page.frame is not None
    assert page.page.words
    assert any(word.value for word in page.page.words)
    assert not page.findings
    assert not page.not_read
    done = audit_core(Path(core))
    assert done.found() == set()
    assert not done.pgmap.summary.not_read
    assert not done.memmap.summary.not_read


# The rule itself.


@pytest.mark.parametrize("seed", range(30))
def test_each_page_has_one_keeper(seed: int) -> None:
    """RAM, else the first, whatever parts there are; page by page."""
    random = Random(seed)
    at, parts = 0, []
    for _ in range(random.randrange(2, 14)):
        at += random.randrange(3)
        size = random.randrange(1, 9)
        parts.append((at, at + size, random.random() < 0.6))
        at += size
    # Four of what is described to a page.
    start = np.array([first // 4 for first, _, _ in parts])
    end = np.array([-(-stop // 4) for _, stop, _ in parts])
    device = np.array([one for _, _, one in parts])
    low, high = cut_to_keepers(start, end, device)
    for vpage in range(-(-at // 4)):
        several = [n for n in range(len(parts)) if start[n] <= vpage < end[n]]
        keepers = [n for n in range(len(parts)) if low[n] <= vpage < high[n]]
        assert keepers == sorted(several, key=lambda n: (device[n], n))[:1]


def test_subsections_fill_pages_of_4_kib_only() -> None:
    def whole(page_size: int, struct_page: int = 64) -> bool:
        return Geometry(None, page_size, struct_page, 0).whole_subsections  # type: ignore[arg-type]

    assert [whole(size) for size in (4096, 16384, 65536)] == [True, False, False]
    assert whole(4096, 56)
    assert GIB % (65536 // 64 * 65536) == 0
