# SPDX-License-Identifier: LGPL-2.1-or-later
"""Put the lines of the log together that belong together, and find the memory they name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from .patterns import (
    ENDS,
    NOTICES,
    OF_KERNEL,
    OF_WHOM,
    TRACE,
    TROUBLE,
    WORDS_OF,
    Pattern,
    is_about_memory,
)

if TYPE_CHECKING:
    from ..kernel.printk import Message

__all__ = ("Event", "NumberKind", "Subject", "search")

#: what one event writes at most, in lines, and in nanoseconds from its first
_MAX_LINES, _MAX_TIME = 256, 2_000_000_000
#: characters of a line that are searched: no pattern matches later ones
_MAX_COLUMNS = 512
#: subjects of one event
_MAX_SUBJECTS = 64
#: lines that start with these have words that are no registers: code, words of a struct page
_NO_REGISTERS = ("Code: ", "raw: ", "head: ", "page:")


class NumberKind(Enum):
    """What a number in the log is."""

    PFN = "pfn"
    PHYSICAL = "physical"
    #: a virtual address that the message is about
    ADDRESS = "address"
    #: a word in a register, which may be anything
    REGISTER = "register"


class Subject(NamedTuple):
    """A number in the log that may lead to a page."""

    meaning: NumberKind
    number: int


class Event(NamedTuple):
    """What the kernel wrote at one time about one thing."""

    kind: str
    #: whether something went wrong
    trouble: bool
    #: number of its first message, and nanoseconds since boot
    seq: int
    time: int
    caller: str
    #: lines in their order, the first of them in front
    lines: tuple[str, ...]
    #: functions of memory management in its trace, the innermost first
    functions: tuple[str, ...]
    subjects: tuple[Subject, ...]
    #: it counts only with one of these functions, or with a page that can be explained
    needs_trace: bool = False


class _Open:
    """An event whose lines still come."""

    def __init__(self, pattern: Pattern, message: Message, line: str) -> None:
        self.pattern, self.message = pattern, message
        self.lines: list[str] = []
        self.functions: dict[str, None] = {}
        self.subjects: dict[Subject, None] = {}
        #: addresses of the line before, if it did not say whose they are
        self.doubtful: list[int] = []
        #: whether registers in the next lines are a process's
        self.of_process = False
        self.add(line)

    def add(self, line: str) -> None:
        self.lines.append(line)
        text = line[:_MAX_COLUMNS]
        if OF_KERNEL.search(text):
            for address in self.doubtful:
                self._add_subject(Subject(NumberKind.ADDRESS, address))
        self.doubtful.clear()
        for pattern in TROUBLE:
            for subject in _subjects(pattern, text):
                self._add_subject(subject)
            if (found := pattern.regex.search(text)) and "doubtful" in found.groupdict():
                self.doubtful.append(int(found["doubtful"][:18], 16))
        if (found := TRACE.search(text)) and is_about_memory(found[1]):
            self.functions[found[1]] = None
        if whose := OF_WHOM.search(text):
            self.of_process = whose["process"] is not None
        if not self.of_process and not text.lstrip().startswith(_NO_REGISTERS):
            for word in WORDS_OF.findall(text):
                self._add_subject(Subject(NumberKind.REGISTER, int(word, 16)))

    def _add_subject(self, subject: Subject) -> None:
        if len(self.subjects) < _MAX_SUBJECTS:
            self.subjects[subject] = None

    def accepts(self, message: Message) -> bool:
        return len(self.lines) < _MAX_LINES and message.time - self.message.time < _MAX_TIME

    def close(self) -> Event:
        return Event(
            self.pattern.kind,
            True,
            self.message.seq,
            self.message.time,
            self.message.caller,
            tuple(self.lines),
            tuple(self.functions),
            tuple(self.subjects),
            self.pattern.needs_trace,
        )


def search(messages: Iterable[Message]) -> Iterator[Event]:
    """
    Yield the events in a log that name memory, in the order in which they end.

    An event of trouble goes on with what the same process, or CPU, writes after it, up to
    the end of its trace, or the next one.
    """
    opened: dict[str, _Open] = {}
    for message in messages:
        for line in message.text.split("\n"):
            text = line[:_MAX_COLUMNS]
            current = opened.get(message.caller)
            if current is not None and not current.accepts(message):
                yield opened.pop(message.caller).close()
                current = None
            pattern = _first(TROUBLE, text)
            if pattern is not None and (current is None or _starts(current, pattern)):
                if current is not None:
                    yield current.close()
                opened[message.caller] = _Open(pattern, message, line)
            elif current is not None:
                current.add(line)
                if ENDS.search(text):
                    yield opened.pop(message.caller).close()
            elif (notice := _first(NOTICES, text)) is not None:
                yield Event(
                    notice.kind, False, message.seq, message.time, message.caller, (line,), (), ()
                )
    yield from (one.close() for one in opened.values())


def _starts(current: _Open, pattern: Pattern) -> bool:
    """
    Return whether a line starts an event while another goes on.

    Within one, the kernel dumps the page that it is about, and an oops says so again.
    """
    if pattern.kind == "dumped page":
        return False
    if pattern.kind == "oops":
        return not current.pattern.needs_trace
    return not pattern.kind == current.pattern.kind == "memory failure"


def _first(patterns: Sequence[Pattern], text: str) -> Pattern | None:
    return next((one for one in patterns if one.regex.search(text)), None)


def _subjects(pattern: Pattern, text: str) -> Iterator[Subject]:
    found = pattern.regex.search(text)
    if found is None:
        return
    for name, meaning in (
        ("pfn", NumberKind.PFN),
        ("phys", NumberKind.PHYSICAL),
        ("address", NumberKind.ADDRESS),
    ):
        value = found.groupdict().get(name)
        if value is not None and len(value) <= 16:
            yield Subject(meaning, int(value, 16))
