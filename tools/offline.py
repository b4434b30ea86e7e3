"""Run a command without a network: only the loopback interface is left.

    python tools/offline.py COMMAND ...

Where the system does not allow that (macOS, some containers), the command runs
with the network as it is, and a line says so.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import struct
import subprocess
import sys

INSIDE = "--inside"
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1


def isolation() -> list[str] | None:
    """The command that makes a network namespace, or None if the system has none for us."""
    if not shutil.which("unshare"):
        return None
    command = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--net"]
    allowed = subprocess.run([*command, "true"], capture_output=True).returncode == 0
    return command if allowed else None


def loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sh", b"lo", 0)
        flags = struct.unpack("16sh", fcntl.ioctl(any_socket, SIOCGIFFLAGS, request)[:18])[1]
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh", b"lo", flags | IFF_UP))


def main(arguments: list[str]) -> None:
    if arguments[0] == INSIDE:
        loopback_up()
        os.environ["RAY_COURSE_OFFLINE"] = "1"
        os.execvp(arguments[1], arguments[1:])
    command = isolation()
    if command is None:
        print("No network namespace on this system: the tests run with the network as it is.", flush=True)
        os.execvp(arguments[0], arguments)
    os.execvp(command[0], [*command, sys.executable, __file__, INSIDE, *arguments])


if __name__ == "__main__":
    main(sys.argv[1:])
