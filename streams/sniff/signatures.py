"""Names for what is no image that we read: a closed list, told by the first bytes."""

from __future__ import annotations

from typing import NamedTuple


class Lookalike(NamedTuple):
    """What a file looks like: words, media type, and whether it is an image after all."""

    words: str
    media_type: str
    is_image: bool = False


_BINARY = "application/octet-stream"
_TEXT = "text/plain"

# Signature, offset, name.
_SIGNATURES: tuple[tuple[bytes, int, Lookalike], ...] = (
    (b"PK\x03\x04", 0, Lookalike("zip archive", "application/zip")),
    (b"PK\x05\x06", 0, Lookalike("empty zip archive", "application/zip")),
    (b"%PDF-", 0, Lookalike("PDF", "application/pdf")),
    (b"\x89HDF\r\n\x1a\n", 0, Lookalike("HDF5 (MINC2 among others)", "application/x-hdf5")),
    (b"CDF\x01", 0, Lookalike("NetCDF (MINC1 among others)", "application/x-netcdf")),
    (b"CDF\x02", 0, Lookalike("NetCDF (MINC1 among others)", "application/x-netcdf")),
    (b"NRRD000", 0, Lookalike("NRRD", _BINARY, is_image=True)),
    (b"ObjectType = Image", 0, Lookalike("MetaImage", _BINARY, is_image=True)),
    (b"\0\0\0\x0cjP  \r\n\x87\n", 0, Lookalike("JPEG 2000", "image/jp2", is_image=True)),
    (b"\xff\x4f\xff\x51", 0, Lookalike("JPEG 2000 codestream", "image/j2c", is_image=True)),
    (b"\0\0\0\x0cJXL \r\n\x87\n", 0, Lookalike("JPEG XL", "image/jxl", is_image=True)),
    (b"\xff\x0a", 0, Lookalike("JPEG XL codestream", "image/jxl", is_image=True)),
    (b"ftypavif", 4, Lookalike("AVIF", "image/avif", is_image=True)),
    (b"ftyphei", 4, Lookalike("HEIF", "image/heif", is_image=True)),
    (b"ftypmif1", 4, Lookalike("HEIF", "image/heif", is_image=True)),
    (b"ftypqt", 4, Lookalike("QuickTime video", "video/quicktime")),
    (b"ftyp", 4, Lookalike("MP4 video", "video/mp4")),
    (b"\x1a\x45\xdf\xa3", 0, Lookalike("Matroska or WebM video", "video/x-matroska")),
    (b"\0\0\x01\xba", 0, Lookalike("MPEG video", "video/mpeg")),
    (b"8BPS", 0, Lookalike("Photoshop image", "image/vnd.adobe.photoshop", is_image=True)),
    (b"\0\0\x01\0", 0, Lookalike("icon", "image/vnd.microsoft.icon", is_image=True)),
    (b"IMGF", 0, Lookalike("GE Genesis image", _BINARY, is_image=True)),
    (b"v/\x01\x31", 0, Lookalike("OpenEXR", "image/x-exr", is_image=True)),
    (b"BZh", 0, Lookalike("bzip2 stream", "application/x-bzip2")),
    (b"\xfd7zXZ\0", 0, Lookalike("xz stream", "application/x-xz")),
    (b"\x28\xb5\x2f\xfd", 0, Lookalike("zstd stream", "application/zstd")),
    (b"7z\xbc\xaf\x27\x1c", 0, Lookalike("7-zip archive", "application/x-7z-compressed")),
    (b"Rar!\x1a\x07", 0, Lookalike("RAR archive", "application/vnd.rar")),
    (b"ustar", 257, Lookalike("tar archive", "application/x-tar")),
    (b"\x93NUMPY", 0, Lookalike("NumPy array", _BINARY)),
    (b"MATLAB 5.0 MAT-file", 0, Lookalike("MATLAB file", _BINARY)),
    (b"SQLite format 3\0", 0, Lookalike("SQLite database", "application/vnd.sqlite3")),
    (b"PAR1", 0, Lookalike("Parquet", "application/vnd.apache.parquet")),
    (b"\x7fELF", 0, Lookalike("ELF program", _BINARY)),
    (b"MZ", 0, Lookalike("Windows program", _BINARY)),
    (
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
        0,
        Lookalike("OLE document", "application/x-ole-storage"),
    ),
    (b"ID3", 0, Lookalike("MP3 audio", "audio/mpeg")),
    (b"OggS", 0, Lookalike("Ogg media", "application/ogg")),
    (b"TRACK\0", 0, Lookalike("TrackVis tracts", _BINARY)),
    (b"#?RADIANCE", 0, Lookalike("Radiance HDR", "image/vnd.radiance", is_image=True)),
)
_RIFF = {
    b"WAVE": Lookalike("WAVE audio", "audio/wav"),
    b"AVI ": Lookalike("AVI video", "video/x-msvideo"),
}
_PNM_KINDS = b"1234567"
_DISK_SIGNATURE = b"\x55\xaa"
_TEXT_PROBE_BYTES = 1024
_CONTROLS = bytes(set(range(0x20)) - set(b"\t\n\r\f\x1b")) + b"\x7f"


