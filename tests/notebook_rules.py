"""What every notebook of the course keeps to, as functions `(path, notebook) -> problems`.

A problem is one sentence that names the notebook and the cell (counted from 1,
Markdown included). `RULES` holds them all by name; nothing here starts Ray.
"""

from __future__ import annotations

import ast
import json
import re
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
from IPython.core.inputtransformer2 import TransformerManager
from markdown_it import MarkdownIt
from markdown_it.token import Token
from nbformat.v4 import nbjson
from nbformat.validator import iter_validate

from tests.forbidden import machine_paths
from tests.notebook_outputs import (
    DEEP_DIVES,
    FOLDERS,
    REFERENCE,
    SOLUTIONS,
    is_solution,
    not_of_ray,
    notebook_name,
)

REPOSITORY = Path(__file__).resolve().parent.parent
NOTEBOOKS = REPOSITORY / "notebooks"
RUFF_CONFIG = NOTEBOOKS / "ruff.toml"

# Which '##' sections there must be, in this order; the last one ends the notebook.
HEADINGS = {
    "lesson": ("On a cluster", "Recap"),
    "deep dive": ("Recap",),
}
OPENING_LINES = ("**Time:**", "**You need:**", "**You will be able to**")
TIME_LINE = re.compile(
    r"^\*\*Time:\*\* about (\d+) minutes with the exercises; "
    r"the cells alone run in about (?P<seconds>\d+) seconds on a 2-core machine\.\s*$",
    re.M,
)
TIME_FACTOR = 1.5
CODE_LINES = 25
MARKDOWN_WORDS = 220
LESSON_WORDS = 2500
CODE_CELLS = {"lesson": (18, 30), "deep dive": (6, 30)}
MEDIAN_LINES = 8
FIRST_RESULT_LINES = 15
ALLOWED_BEFORE = {"ray_options", "ray_start", "free_port", "data"}  # of helpers, before the first result
CAPSTONE, STEPS_OF_CAPSTONE = "12_capstone", 5
EXERCISES = {"lesson": (2, 4), "deep dive": (0, 3)}
OBJECTIVES = (3, 5)
UNSOLVED, SOLVED = "not solved yet:", "right:"
DIAGRAMS = (
    "flowchart graph sequenceDiagram classDiagram stateDiagram stateDiagram-v2 erDiagram gantt pie timeline mindmap "
    "gitGraph journey quadrantChart block block-beta xychart xychart-beta sankey sankey-beta architecture-beta"
).split()

REMOTE = re.compile(r"\b(?:https?|s3|gs|gcs|hf|hdfs|abfss?|ftp)://[^\s\"'<>)]+", re.I)
LOCAL = re.compile(r"^https?://(?:127\.0\.0\.1|localhost|0\.0\.0\.0|\[::1\])(?:[:/]|$)", re.I)
INSTALLER = re.compile(r"^\s*[!%]{1,2}\s*(?:\S+\s+-m\s+)?(?:uv\s+)?(?:pip3?|conda|mamba|apt(?:-get)?)\b", re.M)

Rule = Callable[[Path, Any], list[str]]
RULES: dict[str, Rule] = {}
MARKDOWN = MarkdownIt("commonmark").enable("table")


def rule(function: Rule) -> Rule:
    """Register a rule under its name."""
    RULES[function.__name__] = function
    return function


def load(path: Path) -> Any:
    """Read a notebook as it lies on the disk; nbformat.read would mend missing ids silently."""
    return nbjson.reads(path.read_text(encoding="utf-8"))


def notebook_paths() -> list[Path]:
    """All committed notebooks: the lessons in reading order, the deep dives, the reference, then all solutions."""
    folders = (NOTEBOOKS, *(NOTEBOOKS / name for name in FOLDERS))
    return [path for folder in folders for path in sorted(folder.glob("*.ipynb"))]


def kind_of(path: Path) -> str:
    """lesson, deep dive, reference or solution: what a notebook is decides what it must have."""
    kinds = {SOLUTIONS: "solution", DEEP_DIVES: "deep dive", REFERENCE: "reference"}
    return kinds.get(path.parent.name, "lesson")


def output_text(output: Any) -> str:
    """What a reader sees of one output as text, pictures left out."""
    if output.output_type == "stream":
        return str(output.text)
    if output.output_type == "error":
        return "\n".join([output.get("ename", ""), output.get("evalue", ""), *output.get("traceback", [])])
    shown = {kind: value for kind, value in output.get("data", {}).items() if not _is_binary(kind)}
    return "\n".join(value if isinstance(value, str) else json.dumps(value) for value in shown.values())


def _is_binary(kind: str) -> bool:
    return kind.startswith("image/") and kind != "image/svg+xml" or kind == "application/pdf"


def _name(path: Path) -> str:
    return f"{notebook_name(path)}.ipynb"


