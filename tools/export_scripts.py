"""Export the core of lessons 04, 05 and 07 as scripts with a command line: `make scripts`.

    .venv/bin/python -m tools.export_scripts

The code is that of the cells with the tag "script", in their order. What a script needs beyond them is in
tools/scripts.toml: its first lines, how it ends, types and descriptions of the functions, and what only the lesson
wants and is left out. Functions that use nothing but imports and each other stand in the module; everything else goes
into `main`, as do functions which use names that are made there.
"""

from __future__ import annotations

import ast
import builtins
import re
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path
from typing import Any

import nbformat

REPOSITORY = Path(__file__).resolve().parent.parent
SETTINGS = Path(__file__).with_name("scripts.toml")
FOLDER = REPOSITORY / "scripts"
TAG = "script"
MOST_LINES = 175  # lines of code: without blank ones, comments and descriptions

TYPES = """\
from __future__ import annotations
import argparse
import os
from collections.abc import Iterator, Sequence
from typing import Any
import numpy as np"""
HEAD = """\
parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--size", choices=("laptop", "cluster"), default="laptop", help="default: laptop")
os.environ["RAY_COURSE_SIZE"] = parser.parse_args().size
"""


class ScriptError(ValueError):
    """A notebook and tools/scripts.toml do not fit together; the message says what to change."""


