"""Each rule is silent on a good notebook and names the cell of a bad one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tests import notebook_rules
from tests.forbidden import machine_paths
from tests.notebook_rules import DEEP_DIVES, REFERENCE, RULES, SOLUTIONS, TIME_FACTOR, load

pytestmark = pytest.mark.fast

OPENING = """# 03 A lesson

It shows one thing.

**Time:** about 30 minutes with the exercises; the cells alone run in about 40 seconds on a 2-core machine.
**You need:** lesson 02.
**You will be able to**

- do one thing
- do another
- and a third"""
DIAGRAM = """## How it works

```mermaid
flowchart LR
    A["driver (you)"] --> B[worker]
```

![A worker](picture.png) and [the recap](#Recap)."""
PIXEL = "iVBORw0KGgo="
LESSON = "03_lesson.ipynb"
DEEP_DIVE, REFERENCE_PAGE = f"{DEEP_DIVES}/patterns.ipynb", f"{REFERENCE}/older_code.ipynb"
Edit = Callable[[Any], None]

# Put together, so that this file passes the check that it tests.
ROOT_HOME = "/" + "root"
JOES_HOME = "/" + "home/joe"


def code(source: str, *outputs: Any, tag: str = "") -> Any:
    cell = new_code_cell(source, outputs=list(outputs))
    cell.metadata = nbformat.from_dict({"tags": [tag]} if tag else {})
    return cell


def result(text: str) -> Any:
    return new_output("execute_result", {"text/plain": text}, execution_count=1)


def picture(alt: str | None) -> Any:
    metadata = {"image/png": {"alt": alt}} if alt is not None else {}
    return new_output("display_data", {"image/png": PIXEL}, metadata=metadata)


READY = new_output("stream", name="stdout", text="ready\n")


def exercise(number: int) -> list[Any]:
    return [
        code(f"answer{number} = ...", tag=f"exercise-{number}"),
        code(f"print(answer{number})", result("not solved yet: replace the stub."), tag=f"check-{number}"),
    ]


def good_lesson() -> Any:
    cells = [
        new_markdown_cell(OPENING),
        code('import ray\n\nray.init(num_cpus=2)\nprint("ready")', READY, tag="first-result"),
        new_markdown_cell(DIAGRAM),
        *[code(f"x{i} = {i}") for i in range(6)],
        new_markdown_cell("### Exercise 1: something"),
        *exercise(1),
        *exercise(2),
        code("x6 = 6"),
        code("x1 + 1", result("2"), tag="key-figure"),
        code("x2", picture("A white square.")),
        new_markdown_cell("## More\n\nThere is always more."),
        *[code(f"y{i} = {i}") for i in range(7)],
        new_markdown_cell("## On a cluster\n\nNothing changes."),
        code("x3"),
        new_markdown_cell("## Recap\n\nDone."),
        code("ray.shutdown()"),
    ]
    return finished(cells)


def good_deep_dive() -> Any:
    cells = [
        new_markdown_cell(OPENING),
        *[code(f"x{i} = {i}") for i in range(6)],
        code("x1 + 1", result("2"), tag="key-figure"),
        new_markdown_cell("## Recap\n\nDone."),
        code("import ray\n\nray.shutdown()"),
    ]
    return finished(cells)


def good_reference() -> Any:
    cells = [
        new_markdown_cell("# All of it\n\nEach row ran."),
        code("1 + 1", result("2")),
        code("import ray\n\nray.shutdown()"),
    ]
    return finished(cells)


def good_solution() -> Any:
    cells = [new_markdown_cell("# Solutions of 03"), code("import ray")]
    for number in (1, 2):
        cells += [
            code(f"answer{number} = {'ray.get' if number == 1 else 7}", tag=f"solution-{number}"),
            code(f"print(answer{number})", result("right: it is."), tag=f"check-{number}"),
        ]
    return finished([*cells, code("ray.shutdown()")])


def finished(cells: list[Any]) -> Any:
    notebook = new_notebook(cells=cells)
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
            "ray_course": {"seconds": 38},
        }
    )
    for i, cell in enumerate(cells):
        cell.id = f"cell-{i}"
    count_again(notebook)
    return notebook


