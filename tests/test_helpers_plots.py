"""Each plot shows one picture with alt text, in colours that everybody can tell apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from itertools import combinations
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from IPython.core.formatters import DisplayFormatter
from matplotlib.colors import to_rgb
from PIL import Image

from helpers import plots

pytestmark = pytest.mark.fast

# Machado, Oliveira and Fernandes, "A Physiologically-based Model for Simulation of Color
# Vision Deficiency", 2009: severity 1.0, for linear RGB.
VISION = {
    "ordinary": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}
# IEC 61966-2-1 (sRGB), white point D65.
XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
# A distance of 2.3 is just seen when two patches touch; thin lines apart from each other need several times that.
DISTANCE = 10.0


def lab(colour: Any, vision: np.ndarray) -> np.ndarray:
    """CIE Lab of a colour as somebody with that vision sees it."""
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = XYZ @ np.clip(vision @ linear, 0, 1) / (XYZ @ np.ones(3))
    f = np.where(seen > (6 / 29) ** 3, np.cbrt(seen), seen / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def nearest(colours: Sequence[Any], vision: np.ndarray) -> float:
    """The smallest distance between two of the colours."""
    return min(float(np.linalg.norm(lab(a, vision) - lab(b, vision))) for a, b in combinations(colours, 2))


@pytest.mark.parametrize("vision", VISION)
def test_colours_can_be_told_apart(vision: str) -> None:
    assert nearest(plots.COLOURS, VISION[vision]) > DISTANCE


@pytest.mark.parametrize(
    ("pair", "vision"),
    [
        (("#D62728", "#805028"), "protanopia"),
        (("#C05050", "#7F8040"), "deuteranopia"),
        (("#0080A0", "#008080"), "tritanopia"),
    ],
)
def test_simulation_finds_a_bad_pair(pair: tuple[str, str], vision: str) -> None:
    assert nearest(pair, VISION[vision]) < DISTANCE < nearest(pair, VISION["ordinary"])


@pytest.mark.parametrize("vision", ["protanopia", "deuteranopia"])
def test_common_palette_fails(vision: str) -> None:
    usual = tuple(plt.colormaps["tab10"].colors)
    assert nearest(usual, VISION[vision]) < DISTANCE < nearest(usual, VISION["ordinary"])


@pytest.mark.parametrize("vision", VISION)
def test_simulation_keeps_greys_and_lab_is_lab(vision: str) -> None:
    assert lab("#FFFFFF", VISION[vision]) == pytest.approx([100, 0, 0], abs=0.1)
    assert lab("#777777", VISION[vision])[1:] == pytest.approx([0, 0], abs=0.1)
    assert lab("#FF0000", VISION["ordinary"]) == pytest.approx([53.2, 80.1, 67.2], abs=0.3)


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """What the plots display; afterwards no figure is open."""
    objects: list[Any] = []
    monkeypatch.setattr("IPython.display.display", objects.append)
    yield objects
    assert plt.get_fignums() == [], "a figure stayed open, so a notebook would show it twice"


SPANS = [
    {"worker": "a", "start": 10.0, "end": 11.0, "label": "1"},
    {"worker": "b", "start": 10.5, "end": 12.5},
]
DRAWN: dict[str, tuple[Callable[[], None], tuple[str, ...]]] = {
    "timeline": (lambda: plots.timeline(SPANS, "Two at once"), ("Two at once", "2 pieces of work on 2 rows", "2.5")),
    "bars": (lambda: plots.bars({"serial": 2, "Ray": 1.25}, "Faster", "seconds"), ("Faster", "serial 2.00, Ray 1.25")),
    "ranges": (
        lambda: plots.ranges({"one": [1, 1], "two": [1.5, 2.0, 1.75]}, "Nearly twice", "times as fast"),
        ("Nearly twice", "one: 1.00; two: 1.75 (1.50 to 2.00)", "times as fast"),
    ),
    "stacked_bars": (
        lambda: plots.stacked_bars(pd.DataFrame({"model": [9, 1], "HTTP": [5.5, 4]}, ["one", "many"]), "Work", "ms"),
        ("Work", "one: model 9.0, HTTP 5.5", "many: model 1.0, HTTP 4.0"),
    ),
    "lines": (
        lambda: plots.lines({"loss": ([1, 2], [0.9, 0.25])}, "Learning", "epoch", "loss"),
        ("Learning", "loss goes from 0.9 to 0.25", "epoch"),
    ),
    "histogram": (
        lambda: plots.histogram([540, 560, 600], "How many epochs", "epochs", marks={"ours": 548}),
        "3 values from 540 to 600, median 560; ours at 548",
    ),
    "learning_curves": (
        lambda: plots.learning_curves([([1], [0.5]), ([1, 2, 3], [0.4, 0.6, 0.75])], "Rungs", "epoch", "accuracy", 3),
        ("2 learning curves", "Rungs", "1 were stopped before epoch 3", "from 0.5 to 0.75"),
    ),
    "images": (
        lambda: plots.images([np.zeros((4, 4))] * 7, [f"bag\n{i}" for i in range(7)], "Bags"),
        ("7 pictures", "Bags", "bag, 6"),
    ),
    "cart_poles": (
        lambda: plots.cart_poles([np.array([0.5, 0, np.pi / 18, 0])] * 2, ["step 0", "step 9"], "It leans"),
        ("2 moments", "It leans", "step 9: the cart at 0.5 m, the pole at 10 degrees"),
    ),
    "confusion": (
        lambda: plots.confusion(np.array([[8, 2], [1, 9]]), ["coat", "bag"], "Mistakes"),
        ("17 of 20", "coat taken for bag, 2 times"),
    ),
}


@pytest.mark.parametrize("name", DRAWN)
def test_one_picture_with_alt_text(shown: list[Any], name: str) -> None:
    draw, words = DRAWN[name]
    draw()
    assert len(shown) == 1
    data, metadata = DisplayFormatter().format(shown[0])
    assert "image/png" in data
    alt = metadata["image/png"]["alt"]
    for word in words:
        assert word in alt, alt


def test_every_plot_is_tested() -> None:
    made_here = {n for n, f in vars(plots).items() if callable(f) and getattr(f, "__module__", "") == plots.__name__}
    assert {name for name in made_here if not name.startswith("_")} - {"show"} == set(DRAWN)


def test_timeline_of_nothing() -> None:
    with pytest.raises(ValueError, match="timeline needs at least one span, but got none"):
        plots.timeline([], "Nothing")


def test_timeline_with_an_event_and_rows_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[Any, str]] = []
    monkeypatch.setattr(plots, "show", lambda figure, alt: drawn.append((figure.axes[0], alt)))
    plots.timeline(SPANS, "A loss", marks={"cut off": 11.25}, rows=["b", "a"])
    axes, alt = drawn[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["b", "a"]
    assert [list(line.get_xdata()) for line in axes.lines] == [[1.25, 1.25]]
    assert "cut off" in [text.get_text().strip() for text in axes.texts]
    assert "cut off after 1.2 seconds" in alt
    plt.close("all")


def test_timelines_share_a_time_axis(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(plots, "show", lambda figure, alt: drawn.append(figure.axes[0].get_xlim()))
    for longest in (None, 5.0, 1.0):
        plots.timeline(SPANS, "Two at once", until=longest)
    plots.timeline([{"worker": "one", "start": 7.0, "end": 12.0}], "One", until=5.0)
    plt.close("all")
    by_itself, longer, shorter, one = drawn
    assert longer == one and longer[1] > 5
    assert by_itself[1] == pytest.approx(shorter[1]), "what takes longer is shown whole"


@pytest.mark.parametrize(
    ("draw", "says"),
    [
        (lambda: plots.bars({}, "t", "s"), "at least one value"),
        (lambda: plots.ranges({}, "t", "s"), "at least one measurement"),
        (lambda: plots.ranges({"one": [1.0], "two": []}, "t", "s"), "at least one measurement"),
        (lambda: plots.ranges({"one": [1.0, 0.0]}, "t", "s", log=True), "numbers above 0"),
        (lambda: plots.stacked_bars(pd.DataFrame(), "t", "s"), "at least one row"),
        (lambda: plots.lines({"empty": ([], [])}, "t", "x", "y"), "'empty' has none"),
        (lambda: plots.learning_curves([], "t", "x", "y", 1), "at least one curve"),
        (lambda: plots.histogram([], "t", "x"), "at least one value"),
        (lambda: plots.images([np.zeros((2, 2))] * 3, ["a", "b"], "t"), "got 3 and 2"),
    ],
)
def test_nothing_to_draw_is_said(draw: Callable[[], None], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        draw()


def test_confusion_without_a_mistake(shown: list[Any]) -> None:
    plots.confusion(np.diag([3, 4]), ["coat", "bag"], "All right")
    _, metadata = DisplayFormatter().format(shown[0])
    assert "7 of 7 are on the diagonal; there is no mistake" in metadata["image/png"]["alt"]


def test_more_series_than_colours(shown: list[Any]) -> None:
    many = {f"line {i}": ([0, 1], [0, i]) for i in range(10)}
    plots.lines(many, "Many", "x", "y")
    plots.bars({name: 1.0 for name in many}, "Many", "x")
    assert len(shown) == 2


def test_columns_of_a_table_without_row_0(shown: list[Any]) -> None:
    table = pd.DataFrame({"epoch": [1, 2], "loss": [0.9, 0.25]}, index=[5, 6])
    plots.lines({"loss": (table["epoch"], table["loss"])}, "Learning", "epoch", "loss")
    assert "loss goes from 0.9 to 0.25" in shown[0]._repr_mimebundle_()[1]["image/png"]["alt"]


def test_limits_and_logarithms_are_told(shown: list[Any]) -> None:
    plots.lines({"need": ([1, 2], [32, 16])}, "Memory", "GPUs", "GB", limits={"24 GB": 24}, log=True)
    alt = DisplayFormatter().format(shown[0])[1]["image/png"]["alt"]
    assert "need goes from 32 to 16" in alt
    assert "a dashed line at 24 GB" in alt


def test_events_are_told(shown: list[Any]) -> None:
    plots.lines({"return": ([1, 2, 3], [20, 90, 400])}, "Learning", "round", "steps", events={"runner killed": 2})
    assert "runner killed at 2" in alt_text(shown)


def test_moments_of_a_cart_need_a_caption_each(shown: list[Any]) -> None:
    with pytest.raises(ValueError, match="got 1 and 2"):
        plots.cart_poles([np.zeros(4)], ["one", "two"], "Two captions")
    with pytest.raises(ValueError, match="got 0 and 0"):
        plots.cart_poles([], [], "None")


def alt_text(shown: list[Any]) -> str:
    """The description of the newest picture."""
    return shown[-1]._repr_mimebundle_()[1]["image/png"]["alt"]


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The texts of each figure and where they stand, collected just before it is shown."""
    found: list[Any] = []

    def collect(figure: Any, alt: str) -> None:
        figure.canvas.draw()
        found.extend((text.get_text(), text.get_window_extent()) for text in figure.findobj(plt.Text))
        found.append(("axes", figure.axes[0].get_window_extent()))
        plt.close(figure)

    monkeypatch.setattr(plots, "show", collect)
    return found


