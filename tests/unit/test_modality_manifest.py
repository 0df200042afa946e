"""A manifest that cannot be used says what to change."""

from __future__ import annotations

from pathlib import Path

import pytest

from streams.commands.modality.manifest import (
    Columns,
    ManifestError,
    read_manifest,
    sources_per_family,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.png", "b.dcm", "c.dcm"):
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def written(folder: Path, text: str) -> Path:
    path = folder / "manifest.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_labels_become_families_and_the_rest_is_kept(folder: Path) -> None:
    manifest = written(folder, "path,label,source\na.png,CR/DX,one\nb.dcm,mri,two\nc.dcm,??,two\n")
    rows = read_manifest(manifest)
    assert [row.family for row in rows] == ["DX", "MR", None]
    assert rows[0].file == folder / "a.png"
    assert rows[2].label == "??"
    assert sources_per_family(rows) == {"DX": 1, "MR": 1}


def test_other_columns_another_root_and_a_choice_of_rows(folder: Path, tmp_path_factory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    manifest = written(
        elsewhere,
        "file,was,modality,group,content,licence\n"
        "a.png,us_1.png,US,one,real,CC0\nb.dcm,x.dcm,CT,two,noise,MIT\n",
    )
    (row,) = read_manifest(
        manifest,
        columns=Columns(path="file", name="was", label="modality", source="group"),
        root=folder,
        where={"content": "real"},
    )
    assert (row.name, row.family, row.source, row.licence) == ("us_1.png", "US", "one", "CC0")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("path,label\na.png,CT\n", "--source-column"),
        ("path,label,source\n", "no rows"),
        ("path,label,source\nnone.png,CT,one\n", "--root"),
        ("", "it has none"),
    ],
)
def test_what_cannot_be_used_says_what_to_change(folder: Path, text: str, says: str) -> None:
    with pytest.raises(ManifestError, match=says):
        read_manifest(written(folder, text))


def test_what_is_no_text_is_refused(folder: Path) -> None:
    path = folder / "manifest.csv"
    path.write_bytes(b"\xff\xfe\x00path")
    with pytest.raises(ManifestError, match="cannot be read"):
        read_manifest(path)
    with pytest.raises(ManifestError, match="cannot be read"):
        read_manifest(folder / "missing.csv")