def count_again(notebook: Any) -> None:
    for number, cell in enumerate((c for c in notebook.cells if c.cell_type == "code"), 1):
        cell.execution_count = number
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = number


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / SOLUTIONS).mkdir()
    (tmp_path / "picture.png").write_bytes(b"")
    (tmp_path / "page.md").write_text("# A page\n\n## What's here\n")
    nbformat.write(good_lesson(), tmp_path / LESSON)
    nbformat.write(good_solution(), tmp_path / SOLUTIONS / LESSON)
    for where, notebook in ((DEEP_DIVE, good_deep_dive()), (REFERENCE_PAGE, good_reference())):
        path = tmp_path / where
        path.parent.mkdir()
        (path.parent / "picture.png").write_bytes(b"")
        nbformat.write(notebook, path)
    return tmp_path


def problems_after(folder: Path, rule: str, edit: Edit, where: str = LESSON) -> list[str]:
    """Change the good notebook, write it, read it back like the static checks do, and apply one rule."""
    path = folder / where
    notebook = load(path)
    edit(notebook)
    # Not nbformat.write, which would mend what some edits break.
    path.write_text(nbformat.v4.writes(notebook) + "\n")
    return RULES[rule](path, load(path))


def source(number: int, text: str) -> Edit:
    """Replace the source of a cell (counted from 1)."""

    def edit(notebook: Any) -> None:
        notebook.cells[number - 1].source = text

    return edit


def replaced(number: int, old: str, new: str) -> Edit:
    def edit(notebook: Any) -> None:
        cell = notebook.cells[number - 1]
        assert old in cell.source
        cell.source = cell.source.replace(old, new)

    return edit


def shown(number: int, *outputs: Any) -> Edit:
    def edit(notebook: Any) -> None:
        notebook.cells[number - 1].outputs = list(outputs)

    return edit


def tagged(number: int, *tags: str) -> Edit:
    def edit(notebook: Any) -> None:
        notebook.cells[number - 1].metadata = nbformat.from_dict({"tags": list(tags)})

    return edit


def without(number: int) -> Edit:
    def edit(notebook: Any) -> None:
        del notebook.cells[number - 1]
        count_again(notebook)

    return edit


def moved(number: int, to: int) -> Edit:
    def edit(notebook: Any) -> None:
        notebook.cells.insert(to - 1, notebook.cells.pop(number - 1))

    return edit


def cell_set(number: int, key: str, value: Any) -> Edit:
    def edit(notebook: Any) -> None:
        notebook.cells[number - 1][key] = nbformat.from_dict(value)

    return edit


def metadata(key: str, value: Any) -> Edit:
    def edit(notebook: Any) -> None:
        notebook.metadata[key] = nbformat.from_dict(value)

    return edit


def version(minor: int) -> Edit:
    def edit(notebook: Any) -> None:
        notebook.nbformat_minor = minor

    return edit


def many_cells(count: int) -> Edit:
    def edit(notebook: Any) -> None:
        notebook.cells[1:1] = [new_markdown_cell("word " * 200) for _ in range(count)]

    return edit


def long_code(notebook: Any) -> None:
    notebook.cells[3].source = "\n".join(f"y{i} = {i}" for i in range(26))


def few_code_cells(notebook: Any) -> None:
    notebook.cells = [cell for cell in notebook.cells if cell.cell_type == "markdown"] + notebook.cells[-1:]


def many_code_cells(notebook: Any) -> None:
    notebook.cells[3:3] = [new_code_cell("z = 1") for _ in range(30)]


