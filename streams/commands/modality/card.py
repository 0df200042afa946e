"""Writes the model card of a training run (Mitchell et al., FAT* 2019)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from streams.commands.modality.manifest import Row
from streams.modality.labels import FAMILIES


def card(
    *,
    version: str,
    embedder: str,
    rows: Sequence[Row],
    thin: Sequence[str],
    measured: Mapping[str, Mapping[str, Any]],
    reliabilities: Mapping[str, Mapping[str, float]],
    command: str,
) -> str:
    """Write the card, in Markdown.

    Parameters
    ----------
    version : str
        Of the model.
    embedder : str
        Version of the embedder that its head belongs to.
    rows : sequence of Row
        The labelled files that it learned from.
    thin : sequence of str
        Families with one source or none.
    measured : mapping
        Figures of ``evaluate`` by what was measured, all on sources that were held out.
    reliabilities : mapping
        Signal, provenance: learned exponent.
    command : str
        What made it.
    """
    parts = [
        f"# Modality model {version}",
        "",
        "Says what a medical image shows, from its header, path, burnt-in text and pixels, with a "
        "vote from each.",
        "Not a medical device: it sorts images, it diagnoses nothing.",
        "",
        f"- Made by `{command}`.",
        f"- Its head belongs to the embedder `{embedder}`; with another it refuses to answer from "
        "pixels.",
        "- It abstains (`unknown`) where it is too unsure, where the pixels are unlike all that "
        f"it learned from, and, by pixels alone, on families that one source or none taught: "
        f"{', '.join(thin) or 'none'}.",
        "",
        "## How good it is",
        "",
        "Cross-validated: every file is answered by a head and a fusion that were fitted without "
        "its source; the head's few calibration numbers saw all folds. 95 % intervals are from "
        "resampling sources, and say little where a family has few. Accuracy counts the likeliest "
        "family, given as the answer or not, over the families that several sources taught.",
        "",
        "Two things flatter the figures: the lists of words in paths and descriptions were written "
        "while looking at files of these sources, so read *pixels only* and *without path* rather "
        "than *all signals*; and series of one data set can count as sources of their own. Where "
        "tags are wrong, the Modality alone is; the SOP Class stays true.",
        "",
        *_figures(measured),
        "",
        *_conflicts(measured),
        "",
        *_families(measured),
        "",
        "![reliability](reliability.png) ![confusion](confusion.png) ![ablations](ablations.png)",
        "",
        "## How far each signal is trusted",
        "",
        "Exponents of the pool, by how the pixels came into the file: 0 is not at all, 1 takes the "
        "signal at its word. They were learned with 15 % of the Modality tags lying (half of them "
        "with the SOP Class), 30 % of the paths and 2 % of the burnt-in texts taken from files "
        "that show something else. Where a signal never occurs the number is its overall one.",
        "",
        *_reliabilities(reliabilities),
        "",
        "## What it learned from",
        "",
        "Licences are as the sources state them; they were not cleared beyond that.",
        "",
        *_sources(rows),
        "",
    ]
    return "\n".join(parts)


def _figures(measured: Mapping[str, Mapping[str, Any]]) -> list[str]:
    lines = [
        "| asked | files | sources | accuracy | calibration error | coverage | accuracy of answers "
        "| thin families: abstained | confidently wrong |",
        "| --- | ---: | ---: | --- | --- | --- | --- | --- | --- |",
    ]
    for name, found in measured.items():
        cells = [
            name,
            str(found["files"]),
            str(found["sources"]),
            *(
                interval(found[key])
                for key in ("accuracy", "calibration_error", "coverage", "answered_accuracy")
            ),
            interval(found["thin_families"]["abstained"]),
            interval(found["thin_families"]["confidently_wrong"]),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _conflicts(measured: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return [
        f"*{name}*: of {lies['files_lying']} tags that lie {_share(lies['flagged_of_lying'])} are "
        f"flagged as conflicts, of {lies['files_true']} true ones "
        f"{_share(lies['flagged_of_true'])}."
        for name, found in measured.items()
        if (lies := found.get("wrong_tags"))
    ]


def _share(value: float | None) -> str:
    return "none" if value is None else f"{100 * value:.1f} %"


def _families(measured: Mapping[str, Mapping[str, Any]]) -> list[str]:
    names = list(measured)
    lines = [
        f"| recall of | files | sources | {' | '.join(names)} |",
        f"| --- | ---: | ---: |{' --- |' * len(names)}",
    ]
    for family in FAMILIES:
        own = [measured[name]["per_family"].get(family) for name in names]
        if own[0] is None:
            continue
        cells = [interval(part["recall"]) if part else "" for part in own]
        lines.append(
            f"| {family} | {own[0]['files']} | {own[0]['sources']} | {' | '.join(cells)} |"
        )
    return lines


def _reliabilities(table: Mapping[str, Mapping[str, float]]) -> list[str]:
    places = list(next(iter(table.values()), {}))
    return [
        f"| signal | {' | '.join(places)} |",
        f"| --- |{' ---: |' * len(places)}",
        *(
            f"| {signal} | {' | '.join(f'{by_place[place]:.2f}' for place in places)} |"
            for signal, by_place in sorted(table.items())
        ),
    ]


def _sources(rows: Sequence[Row]) -> list[str]:
    counts: dict[tuple[str, str, str], int] = {}
    for row in rows:
        key = (row.family or "", row.source, row.licence)
        counts[key] = counts.get(key, 0) + 1
    return [
        "| family | source | files | licence |",
        "| --- | --- | ---: | --- |",
        *(
            f"| {family} | {_cell(source)} | {count} | {_cell(licence)} |"
            for (family, source, licence), count in sorted(counts.items())
        ),
    ]


def interval(figure: Mapping[str, float | None]) -> str:
    """Write a figure with its interval, in percent."""
    value, low, high = figure["value"], figure["low"], figure["high"]
    if value is None:
        return ""
    if low is None or high is None:
        return f"{100 * value:.1f}"
    return f"{100 * value:.1f} ({100 * low:.1f} to {100 * high:.1f})"


def _cell(text: str) -> str:
    return text.replace("|", "/").replace("\n", " ")