def _at(path: Path, number: int) -> str:
    return f"{_name(path)}, cell {number}"


def _cells(notebook: Any, kind: str | None = None) -> Iterator[tuple[int, Any]]:
    """(number, cell), counted over all cells from 1."""
    return ((i, c) for i, c in enumerate(notebook.cells, 1) if kind is None or c.cell_type == kind)


def _tags(cell: Any) -> list[str]:
    return cell.metadata.get("tags", [])


def _tagged(notebook: Any, prefix: str) -> dict[int, int]:
    """Number N of each tag `prefix-N` -> number of the first cell that has it."""
    found: dict[int, int] = {}
    for i, cell in _cells(notebook):
        for tag in _tags(cell):
            if match := re.fullmatch(rf"{prefix}-(\d+)", tag):
                found.setdefault(int(match.group(1)), i)
    return found


def _tokens(cell: Any) -> Iterator[Token]:
    """All Markdown tokens of a cell, the inline ones unfolded."""
    for token in MARKDOWN.parse(cell.source):
        yield token
        yield from token.children or []


def _words(cell: Any) -> int:
    """Words of prose: fenced code and diagrams are not read like text."""
    prose = " ".join(t.content for t in MARKDOWN.parse(cell.source) if t.type == "inline")
    return len(re.findall(r"\S*\w\S*", prose))


def _headings(cell: Any) -> list[tuple[int, str]]:
    """(level, text) of each Markdown heading of a cell."""
    tokens = MARKDOWN.parse(cell.source)
    return [
        (int(token.tag[1:]), "".join(c.content for c in tokens[i + 1].children or [] if c.content).strip())
        for i, token in enumerate(tokens)
        if token.type == "heading_open"
    ]


def _python(cell: Any) -> ast.Module:
    """The syntax tree of a code cell, its magics turned into calls as IPython does it.

    Raises:
        SyntaxError: the cell is no Python.
    """
    source, magic = cell.source, cell.source.lstrip().startswith("%%")
    if magic:  # the body of %%time or %%capture is Python; of %%bash it is not
        source = source.lstrip().partition("\n")[2]
    try:
        return ast.parse(TransformerManager().transform_cell(source))
    except SyntaxError:
        if magic:
            return ast.parse("")
        raise


def _trees(notebook: Any) -> Iterator[tuple[int, ast.Module]]:
    for i, cell in _cells(notebook, "code"):
        try:
            yield i, _python(cell)
        except SyntaxError:
            continue  # the rule python_parses says it


def _calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """(dotted name, call) of each call in a tree."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def _is_keyword(call: ast.Call, name: str, value: object) -> bool:
    return any(k.arg == name and isinstance(k.value, ast.Constant) and k.value.value is value for k in call.keywords)


# --- the file ---------------------------------------------------------------------------------------------------------


@rule
def format_is_valid(path: Path, notebook: Any) -> list[str]:
    """nbformat 4.5, valid, each cell with an id of its own."""
    problems = []
    if (notebook.nbformat, notebook.nbformat_minor) != (4, 5):
        problems.append(
            f"{_name(path)} has format {notebook.nbformat}.{notebook.nbformat_minor}, expected 4.5 (cells with ids)."
        )
    seen: dict[str, int] = {}
    for i, cell in _cells(notebook):
        identity = cell.get("id")
        if not identity:
            problems.append(f"{_at(path, i)} has no id: run nbformat.validator.normalize on the file.")
        elif identity in seen:
            problems.append(f"{_at(path, i)} has the id {identity!r} of cell {seen[identity]}: give it one of its own.")
        else:
            seen[identity] = i
    for error in iter_validate(notebook):
        where = "/".join(str(part) for part in getattr(error, "absolute_path", []))
        problems.append(f"{_name(path)} is no valid notebook: {error.message.splitlines()[0][:200]} (at {where}).")
    return problems


@rule
def metadata_is_plain(path: Path, notebook: Any) -> list[str]:
    """The plain python3 kernel, no widget state, no attachments."""
    problems = []
    kernel = notebook.metadata.get("kernelspec", {})
    if kernel.get("name") != "python3":
        problems.append(f"{_name(path)} asks for the kernel {kernel.get('name')!r}, expected 'python3'.")
    # Without it ruff takes the notebook for another language's and finds nothing, ever.
    if kernel.get("language") != "python":
        problems.append(f"{_name(path)}: kernelspec.language is {kernel.get('language')!r}, expected 'python'.")
    if "widgets" in notebook.metadata:
        problems.append(f"{_name(path)} carries widget state: refresh it with 'make notebooks'.")
    for i, cell in _cells(notebook):
        if cell.get("attachments"):
            problems.append(f"{_at(path, i)} has an attachment, which the website cannot show: draw it in a cell.")
        for output in cell.get("outputs", []):
            if any("widget-view" in kind for kind in output.get("data", {})):
                problems.append(f"{_at(path, i)} shows a widget, which is empty on the web: print text instead.")
    return problems


@rule
def ruff_is_content(path: Path, notebook: Any) -> list[str]:
    """`ruff check` (undefined names among others) and `ruff format --check` on the file."""
    if not path.is_file():
        return [f"{_name(path)} does not exist, so ruff cannot read it."]
    options = ["--no-cache", "--quiet", "--config", str(RUFF_CONFIG), str(path.resolve())]
    found = _ruff("check", "--output-format", "json", *options)
    if found.returncode not in (0, 1):
        return [f"ruff could not read {_name(path)}: {found.stderr.strip()}"]
    problems = [
        f"{_at(path, _cell_number(notebook, e))}, line {e['location']['row']}: {e['message']} ({e['code']})."
        for e in json.loads(found.stdout or "[]")
    ]
    shape = _ruff("format", "--check", *options)
    if shape.returncode:
        problems.append(f"{_name(path)} is not formatted: run '.venv/bin/ruff format notebooks'.")
    return problems


def _ruff(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ruff in the folder of the notebooks: which imports are third-party depends on where it runs."""
    command = [sys.executable, "-m", "ruff", *arguments]
    return subprocess.run(command, cwd=NOTEBOOKS, capture_output=True, text=True)