def cells_of_nine_lines(notebook: Any) -> None:
    for cell in notebook.cells[3:]:
        if cell.cell_type == "code":
            cell.source = "\n".join(f"z{i} = {i}" for i in range(9))


def exercises_at_the_end(notebook: Any) -> None:
    notebook.cells[25:25] = notebook.cells[9:14]
    del notebook.cells[9:14]


def left_on(notebook: Any) -> None:
    notebook.cells[1].source = "import ray\n\nray.init()"
    notebook.cells[-1].source = "x = 1"


def no_outputs(notebook: Any) -> None:
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = []


def third_exercise(notebook: Any) -> None:
    notebook.cells[3].metadata = nbformat.from_dict({"tags": ["exercise-3"]})
    notebook.cells[4].metadata = nbformat.from_dict({"tags": ["check-3"]})


ERROR = new_output("error", ename="ValueError", evalue="bad", traceback=["line"])
STDERR = new_output("stream", name="stderr", text="a warning\n")
WIDGET = new_output("display_data", {"application/vnd.jupyter.widget-view+json": {"model_id": "x"}})
PRIVATE = new_output("stream", name="stdout", text=f"saved in {JOES_HOME}/results\n")
PRIVATE_HTML = new_output("display_data", {"text/html": "<b>/Users/joe</b>"})
CLUSTER = 'size = choose_size({"model": ("data", "s3://bucket/model")})'

