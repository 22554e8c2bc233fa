# SPDX-License-Identifier: LGPL-2.1-or-later
"""
QEMU's monitor protocol: the few commands that are needed before drgn attaches.

QEMU's docs/interop/qmp-spec describes the protocol.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

__all__ = ("Monitor", "MonitorError", "QmpEvent")

#: bytes of one message; the longest is the answer to ``info mtree``, about 100 KiB
_MAX_MESSAGE = 16 << 20


class MonitorError(Exception):
    """QEMU refused a command, or the socket is not of QEMU."""


class QmpEvent(Struct, frozen=True):
    """An event, with QEMU's time."""

    #: ``STOP``, for example
    name: str
    #: seconds since the epoch
    time: float


class Monitor:
    """
    A client of one QMP socket, after the greeting.

    :param connection: the caller's socket; its timeout applies to each wait
    :raises MonitorError: if the answer is not QMP
    :raises OSError: if no answer comes (``TimeoutError``), or the socket fails
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._received = bytearray()
        #: all events received
        self.events: list[QmpEvent] = []
        if "QMP" not in self._message():
            raise MonitorError("QEMU sent no QMP greeting")
        self.execute("qmp_capabilities")

    def execute(
        self, command: str, arguments: Mapping[str, object] | None = None, fd: int | None = None
    ) -> Any:
        """
        Execute a command.

        :param fd: file descriptor to pass along, over a Unix socket
        :return: QEMU's return value
        :raises MonitorError: if QEMU returned an error
        :raises OSError: as the constructor does
        """
        message = json.dumps({"execute": command, "arguments": arguments or {}}).encode() + b"\r\n"
        if fd is None:
            self._connection.sendall(message)
        else:
            sent = socket.send_fds(self._connection, [message], [fd])
            if rest := message[sent:]:
                self._connection.sendall(rest)
        while True:
            answer = self._message()
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                error = answer["error"]
                description = error.get("desc") if isinstance(error, dict) else None
                raise MonitorError(str(description or error))
            self._note(answer)

    def wait_for(self, event: str) -> QmpEvent:
        """Return the last event of a name; wait for it if there is none."""
        while True:
            for one in reversed(self.events):
                if one.name == event:
                    return one
            self._note(self._message())

    def _note(self, message: dict[str, Any]) -> None:
        try:
            time = message["timestamp"]
            seconds = time["seconds"] + time["microseconds"] / 1e6
            self.events.append(QmpEvent(str(message["event"]), float(seconds)))
        except (KeyError, TypeError, ValueError):
            raise MonitorError("QEMU sent neither an answer nor an event") from None

    def _message(self) -> dict[str, Any]:
        while b"\n" not in self._received:
            piece = self._connection.recv(1 << 16)
            if not piece:
                raise MonitorError("the connection was closed")
            self._received += piece
            if len(self._received) > _MAX_MESSAGE:
                raise MonitorError(f"QEMU sent a message of more than {_MAX_MESSAGE} bytes")
        line, _, rest = bytes(self._received).partition(b"\n")
        self._received = bytearray(rest)
        try:
            message = json.loads(line)
        except ValueError:
            message = None
        if not isinstance(message, dict):
            raise MonitorError(f"the answer is not QMP: {line[:60]!r}")
        return message