def _cell_number(notebook: Any, finding: dict[str, Any]) -> int:
    """Ruff counts the cells like this module, but names none where the file itself cannot be read."""
    return int(finding.get("cell") or 0)


# --- the pattern ------------------------------------------------------------------------------------------------------


@rule
def opening_is_complete(path: Path, notebook: Any) -> list[str]:
    """A title; in lessons and deep dives also a promise, the time, what is needed, 3 to 5 objectives."""
    first = notebook.cells[0] if notebook.cells else None
    if first is None or first.cell_type != "markdown":
        return [f"{_name(path)} does not begin with a Markdown cell: start with '# Title'."]
    titles = [(i, text) for i, c in _cells(notebook, "markdown") for level, text in _headings(c) if level == 1]
    problems = []
    if [i for i, _ in titles] != [1] or not first.source.startswith("# "):
        problems.append(
            f"{_at(path, 1)}: expected exactly one '# Title', as its first line; found {len(titles)} in the notebook."
        )
    if kind_of(path) in ("solution", "reference"):
        return problems
    if [number for number in range(3) if OPENING_LINES[number] not in first.source]:
        missing = ", ".join(line for line in OPENING_LINES if line not in first.source)
        return [*problems, f"{_at(path, 1)}: the opening lacks {missing}."]
    places = [first.source.index(line) for line in OPENING_LINES]
    if places != sorted(places):
        problems.append(f"{_at(path, 1)}: expected the opening in the order {', '.join(OPENING_LINES)}.")
    promise = first.source[: places[0]].partition("\n")[2].strip()
    if not promise:
        problems.append(f"{_at(path, 1)}: no sentence of promise between the title and {OPENING_LINES[0]}.")
    bullets = len(re.findall(r"^[-*] ", first.source[places[2] :], re.M))
    if not OBJECTIVES[0] <= bullets <= OBJECTIVES[1]:
        problems.append(
            f"{_at(path, 1)}: expected {OBJECTIVES[0]} to {OBJECTIVES[1]} bullets after {OPENING_LINES[2]}, "
            f"found {bullets}."
        )
    return problems


@rule
def headings_are_in_order(path: Path, notebook: Any) -> list[str]:
    """The sections that this kind of notebook must have, each once and in their order; the recap is the last."""
    required = HEADINGS.get(kind_of(path))
    if required is None:
        return []
    sections = [text for _, c in _cells(notebook, "markdown") for level, text in _headings(c) if level == 2]
    problems = [
        f"{_name(path)}: expected the heading '## {name}' once, found it {sections.count(name)} times."
        for name in required
        if sections.count(name) != 1
    ]
    found = [name for name in sections if name in required]
    if not problems and found != list(required):
        problems.append(f"{_name(path)}: the sections stand in the order {found}, expected {list(required)}.")
    if not problems and sections[-1] != required[-1]:
        problems.append(f"{_name(path)}: '## {sections[-1]}' follows '## Recap', which must be the last section.")
    return problems