@pytest.mark.parametrize(
    ("value", "digits", "text"), [(-0.3, 0, "0"), (-0.004, 2, "0.00"), (-0.6, 0, "-1"), (-0.0, 1, "0.0")]
)
def test_what_rounds_to_zero_has_no_minus(
    shown: list[Any], monkeypatch: pytest.MonkeyPatch, value: float, digits: int, text: str
) -> None:
    labels: list[str] = []
    bar_label = plt.Axes.bar_label
    monkeypatch.setattr(
        plt.Axes,
        "bar_label",
        lambda axes, bars, texts, **how: labels.extend(texts) or bar_label(axes, bars, texts, **how),
    )
    plots.bars({"shared": value, "whole": 12.0}, "Memory", "MB", digits=digits)
    assert labels[0] == text
    assert f"shared {text}," in alt_text(shown)


def test_curves_and_learning_curves_know_no_minus_zero(shown: list[Any]) -> None:
    plots.lines({"loss": ([1, 2], [-0.0, -0.0])}, "Learning", "epoch", "loss")
    assert "loss goes from 0 to 0, at most 0" in alt_text(shown)
    plots.learning_curves([([1], [-0.0]), ([1, 2], [1, -0.0])], "Rungs", "epoch", "accuracy", 2)
    assert "ranges from 0 to 0." in alt_text(shown)