def export(name: str, settings: dict[str, Any]) -> str:
    """The text of one script.

    Args:
        name: of the notebook, without `.ipynb`.
        settings: its part of tools/scripts.toml.

    Raises:
        ScriptError: a replacement does not fit, a function has no types, or the script is too long.
    """
    notebook = nbformat.read(REPOSITORY / "notebooks" / f"{name}.ipynb", 4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    chosen = [cell.source for cell in cells if TAG in cell.metadata.get("tags", [])]
    if not chosen:
        raise ScriptError(f"{name}.ipynb has no cell with the tag {TAG!r}: tag those that the script consists of.")
    code = _replaced(name, "\n\n".join([*chosen, settings["end"]]), settings.get("replace", []))
    imports = [line for cell in cells for line in _imports(cell.source)]
    functions, steps = _parts(code)
    inside = _functions_of_main(functions, steps)
    texts = {f.name: _described(name, f.name, _source(code, f), settings["functions"]) for f in functions}
    body = "\n".join(_step(code, s, texts) for s in steps if _in_main(s, inside))
    script = "\n\n".join(
        [
            f'"""{settings["description"].strip()}\n"""',
            TYPES,
            "\n".join(dict.fromkeys(imports)),
            *(texts[f.name] for f in functions if f.name not in inside),
            "def main() -> None:\n" + textwrap.indent(HEAD + settings["begin"] + "\n" + body, "    "),
            'if __name__ == "__main__":\n    main()\n',
        ]
    )
    script = _formatted(name, script)
    if (lines := lines_of_code(script)) > MOST_LINES:
        raise ScriptError(
            f"The script of {name}.ipynb has {lines} lines of code, expected at most {MOST_LINES}: tag fewer cells."
        )
    return script


def lines_of_code(script: str) -> int:
    """Lines which are neither blank nor comments nor descriptions of the module, a function or a class."""
    lines = script.splitlines()
    told: set[int] = set()
    for node in ast.walk(ast.parse(script)):
        if isinstance(node, (ast.Module, ast.FunctionDef, ast.ClassDef)) and ast.get_docstring(node) is not None:
            told.update(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    counted = [line.strip() for number, line in enumerate(lines, start=1) if number not in told]
    return sum(bool(line) and not line.startswith("#") for line in counted)


def _replaced(name: str, code: str, replacements: list[list[str]]) -> str:
    for old, new in replacements:
        if code.count(old) != 1:
            raise ScriptError(
                f"tools/scripts.toml replaces {old!r}, expected once in the cells of {name}.ipynb, found "
                f"{code.count(old)} times: bring it up to date."
            )
        code = code.replace(old, new)
    return code


def _imports(source: str) -> list[str]:
    return [ast.unparse(s) for s in ast.parse(source).body if isinstance(s, (ast.Import, ast.ImportFrom))]


def _parts(code: str) -> tuple[list[Any], list[ast.stmt]]:
    """The functions and classes, and all statements but imports, in their order."""
    steps = [s for s in ast.parse(code).body if not isinstance(s, (ast.Import, ast.ImportFrom))]
    return [s for s in steps if isinstance(s, (ast.FunctionDef, ast.ClassDef))], steps


def _functions_of_main(functions: list[Any], steps: list[ast.stmt]) -> set[str]:
    """Functions that use a name which `main` makes, by themselves or through one another."""
    made = {
        node.id
        for step in steps
        if step not in functions
        for node in ast.walk(step)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
    inside: set[str] = set()
    while True:
        more = {f.name for f in functions if _free_names(f) & (made | inside)} - inside
        if not more:
            return inside
        inside |= more


def _free_names(function: ast.AST) -> set[str]:
    """Names that a function reads and does not make itself."""
    read, own = set(), set()
    for node in ast.walk(function):
        if isinstance(node, ast.Name):
            (read if isinstance(node.ctx, ast.Load) else own).add(node.id)
        elif isinstance(node, ast.arg):
            own.add(node.arg)
    return read - own - set(dir(builtins))


def _in_main(step: ast.stmt, inside: set[str]) -> bool:
    return not isinstance(step, (ast.FunctionDef, ast.ClassDef)) or step.name in inside


def _step(code: str, step: Any, texts: dict[str, str]) -> str:
    """The text of a statement of `main`, with a blank line above it where the notebook has one or a cell begins.

    What a notebook shows because it stands there by itself has to be printed in a script.
    """
    if isinstance(step, ast.Expr) and isinstance(step.value, ast.Name):
        return f"print({step.value.id})"
    source = _source(code, step)
    text = texts[step.name] if isinstance(step, (ast.FunctionDef, ast.ClassDef)) else source
    first = step.end_lineno - len(source.splitlines())  # counted from 0
    return text if first and code.splitlines()[first - 1].strip() else f"\n{text}"


def _source(code: str, step: Any) -> str:
    """The text of a statement, with its decorators and the comments above it."""
    lines = code.splitlines()
    first = min([step.lineno, *(d.lineno for d in getattr(step, "decorator_list", []))]) - 1
    while first and lines[first - 1].startswith("#"):
        first -= 1
    return "\n".join(lines[first : step.end_lineno])


def _described(name: str, function: str, text: str, functions: dict[str, Any]) -> str:
    """The text of a function, with its types, and with a description where the lesson has none."""
    if function not in functions:
        raise ScriptError(f"tools/scripts.toml has no types of {function} in {name}.ipynb: add them to [functions].")
    for method, (types, description) in functions[function].items():
        pattern = re.compile(rf"^( *)def {method}\(.*?\):\n(?P<doc> *\"\"\")?", re.M | re.S)
        found = pattern.search(text)
        if not found:
            raise ScriptError(f"tools/scripts.toml describes {method} in {function}, which {name}.ipynb does not have.")
        indent = found[1] + "    "
        doc = found["doc"] or f'{indent}"""{description}"""\n'
        text = f"{text[: found.start()]}{found[1]}def {method}{types}:\n{doc}{text[found.end() :]}"
    return text


def _formatted(name: str, script: str) -> str:
    """Sorted imports, none that is not used, and no line broken that fits.

    Raises:
        ScriptError: the script uses a name that nothing in it makes.
    """
    ruff = [sys.executable, "-m", "ruff"]
    options = ["--config", str(REPOSITORY / "pyproject.toml"), "--stdin-filename", str(FOLDER / "script.py")]
    fixed = subprocess.run(
        [*ruff, "check", "--quiet", "--fix", "--select", "F401,I", *options, "-"],
        input=script, capture_output=True, text=True, check=False,
    )  # fmt: skip
    wide = ["--config", "format.skip-magic-trailing-comma=true"]
    done = subprocess.run(
        [*ruff, "format", *wide, *options, "-"], input=fixed.stdout, capture_output=True, text=True, check=True
    )
    undefined = subprocess.run(
        [*ruff, "check", "--quiet", "--output-format", "concise", "--select", "F821", *options, "-"],
        input=done.stdout, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if undefined.returncode:
        names = ", ".join(dict.fromkeys(re.findall(r"Undefined name `(\w+)`", undefined.stdout)))
        raise ScriptError(
            f"The script of {name}.ipynb uses {names} and does not make it: give the cell that does the tag {TAG!r}, "
            "or replace the line in tools/scripts.toml."
        )
    return done.stdout


def exported() -> dict[Path, str]:
    """Path of each script -> its text."""
    settings = tomllib.loads(SETTINGS.read_text())
    return {FOLDER / f"{part['script']}.py": export(name, part) for name, part in settings.items()}


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for path, text in exported().items():
        path.write_text(text)
        print(f"{path.relative_to(REPOSITORY)}: {lines_of_code(text)} lines of code")


if __name__ == "__main__":
    main()