@rule
def time_is_measured(path: Path, notebook: Any) -> list[str]:
    """The promised seconds are those of the last refresh, within a factor; lessons also say how long to study."""
    kind = kind_of(path)
    if kind in ("solution", "reference"):
        return []
    source = notebook.cells[0].source if notebook.cells else ""
    line = TIME_LINE.search(source)
    measured = notebook.metadata.get("ray_course", {}).get("seconds")
    if not line:
        return [
            f"{_at(path, 1)}: expected a line '**Time:** about M minutes with the exercises; the cells alone run in "
            "about N seconds on a 2-core machine.', found none."
        ]
    if not isinstance(measured, int | float) or measured <= 0:
        return [f"{_name(path)} has no measured time (metadata ray_course.seconds): run 'make notebooks'."]
    promised = int(line["seconds"])
    if not measured / TIME_FACTOR <= promised <= max(5, measured * TIME_FACTOR):
        return [f"{_at(path, 1)} promises {promised} seconds, but {measured} were measured: run 'make notebooks'."]
    return []


@rule
def first_result_comes_soon(path: Path, notebook: Any) -> list[str]:
    """A lesson begins with the smallest program that does the thing: before settings, sizes and helpers."""
    if kind_of(path) != "lesson":
        return []
    tagged = [(i, c) for i, c in _cells(notebook, "code") if "first-result" in _tags(c)]
    if len(tagged) != 1:
        return [f"{_name(path)}: expected one code cell with the tag first-result, found {len(tagged)}."]
    number, cell = tagged[0]
    before = [c for i, c in _cells(notebook, "code") if i <= number]
    problems = []
    lines = sum(_lines_of_code(c) for c in before)
    if lines > FIRST_RESULT_LINES:
        problems.append(
            f"{_at(path, number)} shows the first result after {lines} lines of code, expected at most "
            f"{FIRST_RESULT_LINES}, imports included."
        )
    if not any(output_text(o).strip() or "image/png" in o.get("data", {}) for o in cell.outputs):
        problems.append(f"{_at(path, number)} has the tag first-result, but shows nothing.")
    for i, tree in _trees(notebook):
        helpers = sorted(_imported(tree, "helpers") - ALLOWED_BEFORE) if i <= number else []
        problems += [f"{_at(path, i)} imports {name} of helpers before the first result." for name in helpers]
    return problems


def _lines_of_code(cell: Any) -> int:
    return sum(1 for line in cell.source.splitlines() if line.strip() and not line.strip().startswith("#"))


