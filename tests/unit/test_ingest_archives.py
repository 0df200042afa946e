"""Archives of every format, sound and hostile: members come out, or a reason does."""

from __future__ import annotations

import bz2
import itertools
import lzma
import random
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.ingest.compression import zstd
from streams.ingest.errors import IngestError, LimitError
from streams.ingest.limits import Budget, Limits
from streams.ingest.stream import ByteStream
from streams.ingest.unpack import Fault, Leaf, Mark, Place, Unpacker
from tests.support import archives as a
from tests.support import hostile as h

NOISE = random.Random(5).randbytes(200_000)
FILES = {
    "a.txt": b"one",
    "sub/b.bin": NOISE,
    "sub/deeper/c.txt": b"",
    "ünï/日本.txt": b"four" * 5000,
}


@dataclass
class Outcome:
    files: dict[str, bytes] = field(default_factory=dict)
    faults: list[tuple[str, str]] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    error: str = ""


def chunked(data: bytes, size: int) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


def unpack(
    data: bytes,
    folder: Path,
    *,
    name: str = "x",
    limits: Limits | None = None,
    place: Place | None = None,
    begun: Mark | None = None,
    chunk_bytes: int = 1 << 16,
    media_type: str = "",
) -> Outcome:
    counter = itertools.count()

    def scratch() -> Path:
        made = folder / f"scratch-{next(counter)}"
        made.mkdir(exist_ok=True)
        return made

    budget = Budget(limits or Limits())
    start = begun.offset if begun else 0

    def counted() -> Iterator[bytes]:
        for chunk in chunked(data[start:], chunk_bytes):
            budget.fetch(len(chunk))
            yield chunk

    outcome = Outcome()
    stream = ByteStream(counted(), offset=start)
    unpacker = Unpacker(budget, scratch, place or Place())
    try:
        for item in unpacker.items(stream, name, media_type, begun):
            if isinstance(item, Leaf):
                try:
                    content = b"".join(item.chunks)
                except LimitError:
                    raise
                except IngestError as error:
                    outcome.faults.append((item.path, error.reason))
                else:
                    assert item.path not in outcome.files
                    outcome.files[item.path] = content
            elif isinstance(item, Fault):
                outcome.faults.append((item.path, item.error.reason))
            else:
                outcome.marks.append(item)
    except IngestError as error:
        outcome.error = error.reason
    return outcome


def zst(data: bytes) -> bytes:
    return zstd.compress(data)


SOUND = {
    "zip": a.zipped(FILES),
    "zip stored": a.zipped(FILES, method=zipfile.ZIP_STORED),
    "zip bzip2": a.zipped(FILES, method=zipfile.ZIP_BZIP2),
    "zip lzma": a.zipped(FILES, method=zipfile.ZIP_LZMA),
    "zip streamed": a.zipped(FILES, streamed=True),
    "zip streamed and stored": a.zipped(FILES, method=zipfile.ZIP_STORED, streamed=True),
    "zip streamed bzip2": a.zipped(FILES, method=zipfile.ZIP_BZIP2, streamed=True),
    "zip with a comment": a.zipped(FILES, comment=b"hello" * 1000),
    "tar": a.tarred(FILES),
    "tar gnu": a.tarred(FILES, format=tarfile.GNU_FORMAT),
    "tar ustar": a.tarred(FILES, format=tarfile.USTAR_FORMAT),
    "tar.gz": a.tarred(FILES, mode="w:gz"),
    "tar.bz2": a.tarred(FILES, mode="w:bz2"),
    "tar.xz": a.tarred(FILES, mode="w:xz"),
    "tar.zst": zst(a.tarred(FILES)),
    "two gzip members": a.gz(a.tarred(FILES)[:1000]) + a.gz(a.tarred(FILES)[1000:]),
    **{
        f"7z {method}": a.seven_zipped(FILES, method=method)
        for method in ("copy", "lzma", "lzma2", "deflate", "bzip2")
    },
    "7z with a packed directory": a.with_encoded_header(a.seven_zipped(FILES)),
    "7z with a folder": a.seven_zipped({"sub/": b"", **FILES}),
}