_TEXT_BEGINNINGS: tuple[tuple[tuple[bytes, ...], Lookalike], ...] = (
    ((b"<!doctype html", b"<html"), Lookalike("HTML", "text/html")),
    ((b"objecttype", b"ndims"), Lookalike("MetaImage", _BINARY, is_image=True)),
    ((b"<svg",), Lookalike("SVG", "image/svg+xml", is_image=True)),
    ((b"<?xml",), Lookalike("XML", "application/xml")),
    ((b"{", b"["), Lookalike("text like JSON", _TEXT)),
)


def name(head: bytes) -> Lookalike | None:
    """Name the format of a file's first bytes.

    Parameters
    ----------
    head : bytes
        The first 512 bytes or more.

    Returns
    -------
    Lookalike or None
        ``None`` if nothing fits.
    """
    for signature, offset, lookalike in _SIGNATURES:
        if head.startswith(signature, offset):
            return lookalike
    if head.startswith(b"RIFF") and head[8:12] in _RIFF:
        return _RIFF[head[8:12]]
    if head[:1] == b"P" and head[1:2] and head[1] in _PNM_KINDS and head[2:3].isspace():
        return Lookalike("PNM image", "image/x-portable-anymap", is_image=True)
    if head[510:512] == _DISK_SIGNATURE:
        return Lookalike("disk image", _BINARY)
    return _text(head[:_TEXT_PROBE_BYTES], is_whole=len(head) <= _TEXT_PROBE_BYTES)


def _text(head: bytes, *, is_whole: bool) -> Lookalike | None:
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return _utf16(head)
    if not head or head.translate(None, _CONTROLS) != head:
        return None
    encoding = _text_encoding(head, is_whole=is_whole)
    if encoding is None:
        return None
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:64].lower()
    for beginnings, lookalike in _TEXT_BEGINNINGS:
        if start.startswith(beginnings):
            return lookalike
    return Lookalike(f"text{encoding}", _TEXT)


def _utf16(head: bytes) -> Lookalike | None:
    try:
        # The probe may end inside a character.
        decoded = head[: len(head) // 4 * 4].decode("utf-16")
    except UnicodeDecodeError:
        return None
    kept = "".join(decoded.split())
    return Lookalike("text, UTF-16", _TEXT) if kept.isprintable() else None


def _text_encoding(head: bytes, *, is_whole: bool) -> str | None:
    """Put the encoding in words: empty for UTF-8; ``None`` if it is no text."""
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        if not is_whole and error.start >= len(head) - 3:
            # The probe ends inside a character.
            return ""
        # Single-byte text is mostly letters and spaces; noise is not.
        plain = sum(byte < 0x7F for byte in head)
        return ", not UTF-8" if plain >= 0.7 * len(head) else None
    return ""