# (rule, what is wrong, the edit, words that the problem must contain)
BAD: list[tuple[str, str, Edit, str]] = [
    ("format_is_valid", "no id", cell_set(4, "id", ""), "cell 4 has no id"),
    ("format_is_valid", "same id twice", cell_set(4, "id", "cell-0"), "cell 4 has the id 'cell-0' of cell 1"),
    ("format_is_valid", "old format", version(4), "expected 4.5"),
    ("format_is_valid", "unknown field", cell_set(4, "colour", "red"), "no valid notebook"),
    ("metadata_is_plain", "kernel", metadata("kernelspec", {"name": "mine", "display_name": "x"}), "'mine'"),
    ("metadata_is_plain", "language", metadata("kernelspec", {"name": "python3", "display_name": "x"}), "language"),
    ("metadata_is_plain", "widget state", metadata("widgets", {"state": {}}), "widget state"),
    ("metadata_is_plain", "attachment", cell_set(3, "attachments", {"a": {"image/png": PIXEL}}), "attachment"),
    ("metadata_is_plain", "widget", shown(4, WIDGET), "cell 4 shows a widget"),
    ("ruff_is_content", "undefined name", source(4, "print(unknown_name)"), "cell 4, line 1: Undefined name"),
    ("ruff_is_content", "not formatted", source(4, "x0=0"), "not formatted"),
    ("ruff_is_content", "long line", source(4, f'x0 = "{"a" * 90}"'), "E501"),
    ("opening_is_complete", "no title", replaced(1, "# 03 A lesson", "A lesson"), "'# Title'"),
    ("opening_is_complete", "second title", source(3, "# Another"), "found 2"),
    ("opening_is_complete", "no Markdown first", moved(2, 1), "does not begin with a Markdown cell"),
    ("opening_is_complete", "line missing", replaced(1, "**You need:**", "Needed:"), "lacks **You need:**"),
    ("opening_is_complete", "no promise", replaced(1, "It shows one thing.", ""), "no sentence of promise"),
    ("opening_is_complete", "2 bullets", replaced(1, "- do another\n", ""), "found 2"),
    (
        "opening_is_complete",
        "order",
        source(1, OPENING.replace("**Time:**", "**You need:** x\n**Time:**", 1)),
        "in the order",
    ),
    ("headings_are_in_order", "missing", source(26, "Nothing changes."), "'## On a cluster' once"),
    ("headings_are_in_order", "wrong order", moved(26, 29), "expected ['On a cluster"),
    ("headings_are_in_order", "twice", source(3, "## Recap"), "found it 2 times"),
    ("headings_are_in_order", "after the recap", replaced(28, "Done.", "Done.\n\n## More"), "'## More' follows"),
    ("time_is_measured", "no line", replaced(1, "about 40 seconds on", "a minute on"), "expected a line '**Time:**"),
    ("time_is_measured", "never measured", metadata("ray_course", {}), "no measured time"),
    ("time_is_measured", "promise too low", metadata("ray_course", {"seconds": 61}), "promises 40 seconds, but 61"),
    ("time_is_measured", "promise too high", metadata("ray_course", {"seconds": 26}), "promises 40 seconds, but 26"),
    ("time_is_measured", "no study time", replaced(1, "about 30 minutes with the exercises; ", ""), "about M minutes"),
    ("first_result_comes_soon", "none", tagged(2), "found 0"),
    ("first_result_comes_soon", "two", tagged(4, "first-result"), "found 2"),
    ("first_result_comes_soon", "silent", shown(2), "shows nothing"),
    ("first_result_comes_soon", "late", source(2, "\n".join(["x = 1", "# why"] * 16)), "after 16 lines of code"),
    ("first_result_comes_soon", "helper", source(2, "from helpers import plots"), "imports plots of helpers"),
    ("first_result_comes_soon", "import helpers", source(2, "import helpers.data"), "imports helpers of helpers"),
    ("exercises_come_early_and_in_ray", "late", exercises_at_the_end, "the first exercise is code cell"),
    ("length_is_that_of_a_lesson", "long cell", long_code, "cell 4 has 26 lines"),
    ("length_is_that_of_a_lesson", "wall", source(3, "word " * 221), "cell 3 is a wall of 221 words"),
    ("length_is_that_of_a_lesson", "empty cell", source(3, ""), "cell 3 is empty"),
    ("length_is_that_of_a_lesson", "too few", few_code_cells, "code cells, expected 18 to 30"),
    ("length_is_that_of_a_lesson", "too many", many_code_cells, "code cells, expected 18 to 30"),
    ("length_is_that_of_a_lesson", "long cells", cells_of_nine_lines, "half of the code cells have more than 8 lines"),
    ("length_is_that_of_a_lesson", "many words", many_cells(13), "words of Markdown"),
    ("diagrams_are_drawn", "none", source(3, "## How it works"), "no diagram"),
    ("diagrams_are_drawn", "empty", source(3, "```mermaid\n\n```"), "empty"),
    ("diagrams_are_drawn", "unknown kind", replaced(3, "flowchart LR", "flow LR"), "'flow', which is no kind"),
    ("diagrams_are_drawn", "only a kind", source(3, "```mermaid\nflowchart LR\n```"), "nothing after"),
    ("diagrams_are_drawn", "open bracket", replaced(3, "[worker]", "[worker"), "close each one"),
    ("diagrams_are_drawn", "open quotation", replaced(3, '"driver (you)"', '"driver'), "quotation mark"),
    ("diagrams_are_drawn", "open subgraph", replaced(3, "flowchart LR", "flowchart LR\nsubgraph s"), "'subgraph'"),
    ("ray_is_shut_down", "not at all", source(29, "x1"), "does not call ray.shutdown()"),
    ("ray_is_shut_down", "not called", source(29, "ray.shutdown"), "does not call ray.shutdown()"),
    ("ray_is_shut_down", "too early", moved(29, 5), "does not call ray.shutdown()"),
    ("key_figure_is_shown", "none", tagged(16), "found 0"),
    ("key_figure_is_shown", "two", tagged(15, "key-figure"), "found 2"),
    ("key_figure_is_shown", "no output", shown(16), "no text output"),
    ("exercises_have_checks_and_solutions", "one only", tagged(13), "cell 14: check-2 has no cell tagged exercise-2"),
    ("exercises_have_checks_and_solutions", "no check", tagged(12), "exercise-1 has no check"),
    ("exercises_have_checks_and_solutions", "check first", moved(12, 11), "must come after"),
    ("exercises_have_checks_and_solutions", "no solution", third_exercise, "tagged solution-3"),
    ("exercises_have_checks_and_solutions", "numbers", tagged(13, "exercise-5"), "expected 1, 2"),
    ("exercises_have_checks_and_solutions", "tag twice", tagged(4, "exercise-1"), "exercise-1 is on 2 cells"),
    ("checks_say_what_they_should", "solved", shown(12, result("right: yes.")), "check-1 must show 'not solved yet:"),
    ("checks_say_what_they_should", "silent", shown(12), "shows 'nothing'"),
    ("outputs_are_committed", "not run", cell_set(4, "execution_count", None), "cell 4 has the execution count None"),
    ("outputs_are_committed", "out of order", cell_set(4, "execution_count", 9), "cell 4 has the execution count 9"),
    ("outputs_are_committed", "stripped", no_outputs, "no outputs"),
    ("outputs_are_clean", "error", shown(4, ERROR), "cell 4 shows the error ValueError"),
    ("outputs_are_clean", "stderr", shown(4, STDERR), "cell 4 writes to stderr: 'a warning'"),
    ("nothing_of_this_machine", "source", source(4, f'path = "{ROOT_HOME}/x"'), "cell 4: the source names '/root'"),
    ("nothing_of_this_machine", "Markdown", source(3, "See /tmp/mine."), "cell 3: the source names '/tmp/mine.'"),
    ("nothing_of_this_machine", "output", shown(4, PRIVATE), f"cell 4: the output shows '{JOES_HOME}'"),
    ("nothing_of_this_machine", "HTML", shown(4, PRIVATE_HTML), "cell 4: the output shows '/Users/joe'"),
    ("nothing_of_this_machine", "metadata", metadata("papermill", {"input": f"{JOES_HOME}/x"}), "metadata name"),
    ("images_have_alt_text", "no metadata", shown(4, picture(None)), "cell 4 shows a picture without alt text"),
    ("images_have_alt_text", "blank", shown(4, picture(" ")), "cell 4 shows a picture without alt text"),
    ("images_have_alt_text", "Markdown", replaced(3, "![A worker]", "![]"), "'picture.png' has no alt text"),
    ("images_have_alt_text", "HTML", source(3, '<img src="picture.png">'), "has no alt text"),
    ("links_resolve", "no file", source(3, "[next](04_none.ipynb)"), "'04_none.ipynb' leads nowhere"),
    ("links_resolve", "absolute", source(3, "[a](/etc/hosts)"), "leads nowhere"),
    ("links_resolve", "no heading", source(3, "[a](#Nowhere)"), "names no heading of 03_lesson.ipynb"),
    ("links_resolve", "case", source(3, "[a](03_lesson.ipynb#recap)"), "write #Recap"),
    ("links_resolve", "other notebook", source(3, f"[a]({SOLUTIONS}/03_lesson.ipynb#Recap)"), "names no heading"),
    ("links_resolve", "page", source(3, "[a](page.md#nothing)"), "names no heading of page.md"),
    ("links_resolve", "picture", replaced(3, "picture.png", "none.png"), "'none.png' leads nowhere"),
    ("links_resolve", "empty", source(3, "[a]()"), "its target is empty"),
    ("python_parses", "syntax", source(4, "x0 = ("), "cell 4, line 1"),
    ("is_initialized_is_called", "if", source(4, "if ray.is_initialized:\n    pass"), "cell 4: ray.is_initialized"),
    ("is_initialized_is_called", "not", source(4, "x = not ray.is_initialized"), "always true"),
    (
        "what_a_cluster_lacks_is_said",
        "size",
        source(4, 'size = choose_size({"workers": (2, 16)})'),
        "require_resources",
    ),
    ("sixteen_bits_ask_the_processor", "type", source(4, "x0 = y.to(torch.bfloat16)"), "cell 4 takes a 16-bit"),
    ("sixteen_bits_ask_the_processor", "half", source(4, "model.half()"), "cell 4 takes a 16-bit"),
    ("sixteen_bits_ask_the_processor", "option", source(4, "t = train(bf16=True)"), "cell 4 takes a 16-bit"),
    ("applications_have_names", "no name", source(4, "serve.run(App.bind())"), "cell 4 calls serve.run without a name"),
    ("quiet_workers_are_told", "init", source(4, "ray.init(log_to_driver=False)"), "cell 4 sets log_to_driver=False"),
    ("input_is_local", "https", source(4, 'read("https://a.org/x.csv")'), "cell 4: the code names 'https://a.org"),
    ("input_is_local", "s3", source(4, 'read("s3://bucket/x")'), "'s3://bucket/x'"),
    ("input_is_local", "shell", source(4, "!curl http://a.org/x"), "'http://a.org/x'"),
    ("input_is_local", "f-string", source(4, 'read(f"gs://bucket/{x}")'), "'gs://bucket/'"),
    ("input_is_local", "laptop column", source(4, CLUSTER.replace('"data"', '"s3://b/x"')), "'s3://b/x'"),
    ("input_is_local", "other tuple", source(4, 'pairs = {"a": (1, "s3://b")}'), "'s3://b'"),
    ("input_is_local", "like localhost", source(4, 'read("http://localhost.a.org/x")'), "localhost.a.org"),
    ("code_is_safe", "remote code", source(4, "load(x, trust_remote_code=True)"), "trust_remote_code"),
    ("code_is_safe", "pickle", source(4, "torch.load(f, weights_only=False)"), "weights_only"),
    ("code_is_safe", "input", source(4, 'x = input("?")'), "input() waits"),
    ("code_is_safe", "pip", source(4, "!pip install x"), "cell 4: '!pip' installs"),
    ("code_is_safe", "magic pip", source(4, "%pip install x"), "'%pip' installs"),
    ("code_is_safe", "python -m pip", source(4, "!python -m pip install x"), "installs"),
]

