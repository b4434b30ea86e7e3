"""What never belongs into a committed notebook: whatever tells on which machine it was run."""

from __future__ import annotations

import re
import socket
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
# Allowed, because they are the same everywhere: `~/`, `/tmp/ray`, `/tmp/ray/session_latest`.
MACHINE_PATTERNS = (
    r"/home/[\w.-]+",
    r"(?<![\w/])/root\b",
    r"/Users/[\w.-]+",
    r"\b[A-Za-z]:\\+Users\b",
    r"(?<![\w.~])/tmp/(?!ray\b(?![\w-]))[\w.-]+[\w./-]*",
    r"/tmp/ray/session_\d[\w./-]*",  # names the second and the process of one run
    r"/var/(?:folders|tmp)/[\w./+-]*",
    r"[\w./~+-]*/(?:site|dist)-packages\b[\w./-]*",
    r"--(?:extra-)?index-url[= ]\S+",
    r"--(?:find-links|trusted-host)[= ]\S+",
    # The brackets keep this file from holding the name that it looks for.
    r"\b(?:[\w-]+\.)*(?:pypi|python[h]osted|artifactory|nexus|devpi)(?:\.[\w-]+)+",
    # Private networks: Ray prints the address of its node.
    r"(?<![\d.])(?:10\.\d{1,3}|192\.168|172\.(?:1[6-9]|2\d|3[01]))\.\d{1,3}\.\d{1,3}\b(?![.\d])",
)
_ANY = re.compile("|".join(f"(?:{pattern})" for pattern in MACHINE_PATTERNS))


def machine_paths(text: str) -> list[str]:
    """Everything in a text that belongs to one machine: paths, user names, hosts, package indexes.

    Args:
        text: source or output of a cell.

    Returns:
        The pieces that were found, each once, in the order in which they stand.
    """
    found = [match.group() for match in _ANY.finditer(text)]
    # Of this machine more is known. Short folders such as /usr are no secret.
    here = [str(folder) for folder in (REPOSITORY, Path.home(), Path(sys.prefix)) if len(folder.parts) > 2]
    found += [folder for folder in here if folder in text]
    host = socket.gethostname()
    if len(host) > 4 and host != "localhost" and re.search(rf"\b{re.escape(host)}\b", text):
        found.append(host)
    return list(dict.fromkeys(found))