@pytest.mark.parametrize("chunk_bytes", [1 << 16, 1000, 7])
@pytest.mark.parametrize("name", SOUND)
def test_every_format_gives_all_its_files(name: str, chunk_bytes: int, tmp_path: Path) -> None:
    found = unpack(SOUND[name], tmp_path, chunk_bytes=chunk_bytes)
    assert (found.error, found.faults) == ("", [])
    assert found.files == FILES


@pytest.mark.parametrize(
    "name", [n for n in SOUND if n.startswith(("zip", "tar")) and "." not in n]
)
def test_a_zip_or_tar_goes_on_from_any_mark(name: str, tmp_path: Path) -> None:
    whole = unpack(SOUND[name], tmp_path)
    assert [mark.members for mark in whole.marks] == list(range(len(FILES)))
    for mark in whole.marks:
        rest = unpack(SOUND[name], tmp_path, begun=mark)
        assert rest.error == ""
        assert list(rest.files) == list(FILES)[mark.members :]


@pytest.mark.parametrize("name", ["tar.gz", "tar.zst", "7z lzma2"])
def test_what_cannot_be_entered_leaves_out_what_is_done(name: str, tmp_path: Path) -> None:
    whole = unpack(SOUND[name], tmp_path)
    for mark in whole.marks:
        assert mark.offset == 0
        rest = unpack(SOUND[name], tmp_path, begun=mark)
        assert list(rest.files) == list(FILES)[mark.members :]


@pytest.mark.parametrize("name", SOUND)
def test_an_archive_that_is_cut_off_says_so(name: str, tmp_path: Path) -> None:
    data = SOUND[name]
    for share in (0.3, 0.7, 0.97):
        found = unpack(data[: int(len(data) * share)], tmp_path)
        assert found.error in ("truncated", "damaged"), share


@pytest.mark.parametrize("name", SOUND)
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_damage_ends_as_a_reason_and_never_as_an_exception(
    name: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    raw = bytearray(SOUND[name])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, min(len(raw) - 1, 600)) | st.integers(0, len(raw) - 1))
        raw[at] = data.draw(st.integers(0, 255))
    limits = Limits(inflated_bytes=1 << 28)
    unpack(bytes(raw), tmp_path_factory.mktemp("damage"), limits=limits)