BAD_DEEP_DIVES: list[tuple[str, str, Edit, str]] = [
    ("opening_is_complete", "line missing", replaced(1, "**You need:**", "Needed:"), "lacks **You need:**"),
    ("headings_are_in_order", "no recap", source(9, "Done."), "'## Recap' once"),
    ("time_is_measured", "never measured", metadata("ray_course", {}), "no measured time"),
    ("length_is_that_of_a_lesson", "too few", few_code_cells, "code cells, expected 6 to 30"),
    ("length_is_that_of_a_lesson", "long cells", cells_of_nine_lines, "more than 8 lines"),
    ("exercises_have_checks_and_solutions", "no solution", third_exercise, "has no solutions"),
    ("key_figure_is_shown", "none", tagged(8), "found 0"),
    ("ray_is_shut_down", "not at all", source(10, "x1"), "does not call ray.shutdown()"),
]

BAD_REFERENCES: list[tuple[str, str, Edit, str]] = [
    ("opening_is_complete", "no title", source(1, "All of it"), "'# Title'"),
    ("outputs_are_clean", "error", shown(2, ERROR), "cell 2 shows the error ValueError"),
    ("ray_is_shut_down", "not at all", source(3, "x1 = 1"), "does not call ray.shutdown()"),
]

BAD_SOLUTIONS: list[tuple[str, str, Edit, str]] = [
    ("opening_is_complete", "no title", source(1, "Solutions"), "'# Title'"),
    ("exercises_have_checks_and_solutions", "no check", tagged(4), "solution-1 has no check"),
    ("checks_say_what_they_should", "wrong", shown(4, result("not right: got 1.")), "must show 'right: ...'"),
    ("ray_is_shut_down", "left on", left_on, "does not call ray.shutdown()"),
    ("outputs_are_clean", "error", shown(2, ERROR), "solutions/03_lesson.ipynb, cell 2"),
]

