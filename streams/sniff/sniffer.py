"""From bytes to format and header facts."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import BinaryIO, NamedTuple

from schemas.facts import Format
from streams.sniff import dicom, jpeg, nifti, raster, signatures, suffixes, tiff
from streams.sniff.report import Report
from streams.sniff.result import SniffContext, Sniffed, SniffError, SniffLimits
from streams.sniff.window import LimitReachedError, Window

_HEAD_BYTES = 4096
_GZIP_SIGNATURE = b"\x1f\x8b\x08"
_GZIP_PACKED_BYTES = 64 << 10
_GZIP_HEAD_BYTES = 4096
_OCTETS = "application/octet-stream"
_NIFTI_MEDIA_TYPE = "application/x-nifti"
_MIN_PAIR_DATA_BYTES = 1024


class _Answer(NamedTuple):
    format: Format
    evidence: str
    media_type: str


def sniff(source: BinaryIO, *, size_bytes: int, name: str = "", context: SniffContext) -> Sniffed:
    """Say what a file is and what its header says.

    Reads small ranges of the header only, so that neither time nor memory depends on the size
    of the file. Whatever can be a row is one: a file that breaks off gives the facts so far and
    a problem, one of no known kind the format ``unknown``.

    Parameters
    ----------
    source : BinaryIO
        Seekable file, open for reading; its position afterwards is undefined.
    size_bytes : int
        Length of the file.
    name : str
        File name or path, if there is one. Only its suffix is used, and only to compare.
    context : SniffContext
        Tenant, patient hash key and limits.

    Returns
    -------
    Sniffed
        Format, evidence, header facts and problems.

    Raises
    ------
    SniffError
        ``empty`` if there are no bytes, ``unreadable`` if they cannot be read (the source's own
        error is its cause). Nothing else is raised.
    """
    if size_bytes <= 0:
        raise SniffError("empty", "the file has no bytes")
    window = Window(source, size_bytes, context.limits)
    if not window.data:
        raise SniffError("empty", f"the source has no bytes, {size_bytes} were announced")
    report = Report()
    if window.size < size_bytes:
        report.problem("truncated", f"the source has {window.size} of {size_bytes} bytes")
    suffix = suffixes.known_suffix(name)
    try:
        answer = _recognise(window, report, suffix, context)
    except SniffError:
        raise
    except LimitReachedError:
        report.problem("header-limit", "facts up to here are kept")
        answer = _Answer("unknown", "the header is longer than the limit", _OCTETS)
    except Exception as error:  # noqa: BLE001 - one bad file must not stop its batch
        report.problem("reader-fault", type(error).__name__)
        answer = _Answer("unknown", "a header reader failed", _OCTETS)
    if suffixes.contradicts(suffix, answer.format):
        report.problem("suffix-mismatch", f"{suffix} promises another format than {answer.format}")
    header = report.header()
    return Sniffed(
        format=answer.format,
        format_evidence=answer.evidence,
        media_type=answer.media_type,
        header=header,
        problems=report.problems(),
        suffix=suffix,
        bytes_read=window.bytes_read,
    )


def _recognise(window: Window, report: Report, suffix: str, context: SniffContext) -> _Answer:
    head = window.data[:_HEAD_BYTES]
    # DICOM first: its preamble may hold another format's signature (PS3.10 section 7.1).
    evidence = dicom.recognise(window, report, context)
    if evidence is not None:
        return _Answer("dicom", evidence, "application/dicom")
    for recognise in (_raster, _jpeg_or_tiff):
        answer = recognise(head, window, report, context.limits)
        if answer is not None:
            return answer
    kind = nifti.recognise(head)
    if kind is not None:
        nifti.read(kind, head, report, size_bytes=window.size)
        return _Answer(kind.format, kind.evidence, _NIFTI_MEDIA_TYPE)
    if head.startswith(_GZIP_SIGNATURE):
        return _gzip(window, report, suffix, context)
    return _other(head, window.size, report, suffix)


_RASTERS: tuple[tuple[Callable[[bytes], bool], Callable[[bytes, Report], None], _Answer], ...] = (
    (raster.is_png, raster.read_png, _Answer("png", "PNG signature", "image/png")),
    (raster.is_gif, raster.read_gif, _Answer("gif", "GIF signature", "image/gif")),
    (raster.is_webp, raster.read_webp, _Answer("webp", "RIFF container of WebP", "image/webp")),
    (raster.is_bmp, raster.read_bmp, _Answer("bmp", "BM signature and header", "image/bmp")),
)


def _raster(head: bytes, _window: Window, report: Report, _limits: SniffLimits) -> _Answer | None:
    for is_it, read, answer in _RASTERS:
        if is_it(head):
            read(head, report)
            return answer
    return None


def _jpeg_or_tiff(
    head: bytes, window: Window, report: Report, limits: SniffLimits
) -> _Answer | None:
    if jpeg.is_jpeg(head):
        if jpeg.read(window, limits, report) == "jpeg":
            return _Answer("jpeg", "JPEG start of image and markers", "image/jpeg")
        report.problem("unsupported-format", "JPEG-LS outside DICOM")
        return _Answer("unknown", "JPEG-LS frame header", "image/jls")
    if tiff.is_tiff(head):
        tiff.read(window, limits, report)
        big = "BigTIFF" if tiff.is_big_tiff(head) else "TIFF"
        order = "little endian" if head[:2] == b"II" else "big endian"
        return _Answer("tiff", f"{big} signature, {order}", "image/tiff")
    return None


def _gzip(window: Window, report: Report, suffix: str, context: SniffContext) -> _Answer:
    limits = context.limits
    allowed = max(limits.header_bytes - window.bytes_read, len(window.data))
    packed = window.take(0, min(window.size, _GZIP_PACKED_BYTES, allowed))
    stream = zlib.decompressobj(16 + zlib.MAX_WBITS)
    try:
        head = stream.decompress(packed, min(_GZIP_HEAD_BYTES, limits.inflated_bytes))
    except zlib.error:
        report.problem("corrupt-gzip", "the stream cannot be inflated")
        return _Answer("unknown", "gzip signature, not a gzip stream", "application/gzip")
    kind = nifti.recognise(head)
    if kind is not None:
        nifti.read(kind, head, report, size_bytes=None)
        return _Answer(kind.format, f"{kind.evidence}, in gzip", "application/gzip")
    if suffix == ".img.gz" and signatures.name(head) is None and len(head) == _GZIP_HEAD_BYTES:
        report.problem("format-by-name", "data half of a .hdr/.img pair, by its name only")
        return _Answer("nifti-pair", "named .img.gz, no known signature inside", "application/gzip")
    inside = _inside(head)
    report.problem("unknown-format", f"gzip of {inside}")
    return _Answer("unknown", f"gzip of {inside}", "application/gzip")


_INSIDE: tuple[tuple[Callable[[bytes], bool], str], ...] = (
    (lambda head: head[128:132] == b"DICM", "DICOM"),
    (raster.is_png, "PNG"),
    (jpeg.is_jpeg, "JPEG"),
    (tiff.is_tiff, "TIFF"),
    (lambda head: head.startswith(_GZIP_SIGNATURE), "gzip"),
)


def _inside(head: bytes) -> str:
    if not head:
        return "nothing"
    for is_it, words in _INSIDE:
        if is_it(head):
            return words
    lookalike = signatures.name(head)
    return "unknown data" if lookalike is None else lookalike.words


def _other(head: bytes, size_bytes: int, report: Report, suffix: str) -> _Answer:
    lookalike = signatures.name(head)
    if lookalike is not None:
        code = "unsupported-format" if lookalike.is_image else "unknown-format"
        report.problem(code, lookalike.words)
        return _Answer("unknown", lookalike.words, lookalike.media_type)
    if suffix == ".img" and size_bytes >= _MIN_PAIR_DATA_BYTES:
        # The data half has no header: what it is stands in the .hdr beside it.
        report.problem("format-by-name", "data half of a .hdr/.img pair, by its name only")
        return _Answer("nifti-pair", "named .img, no known signature", _OCTETS)
    report.problem("unknown-format", "no known signature")
    return _Answer("unknown", "no known signature", _OCTETS)
