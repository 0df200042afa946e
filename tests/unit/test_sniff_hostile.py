"""Whatever the bytes: a row or a SniffError, and a bounded number of bytes read."""

from __future__ import annotations

import gzip
import io
import struct
from pathlib import Path

import data_store
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.sniff import PROBLEM_CODES, SniffContext, Sniffed, SniffError, SniffLimits, sniff

CONTEXT = SniffContext(b"0123456789abcdef")
LIMIT = SniffLimits().header_bytes
TEST_FILES = Path(pydicom.__file__).parent / "data" / "test_files"
MORE_FILES = Path(data_store.__file__).parent / "data"

SEED_FILES = [
    TEST_FILES / "CT_small.dcm",
    TEST_FILES / "MR_small_bigendian.dcm",
    TEST_FILES / "MR_small_implicit.dcm",
    TEST_FILES / "ExplVR_LitEndNoMeta.dcm",
    TEST_FILES / "image_dfl.dcm",
    TEST_FILES / "nested_priv_SQ.dcm",
    TEST_FILES / "UN_sequence.dcm",
    TEST_FILES / "rtplan.dcm",
    MORE_FILES / "eCT_Supplemental.dcm",
    MORE_FILES / "emri_small_big_endian.dcm",
]


class CountingFile(io.BytesIO):
    """Counts what is read of it, and refuses to be read to the end in one go."""

    bytes_read = 0

    def read(self, size: int | None = -1, /) -> bytes:
        assert size is not None and size >= 0, "a header reader must say how much it wants"
        data = super().read(size)
        self.bytes_read += len(data)
        return data


def check(data: bytes, name: str = "") -> Sniffed | None:
    file = CountingFile(data)
    try:
        sniffed = sniff(file, size_bytes=len(data), name=name, context=CONTEXT)
    except SniffError as error:
        assert error.reason_code == "empty"
        assert not data
        return None
    assert file.bytes_read == sniffed.bytes_read <= min(LIMIT, 8 * len(data) + 65_536)
    found = {problem.code for problem in sniffed.problems}
    assert found <= set(PROBLEM_CODES)
    assert "reader-fault" not in found
    assert len(sniffed.problems) <= 32
    sniffed.header.model_dump_json()
    return sniffed


@given(st.binary(max_size=4096), st.sampled_from(["", "x.dcm", "x.img", "x.nii.gz"]))
def test_noise_is_a_row(data: bytes, name: str) -> None:
    check(data, name)


@given(st.binary(min_size=1, max_size=4096))
def test_noise_is_never_headerless_dicom(data: bytes) -> None:
    sniffed = check(data)
    assert sniffed is not None
    assert sniffed.format != "dicom"


@given(st.text(min_size=1, max_size=2000))
def test_text_is_never_an_image(text: str) -> None:
    sniffed = check(text.encode())
    assert sniffed is not None
    assert sniffed.format == "unknown"


SIGNATURES = [
    bytes(128) + b"DICM",
    bytes(128) + b"DICM\x02\0\x10\0UI\x14\x001.2.840.10008.1.2.1\0",
    b"\x08\0\x05\0CS\x0a\0ISO_IR 100\x08\0\x16\0UI\x1a\x00",
    b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR",
    b"\xff\xd8\xff\xe0",
    b"II*\0\x08\0\0\0",
    b"MM\0*\0\0\0\x08",
    b"II+\0\x08\0\0\0\x10\0\0\0\0\0\0\0",
    b"GIF89a",
    b"RIFF\0\0\0\0WEBPVP8X",
    b"BM\0\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0",
    b"\x5c\x01\0\0" + bytes(36),
    b"\x02\x1c\0\0ni2\0\r\n\x1a\n",
    b"\x1f\x8b\x08\0",
]


@given(st.sampled_from(SIGNATURES), st.binary(max_size=2048))
def test_noise_behind_any_signature_is_a_row(signature: bytes, rest: bytes) -> None:
    check(signature + rest)


@given(st.binary(min_size=300, max_size=600), st.sampled_from(["<", ">"]), st.booleans())
def test_noise_in_a_nifti_header_is_a_row(noise: bytes, order: str, packed: bool) -> None:
    first = struct.pack(order + "i", 348) + noise[:340].ljust(340, b"\1") + b"n+1\0"
    second = struct.pack(order + "i", 540) + b"n+2\0\r\n\x1a\n" + noise.ljust(600, b"\1")
    for data in (first, second):
        sniffed = check(gzip.compress(data) if packed else data)
        assert sniffed is not None
        assert sniffed.format == "nifti"