def test_name_of_a_limit_stands_beside_the_points(written: list[Any]) -> None:
    plots.lines(
        {"streamed": ([1, 4, 16], [2.8, 2.9, 2.85])}, "Memory", "GB", "GB in use", limits={"nothing to do": 2.82}
    )
    places = dict(written)
    assert places["nothing to do"].x0 >= places["axes"].x1, "the name is printed over the points"


def test_names_of_curves_stand_at_their_ends_and_apart(written: list[Any]) -> None:
    ends = {"rises": 3.0, "nearly the same": 2.98, "low": 0.1}
    plots.lines({name: ([1, 2], [1.0, end]) for name, end in ends.items()}, "Three", "x", "y", limits={"limit": 2.96})
    places = dict(written)
    boxes = sorted((places[name] for name in (*ends, "limit")), key=lambda box: box.y0)
    assert all(low.y1 <= high.y0 + 1 for low, high in zip(boxes, boxes[1:], strict=False)), "names overlap"
    assert all(box.x0 >= places["axes"].x1 for box in boxes), "a name is printed over the curves"
    assert places["low"].y0 < places["limit"].y0 < places["nearly the same"].y0 < places["rises"].y0


def test_pictures_are_sharp_and_as_wide_as_before(shown: list[Any]) -> None:
    plots.bars({"a": 1.0}, "One", "MB")
    width = Image.open(BytesIO(shown[0].data)).width
    assert abs(width - 7 * 150) <= 2
    assert shown[0].width == 560


def test_many_values_without_marks(shown: list[Any]) -> None:
    values = range(1000)
    plots.lines({"a": (values, values), "b": (values, values)}, "Many", "x", "y", markers=False)
    assert "b goes from 0 to 999" in shown[0]._repr_mimebundle_()[1]["image/png"]["alt"]


def test_ranges_far_apart_have_a_logarithmic_axis(shown: list[Any]) -> None:
    plots.ranges({"one": [0.1, 0.2, 0.1], "hundreds": [30.0, 20.0, 25.0]}, "Far apart", "seconds", log=True)
    assert "one: 0.10 (0.10 to 0.20); hundreds: 25.00 (20.00 to 30.00)" in alt_text(shown)
