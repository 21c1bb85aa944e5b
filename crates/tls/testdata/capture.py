#!/usr/bin/env python3
"""Captures the ClientHello of clients that are installed here, each into a file beside this one.

    ./capture.py NAME -- COMMAND ...

listens on a free port of the loopback address, runs the command (with PORT in it replaced by the port),
and writes what its first connection sends until a whole ClientHello is there. See README.md for the commands.
"""

import pathlib
import socket
import subprocess
import sys


def whole(sent: bytes) -> bool:
    """Whether records of a handshake hold all of their first message."""
    message = b""
    while len(sent) >= 5:
        length = int.from_bytes(sent[3:5], "big")
        message += sent[5 : 5 + length]
        sent = sent[5 + length :]
    return len(message) >= 4 and len(message) >= 4 + int.from_bytes(message[1:4], "big")


def main() -> None:
    name, dashes, *command = sys.argv[1:]
    assert dashes == "--", __doc__
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(30)
        port = str(listener.getsockname()[1])
        client = subprocess.Popen(
            [word.replace("PORT", port) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            connection, _ = listener.accept()
            connection.settimeout(30)
            sent = b""
            while not whole(sent):
                part = connection.recv(65536)
                if not part:
                    sys.exit(f"{name}: the client closed after {len(sent)} bytes")
                sent += part
            pathlib.Path(__file__).with_name(name + ".bin").write_bytes(sent)
            print(name, len(sent))
            connection.close()
        finally:
            client.kill()
            client.wait()


main()