@pytest.mark.parametrize(
    "magic", [b"PK\x03\x04", b"7z\xbc\xaf\x27\x1c", b"\x1f\x8b\x08", b"BZh9", b"\xfd7zXZ\0", b""]
)
@given(tail=st.binary(max_size=600))
@settings(max_examples=60, deadline=None)
def test_arbitrary_bytes_end_as_a_reason_or_a_file(
    magic: bytes, tail: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    unpack(magic + tail, tmp_path_factory.mktemp("bytes"))


# Files that stay as they are


def test_a_compressed_file_gives_what_is_in_it(tmp_path: Path) -> None:
    for suffix, pack in {"gz": a.gz, "bz2": bz2.compress, "xz": lzma.compress, "zst": zst}.items():
        found = unpack(pack(NOISE), tmp_path, name=f"scan.dcm.{suffix}")
        assert found.files == {"scan.dcm": NOISE}, suffix


def test_nifti_stays_compressed(tmp_path: Path) -> None:
    packed = a.gz(h.sound_nifti())
    assert unpack(packed, tmp_path, name="brain.nii.gz").files == {"brain.nii.gz": packed}
    assert unpack(packed, tmp_path, name="download").files == {"download": packed}
    inside = unpack(a.zipped({"s/brain.nii.gz": packed}), tmp_path)
    assert inside.files == {"s/brain.nii.gz": packed}


def test_a_document_that_is_a_zip_stays_whole(tmp_path: Path) -> None:
    document = a.zipped({"word/document.xml": b"<w/>"})
    found = unpack(a.zipped({"notes.docx": document}), tmp_path)
    assert found.files == {"notes.docx": document}


def test_a_dicomdir_and_the_files_that_it_names_keep_their_places(tmp_path: Path) -> None:
    files = {
        "DICOMDIR": b"\0" * 128 + b"DICM",
        "DICOM/ST1/SE1/IM1": b"1",
        "DICOM/ST1/SE1/IM2": b"2",
    }
    for archive in (a.zipped(files), a.tarred(files)):
        assert unpack(archive, tmp_path).files == files


def test_what_macos_adds_is_left_out(tmp_path: Path) -> None:
    found = unpack(a.zipped({"a.png": b"1", "__MACOSX/._a.png": b"2"}), tmp_path)
    assert found.files == {"a.png": b"1"}


def test_archives_inside_archives_become_folders(tmp_path: Path) -> None:
    inner = a.tarred({"x.png": b"x"}, mode="w:gz")
    data = a.zipped({"one/two.tgz": inner, "three.zip": a.zipped({"y.png": b"y"})})
    found = unpack(data, tmp_path)
    assert found.files == {"one/two.tgz/x.png": b"x", "three.zip/y.png": b"y"}


def test_a_repository_loses_its_top_folder_and_a_subfolder_is_picked(tmp_path: Path) -> None:
    data = a.zipped(
        {"repo-abc/README": b"r", "repo-abc/data/a.png": b"a", "repo-abc/database": b""}
    )
    place = Place(origin="repository", strip_parts=1)
    assert set(unpack(data, tmp_path, place=place).files) == {"README", "data/a.png", "database"}
    place = replace(place, subfolder="data")
    assert unpack(data, tmp_path, place=place).files == {"a.png": b"a"}


# Hostile names and kinds

BAD_NAMES = [
    "../evil",
    "a/../../evil",
    "/etc/passwd",
    "..",
    "C:\\evil",
    "c:evil",
    "\\\\host\\share",
]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_zip_that_slips_is_refused_and_its_mates_are_not(name: str, tmp_path: Path) -> None:
    entry = a.zip_entry(name.encode(), b"evil", size_bytes=4, crc=zlib.crc32(b"evil"), method=0)
    good = a.zip_entry(b"good", b"good", size_bytes=4, crc=zlib.crc32(b"good"), method=0)
    directory = a.zip_directory([(name.encode(), 0, 0o100644), (b"good", len(entry), 0o100644)])
    found = unpack(entry + good + directory, tmp_path)
    assert (found.files, found.faults) == ({"good": b"good"}, [("", "unsafe-path")])


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/etc/passwd"])
def test_a_tar_that_slips_is_refused_and_its_mates_are_not(name: str, tmp_path: Path) -> None:
    found = unpack(a.tarred([(name, b"evil"), ("good", b"good")]), tmp_path)
    assert (found.files, found.faults) == ({"good": b"good"}, [("", "unsafe-path")])


@pytest.mark.parametrize(
    "kind",
    [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, b"Z"],
)
def test_links_and_devices_in_a_tar_are_refused(kind: bytes, tmp_path: Path) -> None:
    good = (tarfile.TarInfo("good"), b"good")
    found = unpack(a.tar_of(a.special("evil", kind, "/etc/passwd"), good), tmp_path)
    assert (found.files, found.faults) == ({"good": b"good"}, [("evil", "not-a-file")])


@pytest.mark.parametrize("mode", [0o120777, 0o020644, 0o060644, 0o010644])
def test_links_and_devices_in_a_zip_are_refused(mode: int, tmp_path: Path) -> None:
    target = b"/etc/passwd"
    entry = a.zip_entry(b"evil", target, size_bytes=len(target), crc=zlib.crc32(target), method=0)
    found = unpack(entry + a.zip_directory([(b"evil", 0, mode)]), tmp_path)
    # Only the directory at the end tells; the bytes are the name of the target and nothing else.
    assert found.files in ({}, {"evil": target})
    assert found.faults == [("evil", "not-a-file")]


def test_links_in_a_7z_are_refused(tmp_path: Path) -> None:
    attributes = {"evil": 0o120777 << 16 | 0x8000}
    data = a.seven_zipped({"evil": b"/etc/passwd", "good": b"good"}, attributes=attributes)
    found = unpack(data, tmp_path)
    assert (found.files, found.faults) == ({"good": b"good"}, [("evil", "not-a-file")])


def test_encrypted_members_are_refused_and_their_mates_are_not(tmp_path: Path) -> None:
    entry = a.zip_entry(b"secret", b"x" * 30, size_bytes=18, crc=1, flags=1)
    good = a.zip_entry(b"good", b"good", size_bytes=4, crc=zlib.crc32(b"good"), method=0)
    directory = a.zip_directory([(b"secret", 0, 0o100644), (b"good", len(entry), 0o100644)])
    found = unpack(entry + good + directory, tmp_path)
    assert (found.files, found.faults) == ({"good": b"good"}, [("secret", "encrypted")])
    found = unpack(a.seven_zipped({"secret": b"x"}, method="aes"), tmp_path)
    assert found.faults == [("secret", "encrypted")]


def test_unknown_methods_are_refused_by_name(tmp_path: Path) -> None:
    entry = a.zip_entry(b"odd", b"x" * 30, size_bytes=18, crc=1, method=99)
    found = unpack(entry + a.zip_directory([(b"odd", 0, 0o100644)]), tmp_path)
    assert found.faults == [("odd", "unsupported-method")]
    found = unpack(a.seven_zipped({"odd": b"x"}, method="ppmd"), tmp_path)
    assert found.faults == [("odd", "unsupported-method")]


def test_a_wrong_checksum_is_the_fault_of_one_member(tmp_path: Path) -> None:
    data = bytearray(a.zipped({"bad": b"x" * 100, "good": b"y"}, method=zipfile.ZIP_STORED))
    data[data.index(b"xxx") + 5] ^= 1
    found = unpack(bytes(data), tmp_path)
    assert (found.files, found.faults) == ({"good": b"y"}, [("bad", "checksum")])


def test_names_in_old_encodings_are_kept_apart(tmp_path: Path) -> None:
    names = ["naïve.png".encode(), "naïve.png".encode("cp437"), "画像".encode("shift-jis"), b"\xff"]
    entries, local = [], b""
    for number, name in enumerate(names):
        entries.append((name, len(local), 0o100644))
        local += a.zip_entry(
            name, b"%d" % number, size_bytes=1, crc=zlib.crc32(b"%d" % number), method=0
        )
    # The first two are one name in two encodings: the second is the reader's to number.
    data = local + a.zip_directory(entries)
    budget = Budget(Limits())
    items = [
        (item.path, b"".join(item.chunks))
        for item in Unpacker(budget, lambda: tmp_path, Place()).items(ByteStream(iter([data])), "x")
        if isinstance(item, Leaf)
    ]
    assert len(items) == 4
    assert items[0][0] == items[1][0] == "naïve.png"
    for path, _ in items:
        path.encode("utf-8")


def test_control_characters_in_names_are_written_out(tmp_path: Path) -> None:
    found = unpack(a.tarred({"a\x1b[31m\u202egnp.exe": b""}), tmp_path)
    assert list(found.files) == ["a\\x1b[31m\\u202egnp.exe"]


# Bombs


def test_a_bomb_is_stopped_by_its_ratio(tmp_path: Path) -> None:
    data = a.zip_bomb(4)
    found = unpack(data, tmp_path)
    assert len(data) < 5 << 20
    assert found.error == "compression-bomb"


def test_zips_inside_zips_are_stopped_by_ratio_or_depth(tmp_path: Path) -> None:
    found = unpack(a.nested_bomb(2, 16, 4), tmp_path)
    assert found.error == "compression-bomb"
    found = unpack(a.nested_bomb(5, 2, 1), tmp_path)
    assert found.error == ""
    assert {reason for _, reason in found.faults} == {"too-deep"}


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz", "zst"])
def test_compressed_bombs_are_stopped(kind: str, tmp_path: Path) -> None:
    pack = {"gz": a.gz, "bz2": bz2.compress, "xz": lzma.compress, "zst": zst}[kind]
    limits = Limits(ratio_grace_bytes=1 << 20)
    found = unpack(pack(bytes(64 << 20)), tmp_path, limits=limits)
    assert found.error == "compression-bomb"


def test_a_7z_bomb_is_stopped(tmp_path: Path) -> None:
    limits = Limits(ratio_grace_bytes=1 << 20)
    found = unpack(a.seven_zipped({"zeros": bytes(64 << 20)}), tmp_path, limits=limits)
    assert found.error == "compression-bomb"


def test_members_that_overlap_are_a_directory_that_disagrees(tmp_path: Path) -> None:
    found = unpack(a.overlapping(1000), tmp_path)
    assert found.error == "directory-disagrees"
    assert len(found.files) <= 1


def test_hidden_members_are_a_directory_that_disagrees(tmp_path: Path) -> None:
    one = a.zip_entry(b"shown", b"1", size_bytes=1, crc=zlib.crc32(b"1"), method=0)
    two = a.zip_entry(b"hidden", b"2", size_bytes=1, crc=zlib.crc32(b"2"), method=0)
    found = unpack(one + two + a.zip_directory([(b"shown", 0, 0o100644)]), tmp_path)
    assert found.error == "directory-disagrees"


# A gzip that unpacks to itself (Russ Cox, "Zip Files All The Way Down", 2010).
def test_an_archive_that_holds_itself_is_stopped_by_depth(tmp_path: Path) -> None:
    quine = a.zipped({"x.png": b"x"})
    for _ in range(40):
        quine = a.zipped({"again.zip": quine}, method=zipfile.ZIP_STORED)
    found = unpack(quine, tmp_path)
    assert found.faults == [("again.zip/again.zip/again.zip/again.zip", "too-deep")]
    wrapped = b"x"
    for _ in range(40):
        wrapped = a.gz(wrapped)
    found = unpack(wrapped, tmp_path)
    assert found.error == "too-deep"


def test_a_million_members_are_too_many(tmp_path: Path) -> None:
    found = unpack(a.many_members(20_000), tmp_path, limits=Limits(members=10_000))
    assert found.error == "too-many-members"
    assert len(found.files) == 10_000


def test_absurd_headers_are_damage(tmp_path: Path) -> None:
    info = special_pax(b"x" * 10, stated=1 << 40)
    assert unpack(info, tmp_path).error == "damaged"
    start = struct.pack("<QQL", 0, 1 << 40, 0)
    seven = b"7z\xbc\xaf\x27\x1c\x00\x04" + struct.pack("<L", zlib.crc32(start)) + start
    assert unpack(seven, tmp_path).error == "damaged"


def special_pax(data: bytes, *, stated: int) -> bytes:
    info = tarfile.TarInfo("pax")
    info.type, info.size = tarfile.XHDTYPE, stated
    return info.tobuf(tarfile.GNU_FORMAT) + data.ljust(512, b"\0")


def test_an_empty_archive_says_so(tmp_path: Path) -> None:
    assert unpack(a.zipped({}), tmp_path).error == "empty-archive"


# What the other side promises


def test_a_web_page_is_no_archive(tmp_path: Path) -> None:
    page = b"\n<!DOCTYPE html><html>Please log in</html>"
    found = unpack(page, tmp_path, name="data.zip", media_type="text/html")
    assert found.error == "wrong-content-type"
    assert unpack(b"{}", tmp_path, name="data.tar.gz").error == "not-an-archive"
    found = unpack(NOISE, tmp_path, name="download", media_type="application/zip")
    assert found.error == "wrong-content-type"


def test_bytes_are_believed_rather_than_their_media_type(tmp_path: Path) -> None:
    found = unpack(a.zipped(FILES), tmp_path, name="view.php", media_type="text/html")
    assert found.files == FILES
