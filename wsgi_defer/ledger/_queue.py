"""How many clients wait for a worker to accept them."""

from __future__ import annotations

import os
import socket
import struct
import sys

# unacked and sacked of struct tcp_info in linux/tcp.h. Of a socket that listens, these
# are the connections that wait, and how many may.
_WAITING = struct.Struct("=24xII")


def listen_queue(listeners: list[int]) -> tuple[int | None, int | None]:
    """Connections that wait on these sockets, and how many can; None if unknown.

    Known on Linux, for TCP. Of a Unix socket, only root could ask.
    """
    waiting = most = 0
    for number in listeners:
        found = _queue_of(number)
        if found is None:
            return None, None
        waiting, most = waiting + found[0], most + found[1]
    return (waiting, most) if listeners else (None, None)


def _queue_of(number: int) -> tuple[int, int] | None:
    if sys.platform != "linux":
        return None
    try:
        with socket.socket(fileno=os.dup(number)) as listener:
            listens = listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            if not listens or listener.family not in (socket.AF_INET, socket.AF_INET6):
                return None
            info = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 32)
        waiting, most = _WAITING.unpack(info)
    except (OSError, struct.error):  # closed meanwhile
        return None
    return waiting, most
