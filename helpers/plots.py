"""Plots of the course: one look, colours that colour-blind readers can tell apart, alt text."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

# Okabe and Ito, "Color Universal Design", 2008: told apart with any colour vision.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
STYLE = {
    "axes.prop_cycle": plt.cycler(color=COLOURS),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": "medium",
    "figure.constrained_layout.use": True,
    "font.size": 10,
}
DPI = 150  # of the stored picture
SHOWN_DPI = 80  # a picture of 7 inches takes 560 pixels of a notebook, however many dots it has


def show(figure: Figure, alt: str) -> None:
    """Display a figure once, as a PNG that carries a description for screen readers.

    Args:
        figure: a matplotlib figure; it is closed afterwards.
        alt: one or two sentences that say what the picture shows.

    Source: the metadata key "alt" is what nbconvert reads.
    """
    from IPython.display import Image, display

    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    width = round(figure.get_figwidth() * SHOWN_DPI)
    plt.close(figure)
    display(Image(buffer.getvalue(), format="png", width=width, alt=alt))


def _axes(title: str, width: float = 7.0, height: float = 2.8) -> tuple[Figure, Any]:
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(width, height))
    axes.set_title(title, loc="left")
    return figure, axes


def timeline(
    spans: Iterable[Mapping[str, Any]],
    title: str,
    until: float | None = None,
    marks: Mapping[str, float] | None = None,
    rows: Sequence[Any] | None = None,
) -> None:
    """Show who worked when: one row for each worker, one bar for each piece of work.

    Args:
        spans: mappings with "worker" (any label), "start" and "end" (seconds on
            one clock, such as time.time()) and, optionally, "label" (short text).
        title: what the reader should see.
        until: seconds at which the time axis ends, so that two timelines can share
            one axis; a timeline that takes longer is shown whole. None: it ends with the last bar.
        marks: name -> time (on the clock of the spans) of an event, shown as a vertical line.
        rows: the workers from top to bottom. None: in the order in which they begin.

    Raises:
        ValueError: there are no spans.

    Source: written for this course.
    """
    spans = list(spans)
    if not spans:
        raise ValueError("timeline needs at least one span, but got none.")
    zero = min(span["start"] for span in spans)
    if rows is None:
        rows = list(dict.fromkeys(span["worker"] for span in sorted(spans, key=lambda s: s["start"])))
    figure, axes = _axes(title, height=0.9 + 0.4 * len(rows))
    for span in spans:
        start, length = span["start"] - zero, span["end"] - span["start"]
        # One colour for all, on which black text can be read: a second colour would look like a meaning.
        axes.barh(rows.index(span["worker"]), length, left=start, height=0.7, color=COLOURS[4], edgecolor="white")
        if span.get("label"):
            axes.text(
                start + length / 2, rows.index(span["worker"]), span["label"], ha="center", va="center", fontsize=8
            )
    axes.set_yticks(range(len(rows)), [str(row) for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel("seconds")
    total = max(span["end"] for span in spans) - zero
    events = {name: time - zero for name, time in (marks or {}).items()}
    for name, second in events.items():
        axes.axvline(second, color="black", linestyle="--", linewidth=1)
        axes.annotate(f" {name}", (second, 0.02), xycoords=("data", "axes fraction"), va="bottom", fontsize=8)
    if until is not None:
        axes.set_xlim(0, 1.05 * max(until, total))  # the margin that matplotlib leaves by itself
    told = "".join(f" {name} after {second:.1f} seconds." for name, second in events.items())
    show(figure, f"Timeline. {title}. {len(spans)} pieces of work on {len(rows)} rows in {total:.1f} seconds.{told}")


def bars(values: Mapping[str, float], title: str, unit: str, digits: int = 2) -> None:
    """Show a few numbers as horizontal bars, each with its value.

    Args:
        values: name -> number (a dict or a pandas Series), in the order from top to bottom.
        title: what the reader should see.
        unit: label of the axis, with the unit.
        digits: digits after the decimal point.

    Raises:
        ValueError: there are no values.

    Source: written for this course.
    """
    if len(values) == 0:
        raise ValueError("bars needs at least one value, but got none.")
    figure, axes = _axes(title, height=0.9 + 0.4 * len(values))
    names, numbers = zip(*((name, float(value)) for name, value in values.items()), strict=True)
    # A few bars are told apart by colour; in a long list a colour would only look like a meaning.
    drawn = axes.barh(names, numbers, color=COLOURS[: len(names)] if len(names) <= 5 else COLOURS[0])
    shown = [f"{n:z,.{digits}f}" for n in numbers]  # z: what rounds to zero is 0, not -0
    axes.bar_label(drawn, shown, padding=3)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel(unit)
    listed = ", ".join(f"{name} {number}" for name, number in zip(names, shown, strict=True))
    show(figure, f"Bar chart. {title}. {unit}: {listed}.")


def ranges(values: Mapping[str, Sequence[float]], title: str, unit: str, digits: int = 2, log: bool = False) -> None:
    """Show repeated measurements as horizontal bars: their medians, with a line from the smallest to the largest.

    Args:
        values: name -> its measurements (in a dict, or a pandas column), in the order from top to bottom.
        title: what the reader should see.
        unit: label of the axis, with the unit.
        digits: digits after the decimal point.
        log: whether the axis is logarithmic, with dots in place of bars, for values that differ a hundred times.

    Raises:
        ValueError: there are no values, a name has none, or the axis is logarithmic and one is not above 0.

    Source: written for this course.
    """
    measured = {name: np.asarray(list(numbers), dtype=float) for name, numbers in values.items()}
    if not measured or any(len(numbers) == 0 for numbers in measured.values()):
        raise ValueError("ranges needs at least one measurement for each name, but got none.")
    if log and any(numbers.min() <= 0 for numbers in measured.values()):
        raise ValueError("ranges with log=True needs numbers above 0.")
    figure, axes = _axes(title, height=0.9 + 0.4 * len(measured))
    middles = [float(np.median(numbers)) for numbers in measured.values()]
    if log:
        axes.plot(middles, list(measured), "o", color=COLOURS[0])
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
    else:
        axes.barh(list(measured), middles, height=0.7, color=COLOURS[4])
    said = []
    for row, (name, numbers) in enumerate(measured.items()):
        low, high = float(numbers.min()), float(numbers.max())
        axes.plot([low, high], [row, row], "|-", color=COLOURS[7], linewidth=1.2, markersize=9)
        text = f"{middles[row]:z,.{digits}f}"
        if high > low:
            text = f"{text} ({low:z,.{digits}f} to {high:z,.{digits}f})"
        axes.annotate(text, (high, row), (6, 0), textcoords="offset points", va="center", fontsize=9)
        said.append(f"{name}: {text}")
    axes.invert_yaxis()
    largest = max(float(numbers.max()) for numbers in measured.values())
    if log:
        smallest = min(float(numbers.min()) for numbers in measured.values())
        axes.set_xlim(smallest / 1.5, 10 * largest)  # room for the text
    else:
        axes.set_xlim(0, 1.35 * largest)
    axes.set_xlabel(unit)
    show(figure, f"Bar chart of medians, with the smallest and the largest value. {title}. {unit}. {'; '.join(said)}.")


def stacked_bars(parts: pd.DataFrame, title: str, unit: str, digits: int = 1) -> None:
    """Show what a few sums consist of, as horizontal bars in pieces.

    Args:
        parts: a row for each bar, from top to bottom, and a column for each part.
        title: what the reader should see.
        unit: label of the axis, with the unit.
        digits: digits after the decimal point.

    Raises:
        ValueError: there are no rows or no columns.

    Source: written for this course.
    """
    if parts.empty:
        raise ValueError("stacked_bars needs at least one row and one column, but the table is empty.")
    figure, axes = _axes(title, height=1.3 + 0.5 * len(parts))
    said, left = [], np.zeros(len(parts))
    for column, colour in zip(parts, itertools.cycle(COLOURS), strict=False):
        numbers = parts[column].to_numpy(dtype=float)
        drawn = axes.barh(parts.index, numbers, left=left, color=colour, label=column)
        # A piece too narrow for its number goes without; the axis and the text tell it.
        shown = [f"{n:z,.{digits}f}" if n > 0.04 * parts.sum(axis=1).max() else "" for n in numbers]
        axes.bar_label(drawn, shown, label_type="center", color="white", fontsize=9)
        left += numbers
    for name, row in parts.iterrows():
        said.append(f"{name}: " + ", ".join(f"{column} {number:z,.{digits}f}" for column, number in row.items()))
    axes.invert_yaxis()
    axes.set_xlabel(unit)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    show(figure, f"Stacked bar chart. {title}. {unit}. {'; '.join(said)}.")


def lines(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    title: str,
    xlabel: str,
    ylabel: str,
    markers: bool = True,
    limits: Mapping[str, float] | None = None,
    events: Mapping[str, float] | None = None,
    log: bool = False,
) -> None:
    """Show one or more curves.

    Args:
        series: name -> (x values, y values), two sequences of one length.
        title: what the reader should see.
        xlabel: label of the horizontal axis, with the unit.
        ylabel: label of the vertical axis, with the unit.
        markers: whether each value gets a mark; without, curves of many values
            are told apart by their dashes. Each curve's name stands at its right end.
        limits: name -> height of a dashed horizontal line, in the unit of the vertical axis.
        events: name -> place of a dashed vertical line, in the unit of the horizontal axis.
        log: whether both axes are logarithmic, to the base 2.

    Raises:
        ValueError: a curve has no values.

    Source: written for this course.
    """
    for name, (_, y) in series.items():
        if len(y) == 0:
            raise ValueError(f"lines needs values, but {name!r} has none.")
    figure, axes = _axes(title, height=4.0 if log else 2.8)
    said, labels = [], []
    for i, (name, values) in enumerate(series.items()):
        x, y = (np.asarray(v) for v in values)
        colour = COLOURS[i % len(COLOURS)]
        style = {"marker": "os^Dvx"[i % 6]} if markers else {"linestyle": ("-", "--", "-.", ":")[i % 4]}
        axes.plot(x, y, color=colour, **style)
        labels.append((float(y[-1]), name, colour))
        said.append(f"{name} goes from {y[0]:z.3g} to {y[-1]:z.3g}, at most {y.max():z.3g}")
    for name, height in (limits or {}).items():
        axes.axhline(height, color="grey", linestyle="--", linewidth=0.8)
        labels.append((height, name, "dimgrey"))
        said.append(f"a dashed line at {name}")
    for name, place in (events or {}).items():
        axes.axvline(place, color="grey", linestyle="--", linewidth=0.8)
        axes.annotate(
            name, (place, 0.02), (4, 0), xycoords=("data", "axes fraction"), textcoords="offset points",
            color="dimgrey", fontsize=9,
        )  # fmt: skip
        said.append(f"{name} at {place:z.3g}")
    if log:
        axes.set_xscale("log", base=2)
        axes.set_yscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    _label_right(axes, labels)
    show(figure, f"Line chart. {title}. {ylabel} over {xlabel}: {'; '.join(said)}.")


def _label_right(axes: Any, labels: Sequence[tuple[float, str, str]]) -> None:
    """Write names beside the axes at the heights of what they name, moved apart where they would overlap."""
    points = axes.get_window_extent().height / axes.figure.dpi * 72
    gap = 11 / points  # a line of text, as a fraction of the axes' height
    heights = [
        axes.transAxes.inverted().transform(axes.transData.transform((axes.get_xlim()[1], y)))[1] for y, *_ in labels
    ]
    order = np.argsort(heights, kind="stable")
    places = np.array([heights[i] for i in order])
    for i in range(1, len(places)):
        places[i] = max(places[i], places[i - 1] + gap)
    places -= max(0, places[-1] - 1) / 2  # a stack that has grown beyond the top is lowered by half of it
    for i, place in zip(order, places, strict=True):
        _, name, colour = labels[i]
        axes.annotate(
            name, (1.01, place), xycoords="axes fraction", color=colour, fontsize=9, va="center", annotation_clip=False
        )


def learning_curves(
    curves: Sequence[tuple[Sequence[float], Sequence[float]]], title: str, xlabel: str, ylabel: str, last: float
) -> None:
    """Show many thin learning curves, with a dot where each one ended.

    Args:
        curves: (x values, y values) of each trial.
        title: what the reader should see.
        xlabel: label of the horizontal axis (which is logarithmic), with the unit.
        ylabel: label of the vertical axis, with the unit.
        last: curves that reach this x value were not stopped; they are drawn in another colour.

    Raises:
        ValueError: there are no curves.

    Source: written for this course.
    """
    if len(curves) == 0:
        raise ValueError("learning_curves needs at least one curve, but got none.")
    figure, axes = _axes(title, height=3.6)
    stopped = 0
    for values in sorted(curves, key=lambda c: max(c[0]) >= last):
        x, y = (np.asarray(v) for v in values)
        early = x[-1] < last
        stopped += int(early)
        colour, width = (COLOURS[4], 0.7) if early else (COLOURS[5], 1.4)
        axes.plot(x, y, color=colour, linewidth=width)
        axes.plot(x[-1], y[-1], "o" if early else "D", color=colour, markersize=4)
    axes.set_xscale("log")
    ends = sorted({float(np.max(x)) for x, _ in curves})
    axes.set_xticks(ends, [f"{end:g}" for end in ends])
    axes.minorticks_off()
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    for colour, mark, name in ((COLOURS[4], "o", "stopped early"), (COLOURS[5], "D", "finished")):
        axes.plot([], [], mark, linestyle="-", color=colour, label=name)
    axes.legend(frameon=False)
    finals = [float(np.asarray(y)[-1]) for _, y in curves]
    alt = (
        f"Line chart of {len(curves)} learning curves. {title}. {stopped} were stopped before {xlabel} {last:g}. "
        f"Their last {ylabel} ranges from {min(finals):z.3g} to {max(finals):z.3g}."
    )
    show(figure, alt)


def histogram(values: Sequence[float], title: str, xlabel: str, marks: Mapping[str, float] | None = None) -> None:
    """Show how often values occur.

    Args:
        values: numbers in one unit.
        title: what the reader should see.
        xlabel: label of the horizontal axis, with the unit.
        marks: name -> value of a vertical line, in the same unit.

    Raises:
        ValueError: there are no values.

    Source: written for this course.
    """
    values = np.asarray(values, dtype=float)
    if len(values) == 0:
        raise ValueError("histogram needs at least one value, but got none.")
    figure, axes = _axes(title)
    axes.hist(values, bins=25, color=COLOURS[4], edgecolor="white")
    said = [f"{len(values)} values from {values.min():z.3g} to {values.max():z.3g}, median {np.median(values):z.3g}"]
    for name, value in (marks or {}).items():
        axes.axvline(value, color=COLOURS[5], linestyle="--")
        axes.annotate(
            name, (value, 0.98), (4, 0), xycoords=("data", "axes fraction"), textcoords="offset points", va="top",
            color=COLOURS[5], fontsize=9,
        )  # fmt: skip
        said.append(f"{name} at {value:z.3g}")
    axes.set_xlabel(xlabel)
    axes.set_ylabel("how often")
    show(figure, f"Histogram. {title}. {xlabel}: {'; '.join(said)}.")


def images(pictures: Sequence[np.ndarray], captions: Sequence[str], title: str, columns: int = 6) -> None:
    """Show grey-level pictures in a grid, each with a caption.

    Args:
        pictures: arrays of shape (height, width), any number type.
        captions: one text for each picture.
        title: what the reader should see.
        columns: pictures in a row.

    Raises:
        ValueError: the numbers of pictures and captions differ.

    Source: written for this course.
    """
    if len(pictures) != len(captions):
        raise ValueError(f"images needs a caption for each picture, but got {len(pictures)} and {len(captions)}.")
    rows = -(-len(pictures) // columns)
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(rows, columns, figsize=(1.35 * columns, 1.7 * rows + 0.3), squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for axes, picture, caption in zip(grid.flat, pictures, captions, strict=False):
        axes.imshow(picture, cmap="gray_r")
        axes.set_title(caption, fontsize=8)
    figure.suptitle(title, x=0.01, ha="left", fontsize="medium")
    said = "; ".join(caption.replace("\n", ", ") for caption in captions)
    show(figure, f"{len(pictures)} pictures. {title}. {said}.")


def cart_poles(observations: Sequence[np.ndarray], captions: Sequence[str], title: str) -> None:
    """Show moments of Gymnasium's CartPole beside each other: the cart, the pole on it, and the ends of the track.

    Args:
        observations: arrays of shape (4,): position in metres, speed, angle in radians (to the right), its speed.
        captions: one text for each moment.
        title: what the reader should see.

    Raises:
        ValueError: the numbers of observations and captions differ, or there are none.

    Source: written for this course.
    """
    if len(observations) != len(captions) or not captions:
        raise ValueError(
            "cart_poles needs a caption for each observation, and at least one, "
            f"but got {len(observations)} and {len(captions)}."
        )
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(1, len(captions), figsize=(1.9 * len(captions), 1.8), squeeze=False)
    for axes, (position, _, angle, _), caption in zip(grid.flat, observations, captions, strict=True):
        axes.plot([-2.4, 2.4], [0, 0], color=COLOURS[7], linewidth=1)
        axes.plot([position - 0.35, position + 0.35], [0.1, 0.1], color=COLOURS[0], linewidth=9, solid_capstyle="butt")
        tip = position + 2 * np.sin(angle), 0.2 + 2 * np.cos(angle)
        axes.plot([position, tip[0]], [0.2, tip[1]], color=COLOURS[5], linewidth=3)
        axes.set(xlim=(-3, 3), ylim=(-0.3, 2.6), aspect="equal")
        axes.set_title(caption, fontsize=8)
        axes.axis("off")
    figure.suptitle(title, x=0.01, ha="left", fontsize="medium")
    said = "; ".join(
        f"{caption}: the cart at {position:z.1f} m, the pole at {np.degrees(angle):z.0f} degrees"
        for caption, (position, _, angle, _) in zip(captions, observations, strict=True)
    )
    show(figure, f"A cart with a pole at {len(captions)} moments. {title}. {said}.")


def confusion(matrix: np.ndarray, classes: Sequence[str], title: str) -> None:
    """Show a confusion matrix with its counts.

    Args:
        matrix: integer counts of shape (classes, classes); row i, column j
            counts the pictures of class i that were taken for class j.
        classes: the names of the classes.
        title: what the reader should see.

    Source: written for this course.
    """
    figure, axes = _axes(title, width=6.2, height=5.2)
    axes.imshow(matrix, cmap="Blues")
    for i, j in np.ndindex(*matrix.shape):
        if matrix[i, j]:
            colour = "white" if matrix[i, j] > matrix.max() / 2 else "black"
            axes.text(j, i, int(matrix[i, j]), ha="center", va="center", fontsize=8, color=colour)
    axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right")
    axes.set_yticks(range(len(classes)), classes)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    off = matrix - np.diag(np.diag(matrix))
    i, j = np.unravel_index(off.argmax(), off.shape)
    mistake = f"the most frequent mistake is {classes[i]} taken for {classes[j]}, {off[i, j]} times"
    said = mistake if off.any() else "there is no mistake"
    show(figure, f"Confusion matrix. {title}. {np.trace(matrix)} of {matrix.sum()} are on the diagonal; {said}.")
