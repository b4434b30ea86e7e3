"""Two hosts on one machine: network namespaces with addresses and processes of their own, and lessons run on them.

    python -m tests.hosts --keep           # every lesson with RAY_ADDRESS set; the table goes to cluster/two_hosts.md
    python -m tests.hosts --keep 01 04     # some of them, whose rows are replaced in the table

`ray stop` in a host reaches nothing outside of it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import nbformat
import psutil
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError

from tests.notebook_rules import NOTEBOOKS, REPOSITORY

README = (REPOSITORY / "cluster" / "README.md").read_text()
HEAD_START, JOIN, STATUS, STOP = re.findall(r"```bash\n(.*?)```", README.partition("## On Kubernetes")[0], re.S)
ADDRESS_IN_README = "10.0.0.1"
ADDRESSES = ("10.201.7.1", "10.201.7.2")
NEW_HOST = ["unshare", "--net", "--pid", "--fork", "--mount-proc", "--kill-child"]
IMPOSSIBLE = "Hosts are made of namespaces, for which Linux wants root and the commands unshare, nsenter and ip."

TABLE = REPOSITORY / "cluster" / "two_hosts.md"
SECONDS_PER_CELL = 900
SAYS_IT = "The cluster lacks"
SAYS_WITHIN_S = 30  # what a lesson cannot have here, it must name as soon as that
LESSONS = sorted(NOTEBOOKS.glob("[0-9]*.ipynb"))


@dataclass
class Host:
    """A machine of its own: its address, its home folder, and the process that keeps it."""

    address: str
    home: Path
    keeper: int

    def run(self, commands: str, given: str = "", timeout: float = 120, **variables: str) -> tuple[int, str]:
        """Run lines of shell in it; returns the exit code, and all that they said."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PYTEST"))}
        own = {
            "HOME": str(self.home),
            "RAY_TMPDIR": str(self.home),
            "RAY_USAGE_STATS_ENABLED": "0",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        done = subprocess.run(
            ["nsenter", "--target", str(self.keeper), "--net", "--pid", "--mount", "bash", "-ec", commands],
            input=given, env={**kept, **own, **variables}, cwd=self.home, timeout=timeout,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        return done.returncode, done.stdout


def hosts_are_possible() -> bool:
    """Whether this system lets us make hosts."""
    if not (sys.platform == "linux" and os.geteuid() == 0 and all(map(shutil.which, ("unshare", "nsenter", "ip")))):
        return False
    return subprocess.run([*NEW_HOST, "ip", "link", "add", "net0", "type", "veth"], capture_output=True).returncode == 0


@contextmanager
def two_hosts() -> Iterator[tuple[Host, Host]]:
    """Two hosts with a cable between them; what runs on them ends with the block."""
    with ExitStack() as ends:
        made = []
        for address in ADDRESSES:
            # Short, because Ray keeps sockets below it.
            home = Path(
                ends.enter_context(tempfile.TemporaryDirectory(prefix="h", dir="/tmp", ignore_cleanup_errors=True))
            )
            keeper = subprocess.Popen([*NEW_HOST, "sleep", "infinity"])
            ends.callback(keeper.wait)
            ends.callback(keeper.kill)
            while not psutil.Process(keeper.pid).children():
                pass
            made.append(Host(address, home, psutil.Process(keeper.pid).children()[0].pid))
        first, second = made
        cable = ["ip", "link", "add", "net0", "type", "veth", "peer", "name", "net0", "netns", str(second.keeper)]
        subprocess.run(["nsenter", "--target", str(first.keeper), "--net", *cable], check=True)
        for host in made:
            host.run(f"ip link set lo up; ip address add {host.address}/24 dev net0; ip link set net0 up")
        yield first, second


def joined(head: Host, other: Host) -> None:
    """Make a cluster of the two, by the commands of cluster/README.md."""
    code, said = head.run(HEAD_START.replace(ADDRESS_IN_README, head.address), GLOO_SOCKET_IFNAME="net0")
    token = re.search(r"^[0-9a-f]{32,}$", said, re.M)
    assert code == 0 and token, said
    join = JOIN.replace(ADDRESS_IN_README, head.address)
    code, said = other.run(join, given=token[0] + "\n", GLOO_SOCKET_IFNAME="net0")
    assert code == 0, said


@dataclass(frozen=True)
class Ran:
    """How a lesson went.

    Attributes:
        lesson: name of the notebook.
        seconds: of the whole.
        said: last line of the error that ended it; empty: it ran to its end.
        seconds_of_cell: how long the cell took that ended it, or the slowest one.
        cell: first line of that cell.
    """

    lesson: str
    seconds: float
    said: str
    seconds_of_cell: float
    cell: str

    def is_good(self) -> bool:
        """Whether the lesson ended, or said in time what it lacks; any other error is a broken lesson."""
        return not self.said or (SAYS_IT in self.said and self.seconds_of_cell <= SAYS_WITHIN_S)

    def row(self) -> str:
        ended = f"after {self.seconds_of_cell:.0f} s it says: {self.said}" if self.said else "runs to its end"
        return f"| {self.lesson} | {ended} | {self.seconds:.0f} |"


def run_lesson(head: Host, notebook: Path, shared: Path, until: str = "", **variables: str) -> Ran:
    """Run a lesson on the head, at its laptop size, joined to the cluster there; not further than the tag `until`."""
    environment = {
        "RAY_AUTH_MODE": "token",
        "RAY_ADDRESS": f"{head.address}:6379",
        "RAY_COURSE_RESULTS": str(shared),
        "GLOO_SOCKET_IFNAME": "net0",
        "PYTHONPATH": str(REPOSITORY),
        **variables,
    }
    command = f"cd {REPOSITORY}; {sys.executable} -m tests.hosts --execute {notebook} --until {until or '-'}"
    code, said = head.run(command, timeout=3600, **environment)
    assert code == 0, said
    return Ran(**json.loads(said.splitlines()[-1]))


def execute(notebook: Path, until: str = "") -> Ran:
    """Run a lesson here, cell by cell, until its end, the cell with the tag `until`, or its first error."""
    book = nbformat.read(notebook, 4)
    client = NotebookClient(book, timeout=SECONDS_PER_CELL, resources={"metadata": {"path": str(notebook.parent)}})
    start, took, said = time.perf_counter(), [(0.0, "start of the kernel")], ""
    with client.setup_kernel():
        for index, cell in enumerate(book.cells):
            began = time.perf_counter()
            try:
                client.execute_cell(cell, index)
            except CellExecutionError as error:
                said = f"{error.ename}: {error.evalue}".strip().splitlines()[-1]
            except CellTimeoutError:
                said = f"the cell did not end within {SECONDS_PER_CELL} s"
            took.append((time.perf_counter() - began, cell.source.partition("\n")[0]))
            if said or until in cell.metadata.get("tags", []):
                break
    seconds, line = took[-1] if said else max(took)
    return Ran(notebook.stem, time.perf_counter() - start, said, seconds, line)


def table(rows: list[Ran], stored: str = "") -> str:
    """The rows in Markdown, and those of a stored table whose lessons were not run again."""
    lines = {line.split(" | ")[0]: line for line in stored.splitlines() if re.match(r"\| \d\d_", line)}
    lines |= {row.row().split(" | ")[0]: row.row() for row in rows}
    return "| lesson | on two hosts | seconds |\n|---|---|---|\n" + "".join(
        f"{lines[name]}\n" for name in sorted(lines)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("lessons", nargs="*", help="beginnings of names, such as 01; default: all")
    parser.add_argument("--keep", action="store_true", help=f"store the table in cluster/{TABLE.name}")
    parser.add_argument("--execute", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--until", default="", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.execute:
        print(json.dumps(vars(execute(asked.execute, asked.until))))
        return
    if not hosts_are_possible():
        sys.exit(IMPOSSIBLE)
    chosen = [path for path in LESSONS if not asked.lessons or path.name.startswith(tuple(asked.lessons))]
    rows = []
    for path in chosen:
        with two_hosts() as (head, other), tempfile.TemporaryDirectory() as shared:
            joined(head, other)
            rows.append(run_lesson(head, path, Path(shared)))
            print(rows[-1], flush=True)
    print("\n" + table(rows))
    if asked.keep:
        stored = TABLE.read_text() if asked.lessons and TABLE.exists() else ""
        TABLE.write_text(f"# The lessons on two hosts\n\n{ABOUT}\n\n{table(rows, stored)}")
    if bad := [row.lesson for row in rows if not row.is_good()]:
        sys.exit(f"these neither ended nor said within {SAYS_WITHIN_S} s what they lack: {', '.join(bad)}")


ABOUT = """\
Each lesson at its laptop size, with `RAY_ADDRESS` set, on a cluster of two hosts. They are network namespaces on one
machine with two cores, so its times say nothing about real machines. `python -m tests.hosts --keep` measures them."""


if __name__ == "__main__":
    main()