def _imported(tree: ast.AST, package: str) -> set[str]:
    """The names that a cell takes from a package."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == package:
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {(a.asname or a.name).split(".")[0] for a in node.names if a.name.split(".")[0] == package}
    return names


@rule
def length_is_that_of_a_lesson(path: Path, notebook: Any) -> list[str]:
    """A bounded number of short cells and of words; single cells are short in every notebook."""
    problems = []
    for i, cell in _cells(notebook, "code"):
        lines = len(cell.source.strip("\n").splitlines())
        if lines > CODE_LINES:
            problems.append(f"{_at(path, i)} has {lines} lines of code, at most {CODE_LINES} are read well: split it.")
    total = 0
    for i, cell in _cells(notebook, "markdown"):
        words = _words(cell)
        total += words
        if not words:
            problems.append(f"{_at(path, i)} is empty: delete it.")
        if words > MARKDOWN_WORDS:
            problems.append(f"{_at(path, i)} is a wall of {words} words, expected at most {MARKDOWN_WORDS}: split it.")
    kind = kind_of(path)
    if kind not in CODE_CELLS:
        return problems
    sizes = [_lines_of_code(cell) for _, cell in _cells(notebook, "code") if cell.source.strip()]
    low, high = CODE_CELLS[kind]
    if not low <= len(sizes) <= high:
        problems.append(f"{_name(path)} has {len(sizes)} code cells, expected {low} to {high}.")
    if sizes and statistics.median(sizes) > MEDIAN_LINES:
        problems.append(
            f"{_name(path)}: half of the code cells have more than {MEDIAN_LINES} lines "
            f"(median {statistics.median(sizes):g}): show one thing in each."
        )
    if total > LESSON_WORDS:
        problems.append(f"{_name(path)} has {total} words of Markdown, expected at most {LESSON_WORDS}.")
    return problems


@rule
def diagrams_are_drawn(path: Path, notebook: Any) -> list[str]:
    """A lesson has a Mermaid diagram, and each diagram can be one."""
    problems, count = [], 0
    for i, cell in _cells(notebook, "markdown"):
        for token in MARKDOWN.parse(cell.source):
            if token.type == "fence" and token.info.strip() == "mermaid":
                count += 1
                problems += [f"{_at(path, i)}: {problem}" for problem in _mermaid_problems(token.content)]
    if not count and kind_of(path) == "lesson":
        problems.append(f"{_name(path)} has no diagram: expected at least one ```mermaid block.")
    return problems


def _mermaid_problems(text: str) -> list[str]:
    text = re.sub(r"\A\s*---\n.*?\n---\n", "", text, flags=re.S)
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith("%%")]
    if not lines:
        return ["the Mermaid block is empty."]
    kind = re.split(r"[\s:;]", lines[0])[0]
    if kind not in DIAGRAMS:
        return [f"the Mermaid block begins with {kind!r}, which is no kind of diagram (such as flowchart LR)."]
    if len(lines) < 2:
        return [f"the Mermaid block has nothing after {lines[0]!r}."]
    if kind not in ("flowchart", "graph"):
        return []
    bare = re.sub(r'"[^"\n]*"', "", "\n".join(lines[1:]))
    problems = [
        f"the Mermaid block has {bare.count(opened)} {opened!r} and {bare.count(closed)} {closed!r}: close each one."
        for opened, closed in ("[]", "()", "{}")
        if bare.count(opened) != bare.count(closed)
    ]
    begun, ended = (len(re.findall(rf"^{word}\b", bare, re.M)) for word in ("subgraph", "end"))
    if begun != ended:
        problems.append(f"the Mermaid block has {begun} 'subgraph' and {ended} 'end'.")
    if bare.count('"'):
        problems.append("the Mermaid block has a quotation mark that is not closed.")
    return problems


@rule
def ray_is_shut_down(path: Path, notebook: Any) -> list[str]:
    """The last code cell calls ray.shutdown(); in solutions, where Ray is started at all."""
    trees = dict(_trees(notebook))
    starts = any(name == "ray.init" for tree in trees.values() for name, _ in _calls(tree))
    code = [i for i, cell in _cells(notebook, "code") if cell.source.strip()]
    if is_solution(path) and not starts:
        return []
    if code and any(name == "ray.shutdown" for name, _ in _calls(trees.get(code[-1], ast.parse("")))):
        return []
    return [f"{_at(path, code[-1] if code else 1)}: the last code cell does not call ray.shutdown()."]


@rule
def key_figure_is_shown(path: Path, notebook: Any) -> list[str]:
    """One cell of a lesson or deep dive, tagged key-figure, ends in a line of text for the table of the run."""
    if kind_of(path) in ("solution", "reference"):
        return []
    tagged = [(i, c) for i, c in _cells(notebook, "code") if "key-figure" in _tags(c)]
    if len(tagged) != 1:
        return [f"{_name(path)}: expected one code cell with the tag key-figure, found {len(tagged)}."]
    number, cell = tagged[0]
    if not any(output_text(output).strip() for output in cell.outputs):
        return [f"{_at(path, number)} has the tag key-figure, but no text output: print the figure, refresh."]
    return []


@rule
def what_a_cluster_lacks_is_said(path: Path, notebook: Any) -> list[str]:
    """Who chooses a size asks require_resources, so that nobody waits without a word on a cluster that is too small."""
    calls = {name for _, tree in _trees(notebook) for name, _ in _calls(tree)}
    if kind_of(path) == "lesson" and "choose_size" in calls and "require_resources" not in calls:
        return [
            f"{_name(path)} chooses a size, but doesn't call require_resources: a small cluster would wait silently."
        ]
    return []


@rule
def sixteen_bits_ask_the_processor(path: Path, notebook: Any) -> list[str]:
    """A 16-bit format comes from what the processor is fast at: many take a hundred times as long with bfloat16."""
    code = {i: cell.source for i, cell in _cells(notebook, "code")}
    if any(re.search(r"\b(cpu_supports_bf16|number_format)\(", source) for source in code.values()):
        return []
    return [
        f"{_at(path, i)} takes a 16-bit format: ask helpers.precision whether the processor is fast at it."
        for i, source in code.items()
        if re.search(r"\b(bfloat16|float16|bf16|fp16)\b|\.half\(\)", source)
    ]


@rule
def applications_have_names(path: Path, notebook: Any) -> list[str]:
    """`serve.run` replaces the application of its name: on a cluster, "default" may be somebody else's."""
    return [
        f"{_at(path, i)} calls serve.run without a name: it would replace what runs as 'default' on a cluster."
        for i, tree in _trees(notebook)
        for name, call in _calls(tree)
        if name == "serve.run" and "name" not in {keyword.arg for keyword in call.keywords}
    ]


@rule
def quiet_workers_are_told(path: Path, notebook: Any) -> list[str]:
    """Where workers' prints don't appear, the text says so; a learner would look for them."""
    if kind_of(path) not in HEADINGS:
        return []
    text = "\n".join(cell.source for _, cell in _cells(notebook, "markdown"))
    return [
        f"{_at(path, i)} sets log_to_driver=False, but no text says `log_to_driver=False`."
        for i, cell in _cells(notebook, "code")
        if "log_to_driver=False" in cell.source and "`log_to_driver=False`" not in text
    ]


# --- exercises --------------------------------------------------------------------------------------------------------


