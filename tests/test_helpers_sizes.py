"""One cell, two sizes: which one is chosen, and how it is shown."""

from __future__ import annotations

import pytest

from helpers.sizes import VARIABLE, choose_size

pytestmark = pytest.mark.fast

SETTINGS = {"workers": (2, 16), "model": ("tiny", "large")}


@pytest.fixture(autouse=True)
def no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)


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
