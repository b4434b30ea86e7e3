"""One cell, two sizes: which one is chosen, and how it is shown."""

from __future__ import annotations

import pytest

from helpers.sizes import SETTINGS_VARIABLE, VARIABLE, choose_size

pytestmark = pytest.mark.fast

SETTINGS = {"workers": (2, 16), "model": ("tiny", "large")}


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.delenv(SETTINGS_VARIABLE, raising=False)


def test_laptop_is_the_default() -> None:
    size = choose_size(SETTINGS)
    assert (size.name, size.workers, size.model) == ("laptop", 2, "tiny")


def test_variable_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "cluster")
    size = choose_size(SETTINGS)
    assert (size.name, size.workers, size.model) == ("cluster", 16, "large")


def test_argument_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "cluster")
    assert choose_size(SETTINGS, size="laptop").workers == 2


@pytest.mark.parametrize("name", ["Cluster", "", "huge"])
def test_unknown_argument_lists_the_sizes(name: str) -> None:
    with pytest.raises(ValueError, match=f"^the argument size is '{name}', but a size is one of: laptop, cluster.$"):
        choose_size(SETTINGS, size=name)


def test_unknown_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "phone")
    with pytest.raises(ValueError, match=f"^{VARIABLE} is 'phone', but a size is one of: laptop, cluster.$"):
        choose_size(SETTINGS)


@pytest.mark.parametrize("value", [1, (1,), (1, 2, 3), [1, 2]])
def test_setting_without_two_values_is_named(value: object) -> None:
    with pytest.raises(ValueError, match="^The setting 'rows' needs two values, .laptop, cluster., but has "):
        choose_size({"rows": value})


def test_both_sizes_are_shown_as_text() -> None:
    lines = repr(choose_size(SETTINGS, "cluster")).splitlines()
    assert [line.split() for line in lines] == [
        ["setting", "laptop", "cluster"],
        ["workers", "2", "16"],
        ["model", "tiny", "large"],
        ["chosen:", "cluster"],
    ]


def test_chosen_column_stands_out_in_html() -> None:
    html = choose_size(SETTINGS, "cluster")._repr_html_()
    assert "<th>laptop</th><th>cluster (chosen)</th>" in html
    assert "<td>2</td><td><b>16</b></td>" in html


def test_html_is_escaped() -> None:
    html = choose_size({"a<b": ("<script>", "x & y")})._repr_html_()
    assert "<script>" not in html
    assert "<th>a&lt;b</th><td><b>&lt;script&gt;</b></td><td>x &amp; y</td>" in html


# One setting of each kind: a number, a fraction, a switch, a text, several numbers, all of something.
KINDS = {
    "epochs": (3, 10),
    "rate": (0.5, 1),
    "use_gpu": (False, True),
    "model": ("tiny", "large"),
    "clients": ((1, 8), (1, 32)),
    "rows": (960, None),
}


def test_single_settings_are_changed_in_either_column(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SETTINGS_VARIABLE, '{"epochs": 1, "use_gpu": false, "clients": [1, 2], "rows": 5, "rate": 2}')
    for name, model in (("laptop", "tiny"), ("cluster", "large")):
        size = choose_size(KINDS, name)
        assert (size.epochs, size.use_gpu, size.clients, size.rows, size.rate) == (1, False, (1, 2), 5, 2)
        assert (size.name, size.model) == (name, model)


@pytest.mark.parametrize(("text", "value"), [("null", None), ("7", 7)])
def test_null_stands_for_none_where_a_column_has_it(monkeypatch: pytest.MonkeyPatch, text: str, value: object) -> None:
    monkeypatch.setenv(SETTINGS_VARIABLE, f'{{"rows": {text}}}')
    assert choose_size(KINDS, "laptop").rows == value


@pytest.mark.parametrize("text", ["", "  ", "{}"])
def test_nothing_is_changed_by_an_empty_variable(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(SETTINGS_VARIABLE, text)
    size = choose_size(KINDS, "cluster")
    assert size.epochs == 10
    assert SETTINGS_VARIABLE not in repr(size) and SETTINGS_VARIABLE not in size._repr_html_()


@pytest.mark.parametrize("text", ["epochs=1", "{epochs: 1}", "[1]", "1", '{"use_gpu": False}', '"epochs"', "null"])
def test_what_is_no_json_object_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(SETTINGS_VARIABLE, text)
    with pytest.raises(ValueError, match=f"^{SETTINGS_VARIABLE} is '.*', but it must be a JSON object such as ") as e:
        choose_size(KINDS)
    assert repr(text) in str(e.value)


def test_an_unknown_setting_is_refused_with_those_that_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SETTINGS_VARIABLE, '{"epoch": 1}')
    with pytest.raises(ValueError, match=f"^{SETTINGS_VARIABLE} names the setting 'epoch', but .* are: epochs, rate, "):
        choose_size(KINDS)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("epochs", "true"),
        ("epochs", "1.5"),
        ("epochs", '"1"'),
        ("epochs", "null"),
        ("use_gpu", "0"),
        ("model", "1"),
        ("clients", "1"),
        ("clients", "[]"),
        ("clients", '["1"]'),
        ("rate", "true"),
        ("rows", "[1]"),
        ("rows", '{"all": 1}'),
    ],
)
def test_a_value_of_another_type_is_refused(monkeypatch: pytest.MonkeyPatch, key: str, value: str) -> None:
    monkeypatch.setenv(SETTINGS_VARIABLE, f'{{"{key}": {value}}}')
    with pytest.raises(ValueError) as error:
        choose_size(KINDS)
    assert str(error.value).startswith(f"{SETTINGS_VARIABLE} sets {key!r} to {value}, but it must be like one of ")


def test_changes_are_shown_beside_both_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SETTINGS_VARIABLE, '{"workers": 3}')
    size = choose_size(SETTINGS, "cluster")
    assert [line.split() for line in repr(size).splitlines()] == [
        ["setting", "laptop", "cluster", SETTINGS_VARIABLE],
        ["workers", "2", "16", "3"],
        ["model", "tiny", "large"],
        ["chosen:", "cluster,", "with", "the", "changes", "in", SETTINGS_VARIABLE],
    ]
    html = size._repr_html_()
    assert f"<th>cluster (chosen)</th><th>{SETTINGS_VARIABLE}</th>" in html
    assert "<td>2</td><td>16</td><td><b>3</b></td>" in html
    assert "<td>tiny</td><td><b>large</b></td><td></td>" in html