@rule
def exercises_have_checks_and_solutions(path: Path, notebook: Any) -> list[str]:
    """exercise-N, then check-N, and solution-N with its check-N in the notebook of solutions."""
    kind = kind_of(path)
    if kind == "solution":
        return _pairs(path, notebook, "solution")
    if kind == "reference":
        return []
    numbers = _tagged(notebook, "exercise")
    low, high = (STEPS_OF_CAPSTONE, STEPS_OF_CAPSTONE) if path.stem == CAPSTONE else EXERCISES[kind]
    problems = _pairs(path, notebook, "exercise")
    if not low <= len(numbers) <= high:
        problems.append(f"{_name(path)} has {len(numbers)} exercises, expected {low} to {high} (tags exercise-N).")
    if sorted(numbers) != list(range(1, len(numbers) + 1)):
        problems.append(f"{_name(path)}: the exercises have the numbers {sorted(numbers)}, expected 1, 2, ... .")
    companion = _solutions_of(path)
    if not companion.is_file():
        expected = f"{SOLUTIONS}/{path.name}"
        return [*problems, f"{_name(path)} has no solutions: expected {expected}."] if numbers else problems
    solved = _tagged(load(companion), "solution")
    for number in sorted(numbers.keys() ^ solved.keys()):
        has, lacks = ("an exercise", "solution") if number in numbers else ("a solution", "exercise")
        problems.append(f"{_name(path)}: number {number} is {has} without a cell tagged {lacks}-{number}.")
    return problems


def _solutions_of(path: Path) -> Path:
    """The notebook of solutions that belongs to a lesson or a deep dive."""
    folder = path.parent.parent if path.parent.name == DEEP_DIVES else path.parent
    return folder / SOLUTIONS / path.name


@rule
def exercises_come_early_and_in_ray(path: Path, notebook: Any) -> list[str]:
    """The first exercise stands in the first half of a lesson, and half of the solutions call Ray."""
    if kind_of(path) != "lesson":
        return []
    code = [cell for _, cell in _cells(notebook, "code")]
    places = [k for k, cell in enumerate(code, 1) if any(re.fullmatch(r"exercise-\d+", tag) for tag in _tags(cell))]
    problems = []
    if places and places[0] > len(code) / 2:
        problems.append(
            f"{_name(path)}: the first exercise is code cell {places[0]} of {len(code)}: let readers do something "
            "within the first half."
        )
    companion = _solutions_of(path)
    if companion.is_file():
        solved = load(companion)
        names = {"ray"}.union(*(_imported(tree, "ray") for _, tree in _trees(solved)))
        solutions = [c for _, c in _cells(solved, "code") if any(t.startswith("solution-") for t in _tags(c))]
        in_ray = sum(_calls_ray(_python(cell), names) for cell in solutions)
        if in_ray * 2 < len(solutions):
            problems.append(
                f"{_name(path)}: {in_ray} of {len(solutions)} solutions call Ray, expected at least half of them."
            )
    return problems


# Of a remote function or an actor, and of a dataset.
METHODS = ("remote", "map_batches")


def _calls_ray(tree: ast.AST, names: set[str]) -> bool:
    """Whether code uses Ray: a name that comes from it, a `.remote`, or a step of a dataset."""
    return any(
        (isinstance(node, ast.Name) and node.id in names) or (isinstance(node, ast.Attribute) and node.attr in METHODS)
        for node in ast.walk(tree)
    )


def _pairs(path: Path, notebook: Any, kind: str) -> list[str]:
    answers, checks = _tagged(notebook, kind), _tagged(notebook, "check")
    problems = []
    for number in sorted(answers.keys() | checks.keys()):
        if number not in checks:
            problems.append(
                f"{_at(path, answers[number])}: {kind}-{number} has no check, a cell tagged check-{number}."
            )
        elif number not in answers:
            problems.append(f"{_at(path, checks[number])}: check-{number} has no cell tagged {kind}-{number}.")
        elif checks[number] <= answers[number]:
            problems.append(f"{_at(path, checks[number])}: check-{number} must come after {kind}-{number}.")
    tags = [tag for _, cell in _cells(notebook) for tag in _tags(cell) if re.fullmatch(rf"({kind}|check)-\d+", tag)]
    problems += [f"{_name(path)}: the tag {tag} is on {tags.count(tag)} cells." for tag in _repeated(tags)]
    return problems


def _repeated(values: list[str]) -> list[str]:
    return sorted({value for value in values if values.count(value) > 1})


@rule
def checks_say_what_they_should(path: Path, notebook: Any) -> list[str]:
    """Committed outputs: stubs are 'not solved yet', solutions are 'right'."""
    expected = SOLVED if is_solution(path) else UNSOLVED
    problems = []
    for number, i in _tagged(notebook, "check").items():
        outputs = notebook.cells[i - 1].get("outputs", [])
        said = [output_text(output).strip() for output in outputs if output.output_type == "execute_result"]
        if not said or not said[-1].startswith(expected):
            found = said[-1].splitlines()[0][:80] if said and said[-1] else "nothing"
            problems.append(f"{_at(path, i)}: check-{number} must show '{expected} ...', but shows {found!r}.")
    return problems


