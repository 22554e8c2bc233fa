# SPDX-License-Identifier: LGPL-2.1-or-later
"""Names that hold what no name should: escaped in every command and format."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence

import pytest
from drgn import Object, container_of, sizeof
from drgn.helpers.linux.list import list_for_each_entry

from .answers import problems, problems_of
from .child import Answer, run
from .dump import Damage
from .mutation import STRINGS
from .session import Session
from .test_found import spare_page, write

Sessions = Callable[[str], Session]

IDS = [repr(text)[2:18] for text in STRINGS]


def commands(path: str, name: str | None) -> list[tuple[str, ...]]:
    core = ("-c", path)
    return [
        *(
            ("pgmap", *which, *core, "--format", form)
            for form in ("table", "json", "ndjson", "ktap", "markdown")
            for which in ([], [name or "0x200000000"])
        ),
        *(
            (*command, *core, *form)
            for command in (("memmap",), ("hugetlb",), ("page", "0x200000"))
            for form in ((), ("--format", "json"))
        ),
        ("diff", path, path),
        ("diff", path, path, "--format", "json"),
        ("vmcoreinfo", *core, "-o", os.devnull),
    ]


def ask(session: Session, damage: Damage, name: str | None = None) -> tuple[Answer, ...]:
    """Ask everything; that no answer has a raw control character is compared with each."""
    with session.dump.damaged(damage) as path:
        ran = run(commands(path, name), judge=problems_of)
    assert problems(ran) == []
    return ran.answers


def redirected(session: Session, pointers: Sequence[Object], text: bytes) -> Damage:
    """Have pointers to strings point to another, in a page of its own."""
    physical, address = spare_page(session)
    offset = session.dump.offset(physical)
    assert offset is not None
    links = [write(session, one.address_, address.to_bytes(8, "little")) for one in pointers]
    writes = [one for link in links for one in link.writes]
    return Damage("names", ((offset, text + b"\0"), *writes))


def dax_devices(session: Session) -> Iterator[Object]:
    """Iterate over ``struct dev_dax``, the first of :meth:`Session.names` first."""
    prog = session.map.view.prog
    private = prog["dax_bus_type"].p
    for node in list_for_each_entry(
        "struct device_private", private.klist_devices.k_list.address_of_(), "knode_bus.n_node"
    ):
        yield container_of(node.device, "struct dev_dax", "dev")


def escaped(text: bytes) -> str:
    """Escape as Python does a bytes object that is no UTF-8, and a string that is."""
    decoded = text.decode("utf-8", "backslashreplace")
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode() for one in decoded
    )


def resources(session: Session) -> Iterator[Object]:
    """Iterate over the ``struct resource`` below ``iomem_resource``."""
    pending = [session.map.view.prog["iomem_resource"].child]
    while pending:
        one = pending.pop()
        if one:
            yield one
            pending += [one.sibling, one.child]


@pytest.mark.parametrize("text", STRINGS, ids=IDS)
class TestNames:
    def test_of_a_device(self, session: Sessions, text: bytes) -> None:
        image = session("6.1-all")
        device = next(dax_devices(image))
        answers = ask(image, redirected(image, [device.dev.kobj.name], text), hex(device.pgmap))
        if text:
            assert escaped(text)[:6] in answers[0].out
            # Markdown has escapes of its own.
            assert b"|" in text or escaped(text)[:6] in answers[8].out.replace("\\\\", "\\")

    def test_of_all_else(self, session: Sessions, text: bytes) -> None:
        image = session("6.12-all")
        prog = image.map.view.prog
        names = redirected(image, [one.name for one in resources(image)], text)
        disk = Object(prog, "struct gendisk *", address=image.map.pagemaps[-1].address - 8)
        hstate = Object(prog, "struct hstate", address=prog["hstates"].address_)
        more = [
            write(image, one.address_, text[: sizeof(one) - 1] + b"\0")
            for one in (disk.disk_name, hstate.name)
        ]
        writes = (*names.writes, *(one for damage in more for one in damage.writes))
        answers = ask(image, Damage("names", writes))
        if text:
            # On 6.12, the dax bus has the names of its own; the others are in "page".
            assert any(escaped(text)[:6] in one.out for one in answers)


@pytest.mark.parametrize("text", STRINGS[:-1], ids=IDS[:-1])
def test_release_in_vmcoreinfo(session: Sessions, text: bytes) -> None:
    image = session("6.1-all")
    (start, size), *_ = image.dump.notes
    note = image.dump.read(start, size)
    at = note.index(b"OSRELEASE=") + len(b"OSRELEASE=")
    end = note.index(b"\n", at)
    # As long as it was: the note goes on behind it.
    damage = Damage("release", ((start + at, text[: end - at].ljust(end - at, b"x")),))
    with image.dump.damaged(damage) as path:
        ran = run(commands(path, None), judge=problems_of)
    assert problems(ran) == []
