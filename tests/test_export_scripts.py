"""tools.export_scripts: the scripts that are made of lessons 04, 05 and 07."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest

from tests.conftest import run_patiently
from tools import export_scripts
from tools.export_scripts import FOLDER, SETTINGS, ScriptError, export, lines_of_code

REPOSITORY = Path(__file__).resolve().parent.parent
PARTS = tomllib.loads(SETTINGS.read_text())
# Shows the whole way in a minute; the laptop's own size is for the long tests.
SMALL = '{"epochs": 1, "batch_per_worker": 256}'
# What a script prints last, and in which range the number has to be.
ENDS = {
    "train_fashion_mnist": (r"validation accuracy (0\.\d+)", 0.6, 0.95),
    "tune_fashion_mnist": (r"test accuracy (0\.\d+)", 0.5, 0.95),
    "finetune_gptj": (r"perplexity (\d+)", 50, 1000),
}


@pytest.fixture(scope="module")
def texts() -> dict[Path, str]:
    return export_scripts.exported()


@pytest.mark.fast
def test_scripts_are_up_to_date(texts: dict[Path, str]) -> None:
    assert set(FOLDER.iterdir()) == set(texts)
    for path, text in texts.items():
        assert path.read_text() == text, f"{path.name} is not what the lesson says: run make scripts"


@pytest.mark.fast
def test_every_function_has_types_and_a_description(texts: dict[Path, str]) -> None:
    for path, text in texts.items():
        tree = ast.parse(text)
        assert ast.get_docstring(tree), path.name
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        assert len(functions) > 7
        for function in functions:
            arguments = [a for a in ast.walk(function.args) if isinstance(a, ast.arg) and a.arg != "self"]
            assert function.returns is not None, f"{path.name}: {function.name}"
            assert all(a.annotation is not None for a in arguments), f"{path.name}: {function.name}"
            assert function.name == "main" or ast.get_docstring(function), f"{path.name}: {function.name}"


@pytest.mark.fast
def test_lines_of_code_are_counted() -> None:
    assert (
        lines_of_code('"""Of the\nmodule."""\n\nimport a  # why\n# not\n\n\ndef f():\n    """Of f."""\n    g()\n') == 3
    )


TIMES = """\
import math

# doubles
def twice(x):
    return 2 * x


factor = 3


def times(x):
    return factor * twice(x)"""


@pytest.fixture
def lesson(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A notebook of the name "00", of which the first cell is for the script."""
    monkeypatch.setattr(export_scripts, "REPOSITORY", tmp_path)
    (tmp_path / "pyproject.toml").write_text((REPOSITORY / "pyproject.toml").read_text())
    (tmp_path / "notebooks").mkdir()
    cells = [nbformat.v4.new_code_cell(source) for source in (TIMES, "times", "import random\nprint(random.random())")]
    cells[0].metadata.tags = cells[1].metadata.tags = ["script"]
    path = tmp_path / "notebooks" / "00.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


FUNCTIONS = {
    "twice": {"twice": ["(x: float) -> float", "Twice x."]},
    "times": {"times": ["(x: float) -> float", "Six x."]},
}
PART = {"description": "A script.", "begin": "", "end": "print(times(7))", "functions": FUNCTIONS}


@pytest.mark.fast
def test_what_needs_the_names_of_main_stands_in_main(lesson: Path) -> None:
    script = export("00", PART)
    before, main = script.split("def main() -> None:\n")
    assert '# doubles\ndef twice(x: float) -> float:\n    """Twice x."""\n' in before
    assert '    def times(x: float) -> float:\n        """Six x."""\n' in main and "    print(times)\n" in main
    assert "import math" not in script and "random" not in script
    command = [sys.executable, "-c", script]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1] == "42"


@pytest.mark.fast
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"replace": [["factor = 4", ""]]}, "replaces 'factor = 4', expected once in the cells of 00.ipynb, found 0"),
        ({"replace": [["factor", ""]]}, "expected once in the cells of 00.ipynb, found 2 times"),
        ({"functions": {}}, "has no types of twice in 00.ipynb"),
        ({"functions": {**FUNCTIONS, "twice": {"thrice": ["()", ""]}}}, "describes thrice in twice"),
        ({"end": "print(unknown, other)"}, "uses unknown, other and does not make it"),
        ({"end": "\n".join(f"print({i})" for i in range(200))}, "lines of code, expected at most 175"),
    ],
)
def test_what_does_not_fit_is_told(lesson: Path, change: dict, said: str) -> None:
    with pytest.raises(ScriptError, match=re.escape(said)):
        export("00", {**PART, **change})


@pytest.mark.fast
def test_a_lesson_without_tagged_cells_is_told(lesson: Path) -> None:
    notebook = nbformat.read(lesson, 4)
    for cell in notebook.cells:
        cell.metadata.pop("tags", None)
    nbformat.write(notebook, lesson)
    with pytest.raises(ScriptError, match="00.ipynb has no cell with the tag 'script'"):
        export("00", PART)


def run_script(name: str, folder: Path, **variables: str) -> float:
    """Run a script at its laptop size, from another folder; returns the number that it prints at its end."""
    environment = {**os.environ, "RAY_COURSE_RESULTS": str(folder), "HF_HUB_OFFLINE": "1", **variables}
    environment.pop("RAY_COURSE_SIZE", None)
    command = [sys.executable, str(FOLDER / f"{name}.py"), "--size", "laptop"]
    done = run_patiently(command, cwd=folder, env=environment, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    found = re.findall(ENDS[name][0], done.stdout)
    assert found, done.stdout[-2000:]
    return float(found[-1])


@pytest.mark.long  # test_script_as_a_job runs another one in make test
def test_a_script_runs(tmp_path: Path) -> None:
    _, low, high = ENDS["train_fashion_mnist"]
    assert low <= run_script("train_fashion_mnist", tmp_path, RAY_COURSE_SETTINGS=SMALL) <= high
    assert (tmp_path / "fashion_mnist_resnet18" / "model.safetensors").stat().st_size > 40e6


@pytest.mark.long
@pytest.mark.parametrize("name", list(ENDS))
def test_scripts_run_at_the_size_of_a_laptop(tmp_path: Path, name: str) -> None:
    _, low, high = ENDS[name]
    assert low <= run_script(name, tmp_path) <= high


@pytest.mark.fast
def test_a_script_says_what_it_can_do() -> None:
    command = [sys.executable, str(FOLDER / "finetune_gptj.py"), "--help"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "Fine-tune GPT-J on Shakespeare" in said and "{laptop,cluster}" in said
    assert PARTS.keys() == {"04_train_fashion_mnist", "05_tune_asha", "07_finetune_gptj"}