@pytest.mark.parametrize("path", SEED_FILES, ids=lambda path: path.name)
@settings(max_examples=60)
@given(
    changes=st.lists(
        st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), min_size=1, max_size=24
    ),
    cut=st.one_of(st.none(), st.integers(1, 6000)),
)
def test_a_damaged_real_header_is_a_row(
    path: Path, changes: list[tuple[int, int]], cut: int | None
) -> None:
    data = bytearray(path.read_bytes()[:20_000])
    reach = min(len(data), 4000)
    for where, value in changes:
        data[where % reach] = value
    check(bytes(data[:cut]))


@pytest.mark.parametrize("path", SEED_FILES, ids=lambda path: path.name)
def test_every_byte_of_a_real_header_may_be_wrong(path: Path) -> None:
    original = path.read_bytes()[:6000]
    for where in range(128, min(len(original), 2200)):
        data = bytearray(original)
        data[where] ^= 0xFF
        check(bytes(data))


@pytest.mark.parametrize(
    ("beginning", "found"),
    [
        (None, "dicom"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\0\x10\0\0\0\x10\0\x08\0\0\0\0", "png"),
        (b"BM\0\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0" + bytes(40), "bmp"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF\0" + bytes(11), "jpeg"),
        (b"\1\2\3\4", "unknown"),
    ],
)
def test_the_size_of_a_file_does_not_matter(
    tmp_path: Path, beginning: bytes | None, found: str
) -> None:
    path = tmp_path / "sparse"
    one_gigabyte = 1 << 30
    if beginning is None:
        ct = (TEST_FILES / "CT_small.dcm").read_bytes()
        # The real header, with pixels that reach to the end of the file.
        start = ct.index(b"\xe0\x7f\x10\x00OW") + 8
        beginning = ct[:start] + struct.pack("<L", one_gigabyte - start - 4)
    with path.open("wb") as file:
        file.write(beginning)
        file.truncate(one_gigabyte)
    read = 0
    with path.open("rb", buffering=0) as raw:

        class Counting(io.RawIOBase):
            def seek(self, offset: int, whence: int = 0, /) -> int:
                return raw.seek(offset, whence)

            def read(self, size: int = -1, /) -> bytes:
                nonlocal read
                assert size >= 0
                data = raw.read(size) or b""
                read += len(data)
                return data

        sniffed = sniff(Counting(), size_bytes=one_gigabyte, context=CONTEXT)  # type: ignore[arg-type]
    assert sniffed.format == found
    assert read == sniffed.bytes_read <= 32 << 10
    if found == "dicom":
        assert (sniffed.header.rows, sniffed.problems) == (128, ())


def test_a_gzip_bomb_is_inflated_by_a_few_kilobytes_only() -> None:
    bomb = gzip.compress(bytes(256 << 20), 9)
    for _ in range(3):
        bomb = gzip.compress(bomb, 9)
        sniffed = check(bomb)
        assert sniffed is not None
        assert sniffed.format == "unknown"


def test_a_source_may_return_less_than_asked() -> None:
    class Trickle(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(min(size or 0, 100))

    data = (TEST_FILES / "CT_small.dcm").read_bytes()
    whole = sniff(io.BytesIO(data), size_bytes=len(data), context=CONTEXT)
    assert sniff(Trickle(data), size_bytes=len(data), context=CONTEXT) == whole


@pytest.mark.parametrize("limit", [1, 100, 5_000, 20_000, 70_000])
@pytest.mark.parametrize("kind", ["dicom", "deflated", "nifti", "tiff", "jpeg"])
def test_any_byte_limit_is_kept(limit: int, kind: str) -> None:
    data = {
        "dicom": (MORE_FILES / "eCT_Supplemental.dcm").read_bytes(),
        "deflated": (TEST_FILES / "image_dfl.dcm").read_bytes(),
        "nifti": gzip.compress(b"\x5c\1\0\0" + bytes(340) + b"n+1\0" + bytes(1 << 20), 0),
        "tiff": b"II*\0" + struct.pack("<L", 200_000) + bytes(200_000) + b"\x01\0" + bytes(99),
        "jpeg": b"\xff\xd8" + (b"\xff\xe2\xff\xff" + bytes(65_533)) * 9,
    }[kind]
    context = SniffContext(b"0123456789abcdef", limits=SniffLimits(header_bytes=limit))
    file = CountingFile(data)
    sniffed = sniff(file, size_bytes=len(data), context=context)
    assert file.bytes_read == sniffed.bytes_read <= limit
    assert "reader-fault" not in {problem.code for problem in sniffed.problems}
