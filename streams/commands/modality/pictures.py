"""Draws what people would rather look at: reliability, confusion, ablations."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


def draw(figures: Mapping[str, Any], folder: Path) -> list[Path]:
    """Draw the pictures of an evaluation.

    Parameters
    ----------
    figures : mapping
        What ``figures`` returned, with ``ablations`` where there are any.
    folder : Path
        Where they go; it is made.

    Returns
    -------
    list of Path
        ``reliability.png``, ``confusion.png`` and, with ablations, ``ablations.png``.
    """
    # Only here: the other commands need no drawing library.
    import matplotlib

    matplotlib.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    drawn = [_reliability(figures, folder), _confusion(figures, folder)]
    if figures.get("ablations"):
        drawn.append(_ablations(figures, folder))
    return drawn


def _reliability(figures: Mapping[str, Any], folder: Path) -> Path:
    from matplotlib import pyplot

    points = figures["reliability_curve"]
    picture, (axes, counts) = pyplot.subplots(
        2, 1, figsize=(5, 6), height_ratios=(3, 1), sharex=True, layout="constrained"
    )
    confidence = [point["confidence"] for point in points]
    axes.plot((0, 1), (0, 1), color="0.7", linestyle="--", label="confidence is accuracy")
    axes.plot(confidence, [point["accuracy"] for point in points], marker="o", label="measured")
    axes.set(
        ylabel="accuracy",
        xlim=(0, 1),
        ylim=(0, 1.02),
        title=f"Reliability, calibration error {_percent(figures['calibration_error']['value'])}",
    )
    axes.legend(loc="upper left")
    counts.bar(confidence, [point["files"] for point in points], width=0.05, color="0.5")
    counts.set(xlabel="confidence", ylabel="files")
    return _save(picture, folder / "reliability.png")


def _confusion(figures: Mapping[str, Any], folder: Path) -> Path:
    from matplotlib import pyplot

    names = figures["confusion"]["families"]
    table = np.array(figures["confusion"]["rows_true_columns_likeliest"])
    shown = np.flatnonzero(table.sum(axis=0) + table.sum(axis=1))
    table, names = table[np.ix_(shown, shown)], [names[index] for index in shown]
    share = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    side = 1.8 + 0.5 * len(names)
    picture, axes = pyplot.subplots(figsize=(side, side), layout="constrained")
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for row, column in zip(*np.nonzero(table), strict=True):
        colour = "white" if share[row, column] > 0.5 else "black"
        axes.text(
            column, row, table[row, column], ha="center", va="center", color=colour, fontsize=8
        )
    axes.set_xticks(range(len(names)), names, rotation=90)
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="likeliest", ylabel="true", title="Files by true and likeliest family")
    return _save(picture, folder / "confusion.png")


def _ablations(figures: Mapping[str, Any], folder: Path) -> Path:
    from matplotlib import pyplot

    found = {
        name: part["accuracy"]
        for name, part in figures["ablations"].items()
        if part["accuracy"]["value"] is not None
    }
    names = list(found)
    values = [found[name]["value"] for name in names]
    ends = [
        [value - (found[name]["low"] or value) for name, value in zip(names, values, strict=True)],
        [(found[name]["high"] or value) - value for name, value in zip(names, values, strict=True)],
    ]
    picture, axes = pyplot.subplots(figsize=(7, 1.2 + 0.3 * len(names)), layout="constrained")
    axes.barh(names, values, xerr=np.maximum(ends, 0), color="tab:blue", ecolor="0.3")
    axes.invert_yaxis()
    axes.set(xlim=(0, 1), xlabel="accuracy, with its 95 % interval over sources")
    return _save(picture, folder / "ablations.png")


def _save(picture: Any, path: Path) -> Path:
    from matplotlib import pyplot

    picture.savefig(path, dpi=110)
    pyplot.close(picture)
    return path


def _percent(value: float | None) -> str:
    return "unknown" if value is None else f"{100 * value:.1f} %"