ACCEPTED: list[tuple[str, str, Edit]] = [
    ("headings_are_in_order", "other sections", source(18, "## Going further")),
    ("time_is_measured", "just within", metadata("ray_course", {"seconds": 40 * TIME_FACTOR})),
    ("input_is_local", "cluster column", source(4, CLUSTER)),
    ("sixteen_bits_ask_the_processor", "asked", source(4, "t = train(bf16=cpu_supports_bf16())")),
    ("what_a_cluster_lacks_is_said", "asked", source(4, "size = choose_size({})\nrequire_resources([])")),
    ("input_is_local", "named settings", source(4, 'all = {"a": (1, "s3://b")}\nsize = choose_size(all)')),
    ("input_is_local", "loopback", source(4, 'read("http://127.0.0.1:8000/x", f"http://{host}/x")')),
    ("input_is_local", "comment", source(4, "# see https://a.org/x\nx0 = 0")),
    ("is_initialized_is_called", "called", source(4, "assert ray.is_initialized()")),
    ("nothing_of_this_machine", "everywhere the same", source(3, "In ~/.ray and /tmp/ray/session_latest/logs.")),
    ("links_resolve", "page", source(3, "[a](page.md#whats-here), [b](https://a.org/x#y), `[c](d)`")),
    ("links_resolve", "with spaces", source(3, "[a](03_lesson.ipynb#On-a-cluster)")),
    ("python_parses", "magics", source(4, "%%time\nx = await y\n!ls")),
    ("python_parses", "other language", source(4, "%%bash\nif true; then echo; fi")),
    ("code_is_safe", "safe", source(4, "torch.load(f, weights_only=True)")),
    ("length_is_that_of_a_lesson", "25 lines", source(4, "\n".join(["x0 = 0"] * 25))),
    ("outputs_are_committed", "empty cell", cell_set(3, "metadata", {})),
    ("diagrams_are_drawn", "sequence", replaced(3, "A[", 'A["call(x) -->"] --> C[')),
]


