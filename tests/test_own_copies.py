"""The learner's own copies in work/: they follow the course, and nothing that somebody wrote is lost."""

from __future__ import annotations

import errno
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import nbformat
import pytest
from markdown_it import MarkdownIt

pytestmark = pytest.mark.fast

REPOSITORY = Path(__file__).resolve().parent.parent
SCRIPT = REPOSITORY / "tools" / "own_copies.py"
LESSON, OTHER, SOLUTION = "01_tasks.ipynb", "02_store.ipynb", "solutions/01_tasks.ipynb"
DEEP_DIVE, REFERENCE = "deep_dives/patterns.ipynb", "reference/older_code.ipynb"


def load() -> ModuleType:
    """The script, which is in no package; dataclasses want to find its module."""
    spec = importlib.util.spec_from_file_location("own_copies", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["own_copies"] = module
    spec.loader.exec_module(module)
    return module


own_copies = load()


def notebook(*sources: str) -> nbformat.NotebookNode:
    """A notebook that was run: each source is a code cell with an output."""
    made = nbformat.v4.new_notebook()
    made.cells.append(nbformat.v4.new_markdown_cell("# A lesson"))
    for number, source in enumerate(sources, 1):
        outputs = [nbformat.v4.new_output("stream", text=f"output of {source}")]
        made.cells.append(nbformat.v4.new_code_cell(source, outputs=outputs, execution_count=number))
        made.cells[-1].metadata.update({"tags": [f"cell-{number}"], "execution": {"iopub.execute_input": "2026"}})
    return made


def save(made: nbformat.NotebookNode, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(made, path)


def sources(path: Path) -> list[str]:
    return [cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]


def change(path: Path, *own: str) -> None:
    """What a learner does in JupyterLab: other cells, and the file saved."""
    save(notebook(*own), path)


@pytest.fixture
def course(tmp_path: Path) -> Path:
    save(notebook("1 + 1", "2 + 2"), tmp_path / "notebooks" / LESSON)
    save(notebook("put()"), tmp_path / "notebooks" / OTHER)
    save(notebook("the answer"), tmp_path / "notebooks" / SOLUTION)
    (tmp_path / "notebooks" / "picture.png").write_bytes(b"\x89PNG")
    (tmp_path / "notebooks" / "ruff.toml").write_text("line-length = 120\n")
    (tmp_path / "notebooks" / ".ipynb_checkpoints").mkdir()
    save(notebook("old"), tmp_path / "notebooks" / ".ipynb_checkpoints" / LESSON)
    return tmp_path / "notebooks"


@pytest.fixture
def work(course: Path) -> Path:
    """The copies as the first `make lab` lays them out."""
    own_copies.lay_out(course, course.parent / "work")
    return course.parent / "work"


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_first_copies_have_the_same_cells_and_no_outputs(course: Path, work: Path) -> None:
    assert names(work) == sorted([own_copies.STATE, LESSON, OTHER, "picture.png", SOLUTION])
    for name in (LESSON, OTHER, SOLUTION):
        original, copy = nbformat.read(course / name, 4), nbformat.read(work / name, 4)
        nbformat.validate(copy)
        assert [(c.id, c.cell_type, c.source) for c in copy.cells] == [
            (c.id, c.cell_type, c.source) for c in original.cells
        ]
        assert [c.metadata.get("tags") for c in copy.cells] == [c.metadata.get("tags") for c in original.cells]
        code = [cell for cell in copy.cells if cell.cell_type == "code"]
        assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
        assert "output of" not in (work / name).read_text() and "execute_input" not in (work / name).read_text()
    assert (work / "picture.png").read_bytes() == b"\x89PNG"


def test_second_time_nothing_is_touched(course: Path, work: Path) -> None:
    before = {name: (work / name).stat().st_mtime_ns for name in names(work) if name != own_copies.STATE}
    done = own_copies.lay_out(course, work)
    assert len(done.same) == 4 and not done.sentences
    assert done.line("work") == "work/: your copies of the notebooks are those of the course."
    assert {name: (work / name).stat().st_mtime_ns for name in before} == before


def test_untouched_copy_follows_the_course(course: Path, work: Path) -> None:
    save(notebook("1 + 1", "3 + 3"), course / LESSON)
    done = own_copies.lay_out(course, work)
    assert sources(work / LESSON) == ["1 + 1", "3 + 3"]
    assert done.updated == [LESSON] and "1 updated" in done.line("work") and not done.sentences


def test_copy_that_was_only_run_is_untouched(course: Path, work: Path) -> None:
    shutil.copy(course / LESSON, work / LESSON)  # with outputs, counts and times
    assert own_copies.lay_out(course, work).same == [LESSON, OTHER, "picture.png", SOLUTION]
    assert "output of 1 + 1" in (work / LESSON).read_text(), "outputs went although the course is the same"
    save(notebook("3 + 3"), course / LESSON)
    assert own_copies.lay_out(course, work).updated == [LESSON]


def test_course_that_was_only_run_again_changes_nothing(course: Path, work: Path) -> None:
    fresh = nbformat.read(course / LESSON, 4)
    fresh.cells[1].outputs[0].text = "2, this time"
    save(fresh, course / LESSON)
    assert own_copies.lay_out(course, work).same == [LESSON, OTHER, "picture.png", SOLUTION]


def test_changed_copy_stays_while_the_course_is_the_same(course: Path, work: Path) -> None:
    change(work / LESSON, "1 + 1", "my answer")
    done = own_copies.lay_out(course, work)
    assert sources(work / LESSON) == ["1 + 1", "my answer"]
    assert done.kept == [LESSON] and not done.sentences
    assert done.line("work") == "work/: your copies of the notebooks: 1 kept with your changes, 3 as they were."
    assert not list(work.rglob("*.new*"))


def test_changed_copy_stays_and_the_new_version_lies_beside_it(course: Path, work: Path) -> None:
    change(work / LESSON, "1 + 1", "my answer")
    save(notebook("1 + 1", "3 + 3"), course / LESSON)
    done = own_copies.lay_out(course, work)
    assert sources(work / LESSON) == ["1 + 1", "my answer"]
    assert sources(work / "01_tasks.new.ipynb") == ["1 + 1", "3 + 3"]
    assert done.sentences == [
        f"work/{LESSON} was kept, because you changed it; the course's version lies beside it: work/01_tasks.new.ipynb"
    ]
    # Said once; and a new version that was thrown away does not come back.
    (work / "01_tasks.new.ipynb").unlink()
    assert not own_copies.lay_out(course, work).sentences
    assert not (work / "01_tasks.new.ipynb").exists()


def test_attachment_is_a_change(course: Path, work: Path) -> None:
    own = nbformat.read(work / LESSON, 4)
    own.cells[0]["attachments"] = {"mine.png": {"image/png": "iVBORw0KGgo="}}
    save(own, work / LESSON)
    save(notebook("3 + 3"), course / LESSON)
    assert own_copies.lay_out(course, work).kept == [LESSON]


def test_new_version_is_replaced_only_if_it_is_untouched(course: Path, work: Path) -> None:
    change(work / LESSON, "my answer")
    for newest in ("3 + 3", "4 + 4"):
        save(notebook(newest), course / LESSON)
        own_copies.lay_out(course, work)
    assert sources(work / "01_tasks.new.ipynb") == ["4 + 4"]
    # The learner goes on in it: then the next one gets another name, and again the third is replaced.
    change(work / "01_tasks.new.ipynb", "4 + 4", "my second answer")
    for newest in ("5 + 5", "6 + 6"):
        save(notebook(newest), course / LESSON)
        own_copies.lay_out(course, work)
    assert sources(work / LESSON) == ["my answer"]
    assert sources(work / "01_tasks.new.ipynb") == ["4 + 4", "my second answer"]
    assert sources(work / "01_tasks.new2.ipynb") == ["6 + 6"]


def test_unreadable_new_version_stays_too(course: Path, work: Path) -> None:
    change(work / LESSON, "my answer")
    (work / "01_tasks.new.ipynb").write_text("mine, and no notebook")
    save(notebook("3 + 3"), course / LESSON)
    own_copies.lay_out(course, work)
    assert (work / "01_tasks.new.ipynb").read_text() == "mine, and no notebook"
    assert sources(work / "01_tasks.new2.ipynb") == ["3 + 3"]


def test_taking_the_new_version_makes_the_copy_follow_again(course: Path, work: Path) -> None:
    change(work / LESSON, "my answer")
    save(notebook("3 + 3"), course / LESSON)
    own_copies.lay_out(course, work)
    (work / "01_tasks.new.ipynb").replace(work / LESSON)
    assert own_copies.lay_out(course, work).same == [LESSON, OTHER, "picture.png", SOLUTION]
    save(notebook("4 + 4"), course / LESSON)
    assert own_copies.lay_out(course, work).updated == [LESSON]


def test_deleted_copy_comes_back(course: Path, work: Path) -> None:
    (work / LESSON).unlink()
    shutil.rmtree(work / "solutions")
    done = own_copies.lay_out(course, work)
    assert done.back == [LESSON, SOLUTION] and "2 laid out again" in done.line("work")
    assert sources(work / SOLUTION) == ["the answer"]


def test_own_files_of_the_learner_stay(course: Path, work: Path) -> None:
    save(notebook("mine"), work / "notes.ipynb")
    (work / "solutions" / "notes.txt").write_text("mine")
    before = {name: (work / name).read_bytes() for name in ("notes.ipynb", "solutions/notes.txt")}
    (course / LESSON).unlink()
    own_copies.lay_out(course, work)
    assert {name: (work / name).read_bytes() for name in before} == before


def test_deep_dives_and_the_reference_are_copied_and_kept_like_lessons(course: Path, work: Path) -> None:
    for name in (DEEP_DIVE, REFERENCE):
        save(notebook("1 + 1"), course / name)
    assert own_copies.lay_out(course, work).new == [DEEP_DIVE, REFERENCE]
    assert "output of" not in (work / DEEP_DIVE).read_text()
    change(work / DEEP_DIVE, "my answer")
    for name in (DEEP_DIVE, REFERENCE):
        save(notebook("2 + 2"), course / name)
    done = own_copies.lay_out(course, work)
    assert (done.kept, done.updated) == ([DEEP_DIVE], [REFERENCE])
    assert sources(work / DEEP_DIVE) == ["my answer"] and sources(work / REFERENCE) == ["2 + 2"]
    assert sources(work / "deep_dives/patterns.new.ipynb") == ["2 + 2"]
    for name in (DEEP_DIVE, REFERENCE):
        (course / name).unlink()
    assert own_copies.lay_out(course, work).removed == ["deep_dives/patterns.new.ipynb", REFERENCE]


def test_lesson_that_left_the_course_leaves_its_untouched_copy_only(course: Path, work: Path) -> None:
    change(work / OTHER, "my answer")
    for name in (LESSON, OTHER):
        (course / name).unlink()
    done = own_copies.lay_out(course, work)
    assert done.removed == [LESSON] and not (work / LESSON).exists()
    assert sources(work / OTHER) == ["my answer"]
    assert own_copies.lay_out(course, work).removed == []


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"01_tasks.ipynb": 5}', "\x00\x01", '{"cells": {}}'])
def test_damaged_state_loses_nothing(course: Path, work: Path, damage: str) -> None:
    (work / own_copies.STATE).write_bytes(damage.encode())
    change(work / LESSON, "my answer")
    done = own_copies.lay_out(course, work)
    assert sources(work / LESSON) == ["my answer"]
    assert sources(work / "01_tasks.new.ipynb") == ["1 + 1", "2 + 2"]
    assert "was damaged and is made anew" in done.sentences[0]
    # It is whole again: the next time all is quiet.
    assert own_copies.lay_out(course, work).sentences == []


@pytest.mark.parametrize(
    "content", [b"", b"{", b"null", b"[]", b'{"cells": [{}]}', b'{"cells": 3}', b"\xff\xfe", b"[" * 100_000]
)
def test_unreadable_copy_is_kept_with_a_sentence(course: Path, work: Path, content: bytes) -> None:
    (work / LESSON).write_bytes(content)
    for _ in range(2):  # as long as it lies there
        done = own_copies.lay_out(course, work)
        assert (work / LESSON).read_bytes() == content
        assert "cannot be read as a notebook" in done.sentences[0]
    assert sources(work / "01_tasks.new.ipynb") == ["1 + 1", "2 + 2"]
    assert names(work).count("01_tasks.new2.ipynb") == 0


def test_damaged_notebook_of_the_course_gets_a_sentence_and_the_others_their_copies(course: Path) -> None:
    (course / LESSON).write_text("<<<<<<< HEAD")
    work = course.parent / "work"
    done = own_copies.lay_out(course, work)
    assert done.new == [OTHER, "picture.png", SOLUTION]
    assert f"'git checkout notebooks/{LESSON}' restores it" in done.sentences[0]


@pytest.mark.parametrize("after", [0, 1, 3])
def test_full_disk_loses_nothing(course: Path, work: Path, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    change(work / OTHER, "my answer")
    before = {name: (work / name).read_bytes() for name in names(work)}
    for name in (LESSON, OTHER, SOLUTION):
        save(notebook("newer"), course / name)
    really, count = Path.write_bytes, iter(range(100))

    def full(path: Path, content: bytes) -> int:
        if next(count) < after:
            return really(path, content)
        really(path, content[:10])
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(OSError, match="No space left"):
            own_copies.lay_out(course, work)
    # Each file is whole: the old one, or the new one.
    assert (work / OTHER).read_bytes() == before[OTHER]
    assert [name for name in names(work) if "unfinished" in name] == []
    assert all(sources(work / name) in (["newer"], sources_of(before[name])) for name in (LESSON, SOLUTION))
    # With space again everything is finished, and what was written stays.
    own_copies.lay_out(course, work)
    assert sources(work / OTHER) == ["my answer"] and sources(work / LESSON) == ["newer"]
    assert sources(work / "02_store.new.ipynb") == ["newer"]


def sources_of(content: bytes) -> list[str]:
    cells = json.loads(content)["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def run(folder: Path) -> subprocess.CompletedProcess[str]:
    """The script as `make lab` calls it, in a course of its own."""
    (folder / "tools").mkdir(exist_ok=True)
    shutil.copy(SCRIPT, folder / "tools")
    script = str(folder / "tools" / SCRIPT.name)
    return subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60)


def test_command_says_in_one_line_what_it_did(course: Path) -> None:
    done = run(course.parent)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "work/: your copies of the notebooks: 4 new.\n"


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write everywhere")
def test_folder_without_permission_gets_a_sentence(course: Path) -> None:
    course.parent.chmod(0o555)
    try:
        done = run(course.parent)
    finally:
        course.parent.chmod(0o755)
    assert done.returncode == 1 and "could not be laid out: Permission denied" in done.stderr


def test_file_in_the_way_gets_a_sentence(course: Path) -> None:
    (course.parent / "work").write_text("a file that somebody called work")
    done = run(course.parent)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "The copies in work/ could not be laid out: File exists (work)." in done.stderr
    assert (course.parent / "work").read_text() == "a file that somebody called work"


# --- the real notebooks -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("course") / "work"
    own_copies.lay_out(REPOSITORY / "notebooks", work)
    return work


def links(path: Path) -> list[str]:
    """Targets of the links and pictures in the Markdown of a notebook, without those of the web."""
    found: list[str] = []

    def walk(tokens: list[Any]) -> None:
        for token in tokens:
            found.extend(str(token.attrs[key]) for key in ("href", "src") if key in token.attrs)
            walk(token.children or [])

    for cell in nbformat.read(path, 4).cells:
        if cell.cell_type == "markdown":
            walk(MarkdownIt().parse(cell.source))
    return [link for link in found if not re.match(r"[a-z]+:|#", link)]


def test_links_hold_between_the_copies(real: Path) -> None:
    checked = 0
    for path in real.rglob("*.ipynb"):
        for link in links(path):
            target = Path(os.path.normpath(path.parent / link.partition("#")[0]))
            if target.is_relative_to(real):
                # A link to a folder opens nothing but an error in JupyterLab.
                assert target.is_file(), f"{path.name}: {link} is no file"
            else:
                # What lies outside of notebooks/ is at the same place seen from work/.
                assert (REPOSITORY / target.relative_to(real.parent)).is_file(), f"{path.name}: {link} is no file"
                assert target.relative_to(real.parent).parts[0] != "notebooks", f"{path.name} leads away: {link}"
            checked += 1
    assert checked > 20


def test_every_lesson_and_solution_has_a_copy_and_nothing_else_lies_there(real: Path) -> None:
    originals = [path.relative_to(REPOSITORY / "notebooks") for path in (REPOSITORY / "notebooks").rglob("*.ipynb")]
    wanted = [path.as_posix() for path in originals if ".ipynb_checkpoints" not in path.parts]
    assert sorted([*wanted, own_copies.STATE]) == names(real)


def test_git_ignores_the_copies() -> None:
    folder = "work"  # at the top of the repository only
    assert f"/{folder}/" in (REPOSITORY / ".gitignore").read_text().splitlines()
