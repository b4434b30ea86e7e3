"""Lay out the learner's own copies of the notebooks in work/, without outputs; called by `make lab`.

    python tools/own_copies.py

The course's own notebooks stay as they are, so `git pull` never meets a
learner's changes. Only what is written in the cells counts: a copy that was
merely run is untouched. An untouched copy follows the course (its outputs go),
a changed one is kept, and a new version is laid beside it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
# What a learner opens, and the pictures in it. Settings of tools stay in notebooks/.
KINDS = {".ipynb", ".png", ".svg", ".jpg"}
# In work/: name of each file that was laid out -> digest of what stood in it.
STATE = ".laid_out.json"
# How a new version is called that is laid beside a changed copy.
BESIDE = re.compile(r"\.new\d*(?=\.[^.]+$)")


class UnreadableNotebookError(Exception):
    """A file that should be a notebook and is none."""


@dataclass
class Done:
    """What was done, as names of files relative to work/."""

    new: list[str] = field(default_factory=list)
    back: list[str] = field(default_factory=list)
    updated: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    same: list[str] = field(default_factory=list)
    sentences: list[str] = field(default_factory=list)

    def line(self, folder: str) -> str:
        """One line for the terminal."""
        parts = [
            (len(self.new), "new"),
            (len(self.back), "laid out again"),
            (len(self.updated), "updated"),
            (len(self.removed), "removed, because the course no longer has them"),
            (len(self.kept), "kept with your changes"),
        ]
        said = [f"{count} {what}" for count, what in parts if count]
        if not said:
            return f"{folder}/: your copies of the notebooks are those of the course."
        if self.same:
            said.append(f"{len(self.same)} as they were")
        return f"{folder}/: your copies of the notebooks: {', '.join(said)}."


def read_notebook(content: bytes) -> dict[str, Any]:
    """Parse a notebook.

    Raises:
        UnreadableNotebookError: if it is no notebook of format 4.
    """
    try:
        notebook = json.loads(content)
        for cell in notebook["cells"]:
            "".join(cell["source"]), cell["cell_type"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UnreadableNotebookError(f"{type(error).__name__}: {error}") from None
    return notebook


def without_outputs(notebook: dict[str, Any]) -> dict[str, Any]:
    """The same cells as if they had never been run."""
    for cell in notebook["cells"]:
        cell.get("metadata", {}).pop("execution", None)
        if cell["cell_type"] == "code":
            cell["outputs"], cell["execution_count"] = [], None
    return notebook


def digest(name: str, content: bytes) -> str:
    """What somebody wrote into a file, as a short text: of a notebook its cells, of other files every byte.

    Raises:
        UnreadableNotebookError: if the name says notebook and the content is none.
    """
    if name.endswith(".ipynb"):
        cells = read_notebook(content)["cells"]
        written = [[cell["cell_type"], "".join(cell["source"]), cell.get("attachments") or {}] for cell in cells]
        content = json.dumps(written, sort_keys=True).encode()
    return hashlib.sha256(content).hexdigest()


def copy_of(name: str, content: bytes) -> bytes:
    """What a fresh copy holds."""
    if not name.endswith(".ipynb"):
        return content
    notebook = without_outputs(read_notebook(content))
    return (json.dumps(notebook, indent=1, ensure_ascii=False) + "\n").encode()


def write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: a full disk leaves the old one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        unfinished.write_bytes(content)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def read_state(path: Path) -> dict[str, str]:
    """The digests of what was laid out.

    Raises:
        ValueError: if the file is damaged.
    """
    if not path.exists():
        return {}
    state = json.loads(path.read_bytes())
    if not isinstance(state, dict) or not all(isinstance(value, str) for value in state.values()):
        raise ValueError("no names with digests")
    return state


def files_of(course: Path) -> list[str]:
    """Names of the files of the course that learners get."""
    names = [path.relative_to(course) for path in sorted(course.rglob("*")) if path.suffix in KINDS and path.is_file()]
    return [name.as_posix() for name in names if not any(part.startswith(".") for part in name.parts)]


def lay_out(course: Path, work: Path) -> Done:
    """Bring the copies in `work` up to date with `course`, and lose nothing that somebody wrote there.

    Args:
        course: the folder of the course's notebooks.
        work: the learner's folder; made if needed.

    Returns:
        What was done.

    Raises:
        OSError: if something cannot be written; what lies in `work` is then as
            it was, or as the course has it.
    """
    done = Done()
    try:
        state = read_state(work / STATE)
    except ValueError:
        state = {}
        done.sentences.append(
            f"{work.name}/{STATE} was damaged and is made anew: a copy that differs from the course counts as yours."
        )
    names = files_of(course)
    try:
        for name in names:
            _lay_out_one(name, course, work, state, done)
        for name in [name for name in state if BESIDE.sub("", name) not in names]:
            _remove(name, work, state, done)
    finally:
        write(work / STATE, (json.dumps(state, indent=1, sort_keys=True) + "\n").encode())
    return done


def _lay_out_one(name: str, course: Path, work: Path, state: dict[str, str], done: Done) -> None:
    content = (course / name).read_bytes()
    try:
        current = digest(name, content)
    except UnreadableNotebookError as error:
        done.sentences.append(
            f"{course.name}/{name} is no notebook ({error}), so {work.name}/ gets no copy of it: "
            f"'git checkout {course.name}/{name}' restores it."
        )
        return
    target, before = work / name, state.get(name)
    if not os.path.lexists(target):
        write(target, copy_of(name, content))
        (done.new if before is None else done.back).append(name)
    else:
        own = _digest_of(target, name)
        if own == current:
            done.same.append(name)
        elif own is not None and own == before:
            write(target, copy_of(name, content))
            done.updated.append(name)
        else:
            done.kept.append(name)
            if before != current or own is None:
                _lay_beside(name, content, work, state, done, readable=own is not None)
    state[name] = current


def _lay_beside(name: str, content: bytes, work: Path, state: dict[str, str], done: Done, readable: bool) -> None:
    """Put the course's version beside a copy that stays; an older one there is replaced only if it is untouched."""
    path, number, current = Path(name), 1, digest(name, content)
    while True:
        beside = path.with_suffix(f".new{number if number > 1 else ''}{path.suffix}").as_posix()
        if not os.path.lexists(work / beside):
            break
        there = _digest_of(work / beside, name)
        if there is not None and there in (state.get(beside), current):
            break
        number += 1
    write(work / beside, copy_of(name, content))
    state[beside] = current
    why = "you changed it" if readable else "it cannot be read as a notebook"
    done.sentences.append(
        f"{work.name}/{name} was kept, because {why}; the course's version lies beside it: {work.name}/{beside}"
    )


def _remove(name: str, work: Path, state: dict[str, str], done: Done) -> None:
    """Take away an untouched copy of something that the course no longer has."""
    if os.path.lexists(work / name) and _digest_of(work / name, name) == state[name]:
        (work / name).unlink()
        done.removed.append(name)
    del state[name]


def _digest_of(path: Path, name: str) -> str | None:
    """What stands in a copy, or None if it cannot be read as what it should be."""
    try:
        return digest(name, path.read_bytes())
    except (UnreadableNotebookError, OSError):
        return None


def main() -> None:
    work = REPOSITORY / "work"
    try:
        done = lay_out(REPOSITORY / "notebooks", work)
    except OSError as error:
        where = f" ({Path(error.filename).name})" if error.filename else ""
        sys.exit(
            f"The copies in {work.name}/ could not be laid out: {error.strerror}{where}. "
            "What you wrote there is untouched; solve this and run the same command again."
        )
    print("\n".join([done.line(work.name), *done.sentences]), flush=True)


if __name__ == "__main__":
    main()