def identify(case: tuple[Any, ...]) -> str:
    return f"{case[0]}-{case[1].replace(' ', '_')}"


@pytest.mark.parametrize("rule", RULES)
def test_good_notebooks_have_no_problem(folder: Path, rule: str) -> None:
    for where in (LESSON, DEEP_DIVE, REFERENCE_PAGE, f"{SOLUTIONS}/{LESSON}"):
        assert RULES[rule](folder / where, load(folder / where)) == []


@pytest.mark.parametrize("case", BAD, ids=identify)
def test_bad_lesson_goes_red(folder: Path, case: tuple[str, str, Edit, str]) -> None:
    rule, _, edit, words = case
    problems = problems_after(folder, rule, edit)
    assert any(words in problem for problem in problems), problems
    assert all("03_lesson.ipynb" in problem and "\n" not in problem for problem in problems), problems


OTHERS = {
    DEEP_DIVE: BAD_DEEP_DIVES,
    REFERENCE_PAGE: BAD_REFERENCES,
    f"{SOLUTIONS}/{LESSON}": BAD_SOLUTIONS,
}


@pytest.mark.parametrize(
    ("where", "case"),
    [pytest.param(where, case, id=f"{where}-{identify(case)}") for where, cases in OTHERS.items() for case in cases],
)
def test_other_bad_notebook_goes_red(folder: Path, where: str, case: tuple[str, str, Edit, str]) -> None:
    rule, _, edit, words = case
    problems = problems_after(folder, rule, edit, where)
    assert any(words in problem for problem in problems), problems


@pytest.mark.parametrize("case", ACCEPTED, ids=identify)
def test_borderline_lesson_is_accepted(folder: Path, case: tuple[str, str, Edit]) -> None:
    rule, _, edit = case
    assert problems_after(folder, rule, edit) == []