# --- outputs ----------------------------------------------------------------------------------------------------------


@rule
def outputs_are_committed(path: Path, notebook: Any) -> list[str]:
    """Each code cell with source was run, from the first to the last, in one go."""
    cells = [(i, cell) for i, cell in _cells(notebook, "code") if cell.source.strip()]
    if not cells:
        return [f"{_name(path)} has no code cell."]
    problems = []
    for expected, (i, cell) in enumerate(cells, 1):
        if cell.execution_count != expected:
            problems.append(
                f"{_at(path, i)} has the execution count {cell.execution_count}, expected {expected}: "
                "run 'make notebooks'."
            )
    if not any(cell.outputs for _, cell in cells):
        problems.append(f"{_name(path)} has no outputs: run 'make notebooks'.")
    return problems[:3]  # one cell out of order shifts all that follow


@rule
def outputs_are_clean(path: Path, notebook: Any) -> list[str]:
    """No error, and on stderr nothing but Ray's own messages."""
    problems = []
    for i, cell in _cells(notebook, "code"):
        for output in cell.outputs:
            if output.output_type == "error":
                problems.append(f"{_at(path, i)} shows the error {output.get('ename')}: mend the cell and refresh.")
            elif output.output_type == "stream" and output.name == "stderr":
                if line := not_of_ray(str(output.text)):
                    problems.append(f"{_at(path, i)} writes to stderr: {line[:100]!r}. Find out why and silence it.")
    return problems


@rule
def nothing_of_this_machine(path: Path, notebook: Any) -> list[str]:
    """No paths, user names, hosts or package indexes of one machine, in sources and outputs."""
    problems = []
    for i, cell in _cells(notebook):
        problems += [f"{_at(path, i)}: the source names {piece!r}." for piece in machine_paths(cell.source)]
        for output in cell.get("outputs", []):
            problems += [
                f"{_at(path, i)}: the output shows {piece!r}, which belongs to one machine."
                for piece in machine_paths(output_text(output))
            ]
    problems += [
        f"{_name(path)}: the metadata name {piece!r}." for piece in machine_paths(json.dumps(notebook.metadata))
    ]
    return problems


@rule
def images_have_alt_text(path: Path, notebook: Any) -> list[str]:
    """Pictures among the outputs and in Markdown carry a description for screen readers."""
    problems = []
    for i, cell in _cells(notebook):
        for output in cell.get("outputs", []):
            for kind in output.get("data", {}):
                described = output.get("metadata", {}).get(kind, {})
                alt = described.get("alt", "") if isinstance(described, dict) else ""
                if kind.startswith("image/") and not alt.strip():
                    problems.append(f"{_at(path, i)} shows a picture without alt text: show it with helpers.plots.")
        if cell.cell_type != "markdown":
            continue
        for token in _tokens(cell):
            if token.type == "image" and not token.content.strip():
                problems.append(f"{_at(path, i)}: the image {token.attrs.get('src')!r} has no alt text.")
            if token.type in ("html_block", "html_inline"):
                for tag in re.findall(r"<img\b[^>]*>", token.content, re.I):
                    if not re.search(r"\balt\s*=\s*([\"'])\s*[^\"'\s]", tag, re.I):
                        problems.append(f"{_at(path, i)}: {tag!r} has no alt text.")
    return problems


@rule
def links_resolve(path: Path, notebook: Any) -> list[str]:
    """Links to files and headings of this repository lead somewhere."""
    problems = []
    for i, cell in _cells(notebook, "markdown"):
        for target in _targets(cell):
            if re.match(r"[a-z][a-z+.-]*:", target, re.I):
                continue
            if problem := _link_problem(path, notebook, target):
                problems.append(f"{_at(path, i)}: {problem}")
    return problems


def _targets(cell: Any) -> Iterator[str]:
    for token in _tokens(cell):
        if token.type == "link_open":
            yield str(token.attrs.get("href", ""))
        elif token.type == "image":
            yield str(token.attrs.get("src", ""))
        elif token.type in ("html_block", "html_inline"):
            yield from re.findall(r"\b(?:href|src)\s*=\s*[\"']([^\"']*)", token.content, re.I)


def _link_problem(path: Path, notebook: Any, target: str) -> str:
    from urllib.parse import unquote

    name, _, anchor = unquote(target).partition("#")
    if not name and not anchor:
        return "a link leads nowhere: its target is empty."
    file = (path.parent / name) if name else path
    if name.startswith("/") or not file.exists():
        return f"the link to {target!r} leads nowhere: expected a file beside this notebook, found none."
    if REPOSITORY in path.resolve().parents and REPOSITORY not in file.resolve().parents:
        return f"the link to {target!r} leaves the repository."
    if not anchor:
        return ""
    known = _anchors(file, notebook if file == path else None)
    if known is None or anchor in known:
        return ""
    near = [a for a in known if a.lower() == anchor.lower()]
    hint = f"write #{near[0]}" if near else f"the headings there are: {', '.join(sorted(known))}"
    return f"the link to {target!r} names no heading of {file.name}: {hint}."