def test_lesson_without_solutions_goes_red(folder: Path) -> None:
    (folder / SOLUTIONS / LESSON).unlink()
    path = folder / LESSON
    problems = RULES["exercises_have_checks_and_solutions"](path, load(path))
    assert problems == ["03_lesson.ipynb has no solutions: expected solutions/03_lesson.ipynb."]


def test_lesson_whose_solutions_do_without_ray_goes_red(folder: Path) -> None:
    solutions = folder / SOLUTIONS / LESSON
    notebook = load(solutions)
    notebook.cells[2].source = "answer1 = 1"
    solutions.write_text(nbformat.v4.writes(notebook))
    problems = RULES["exercises_come_early_and_in_ray"](folder / LESSON, load(folder / LESSON))
    assert problems == ["03_lesson.ipynb: 0 of 2 solutions call Ray, expected at least half of them."]


def test_notebooks_are_found_in_all_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["01_a.ipynb", "02_b.ipynb", "deep_dives/a.ipynb", "reference/c.ipynb", "solutions/01_a.ipynb"]
    for name in [*reversed(names), "deep_dives/.ipynb_checkpoints/a.ipynb", "deep_dives/picture.png"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.setattr(notebook_rules, "NOTEBOOKS", tmp_path)
    assert notebook_rules.notebook_paths() == [tmp_path / name for name in names]


def test_kinds_of_notebooks(tmp_path: Path) -> None:
    names = (
        "01_a.ipynb",
        "deep_dives/a.ipynb",
        "reference/c.ipynb",
        "solutions/a.ipynb",
    )
    kinds = [notebook_rules.kind_of(tmp_path / name) for name in names]
    assert kinds == ["lesson", "deep dive", "reference", "solution"]


def test_a_problem_names_the_folder_and_a_link_leads_back_to_the_lesson(folder: Path) -> None:
    path = folder / DEEP_DIVE
    notebook = load(path)
    links = "[back](../03_lesson.ipynb#Recap), [solved](../solutions/03_lesson.ipynb), [lost](03_lesson.ipynb)"
    notebook.cells.append(new_markdown_cell(links))
    problems = RULES["links_resolve"](path, notebook)
    assert len(problems) == 1 and "'03_lesson.ipynb' leads nowhere" in problems[0]
    assert problems[0].startswith(f"{DEEP_DIVE}, cell {len(notebook.cells)}: ")


def test_every_rule_is_shown_to_fail() -> None:
    assert {case[0] for case in BAD} == set(RULES)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (f"{JOES_HOME}/x", [JOES_HOME]),
        (f"cd {ROOT_HOME}/x and os.path.root", [ROOT_HOME]),
        (r"C:\Users\joe", [r"C:\Users"]),
        ("/var/folders/ab/T/x", ["/var/folders/ab/T/x"]),
        ("/tmp/ray/session_2030-01-01/logs", ["/tmp/ray/session_2030-01-01/logs"]),
        ("/tmp/ray_other", ["/tmp/ray_other"]),
        ("lib/python3.11/site-packages/ray/a.py", ["lib/python3.11/site-packages/ray/a.py"]),
        ("pip install --index-url https://mirror.example/simple", ["--index-url https://mirror.example/simple"]),
        ("from mirror.pypi.example.org", ["mirror.pypi.example.org"]),
        ("node 10.1.2.3 and 192.168.0.7", ["10.1.2.3", "192.168.0.7"]),
        ("~/tmp/x, /tmp/ray, 127.0.0.1, version 2.10.3.4.5, /dev/shm, " + f"a{ROOT_HOME}/b, https://a.org/tmp/x", []),
    ],
)
def test_machine_paths(text: str, found: list[str]) -> None:
    assert machine_paths(text) == found


def test_machine_paths_knows_this_repository() -> None:
    repository = str(Path(__file__).resolve().parent.parent)
    assert machine_paths(f"in {repository}/data")