def _anchors(file: Path, notebook: Any = None) -> set[str] | None:
    """The anchors of a file; None where there are no rules for its kind."""
    if file.suffix == ".ipynb":
        # JupyterLab makes an anchor of a heading by writing '-' for each space, and nothing else.
        cells = _cells(notebook if notebook is not None else load(file), "markdown")
        return {text.replace(" ", "-") for _, cell in cells for _, text in _headings(cell)}
    if file.suffix == ".md":
        page = nbformat.from_dict({"source": file.read_text(encoding="utf-8")})
        return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for _, text in _headings(page)}
    return None


# --- code -------------------------------------------------------------------------------------------------------------


@rule
def python_parses(path: Path, notebook: Any) -> list[str]:
    """Each code cell is Python, magics allowed."""
    problems = []
    for i, cell in _cells(notebook, "code"):
        try:
            _python(cell)
        except SyntaxError as error:
            problems.append(f"{_at(path, i)}, line {error.lineno}: {error.msg}.")
    return problems


@rule
def is_initialized_is_called(path: Path, notebook: Any) -> list[str]:
    """`ray.is_initialized` without parentheses is always true."""
    problems = []
    for i, tree in _trees(notebook):
        called = {id(call.func) for _, call in _calls(tree)}
        problems += [
            f"{_at(path, i)}: {ast.unparse(node)} without a call is always true: write {ast.unparse(node)}()."
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute | ast.Name)
            and "is_initialized" == (node.attr if isinstance(node, ast.Attribute) else node.id)
            and id(node) not in called
        ]
    return problems


@rule
def input_is_local(path: Path, notebook: Any) -> list[str]:
    """No code reads from the network, outside of the cluster column of the settings."""
    problems = []
    for i, tree in _trees(notebook):
        cluster = _cluster_values(tree)
        docstrings = _docstrings(tree)
        for node in ast.walk(tree):
            if id(node) in cluster or id(node) in docstrings or not isinstance(node, ast.Constant):
                continue
            if not isinstance(node.value, str):
                continue
            for url in REMOTE.findall(node.value):
                if not LOCAL.match(url):
                    problems.append(f"{_at(path, i)}: the code names {url!r}, but a lesson must run without a network.")
    return problems


def size_settings(tree: ast.AST) -> dict[str, ast.expr]:
    """Name of each setting that is given to choose_size -> its value, which should be a pair (laptop, cluster)."""
    settings = [call.args[0] for name, call in _calls(tree) if name.endswith("choose_size") and call.args]
    settings += [k.value for name, call in _calls(tree) if name.endswith("choose_size") for k in call.keywords]
    named = {
        target.id: node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    settings = [named.get(s.id, s) if isinstance(s, ast.Name) else s for s in settings]
    return {
        ast.unparse(key).strip("'\""): value
        for mapping in settings
        if isinstance(mapping, ast.Dict)
        for key, value in zip(mapping.keys, mapping.values, strict=True)
        if key is not None
    }


def _cluster_values(tree: ast.AST) -> set[int]:
    """All nodes below the second value of a (laptop, cluster) setting given to choose_size."""
    values = size_settings(tree).values()
    second = [value.elts[1] for value in values if isinstance(value, ast.Tuple) and len(value.elts) == 2]
    return {id(node) for value in second for node in ast.walk(value)}


def _docstrings(tree: ast.AST) -> set[int]:
    kinds = ast.Module | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    return {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, kinds) and node.body and isinstance(node.body[0], ast.Expr)
    }


@rule
def code_is_safe(path: Path, notebook: Any) -> list[str]:
    """Nothing that runs foreign code, waits for a keyboard or changes the environment."""
    problems = []
    for i, cell in _cells(notebook, "code"):
        if match := INSTALLER.search(cell.source):
            problems.append(f"{_at(path, i)}: {match.group().strip()!r} installs: add it to pyproject.toml instead.")
    for i, tree in _trees(notebook):
        for name, call in _calls(tree):
            if _is_keyword(call, "trust_remote_code", True):
                problems.append(f"{_at(path, i)}: trust_remote_code=True runs code from the network: leave it out.")
            if name.endswith("torch.load") and _is_keyword(call, "weights_only", False):
                problems.append(f"{_at(path, i)}: weights_only=False runs what is in the file: leave it out.")
            if name in ("input", "getpass", "getpass.getpass"):
                problems.append(f"{_at(path, i)}: {name}() waits for a keyboard: use a variable.")
    return problems
