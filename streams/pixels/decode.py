"""The one door to every decoder: whatever goes wrong behind it leaves as a DecodeError."""

from __future__ import annotations

import logging
import threading
import warnings as python_warnings
import zlib
from collections.abc import Iterator
from itertools import islice
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from streams.pixels.dicom import decode_dicom
from streams.pixels.image import DecodedImage
from streams.pixels.limits import Limits
from streams.pixels.nifti import decode_nifti
from streams.pixels.outcome import DecodeError, NoPixels, ReasonCode, is_control_flow
from streams.pixels.raster import PILLOW_FORMATS, decode_raster
from streams.pixels.slices import SliceStrategy
from streams.pixels.source import Source, open_source
from streams.pixels.tiff import decode_tiff

# Every format name this room takes, and the decoder that it means.
_DECODER_BY_FORMAT: dict[str, str] = {
    "dicom": "dicom",
    "nifti": "nifti",
    "nifti-pair": "nifti",
    "tiff": "tiff",
    **dict.fromkeys(PILLOW_FORMATS, "raster"),
}
FORMATS: tuple[str, ...] = tuple(_DECODER_BY_FORMAT)

_DEFAULT_LIMITS = Limits()
_MAX_CAUSES = 100
_quiet = threading.Event()


def decode(
    source: Source,
    format_name: str,
    *,
    strategy: SliceStrategy = "middle",
    limits: Limits = _DEFAULT_LIMITS,
    companion: Source | None = None,
) -> DecodedImage | NoPixels:
    """Decode one representative slice of a file.

    Parameters
    ----------
    source
        The bytes, the path of a local file, or a seekable binary stream (left open).
    format_name
        One of ``FORMATS``, as the sniffer named it. "dicom" and "nifti" may be gzipped.
    strategy
        Rule that chooses the slice, frame or page.
    limits
        Bounds that hold before anything is allocated.
    companion
        For "nifti-pair": the ``.img`` file, with ``source`` the ``.hdr`` file.

    Returns
    -------
    DecodedImage or NoPixels
        NoPixels for a readable file without an image in it.

    Raises
    ------
    DecodeError
        Nothing else: every other exception is mapped to one of its reason codes.
    """
    _silence_libraries()
    try:
        with open_source(source, limits) as (stream, size_bytes), np.errstate(all="ignore"):
            if companion is None:
                return _dispatch(
                    stream, size_bytes, None, format_name, strategy=strategy, limits=limits
                )
            with open_source(companion, limits) as (second, _):
                return _dispatch(
                    stream, size_bytes, second, format_name, strategy=strategy, limits=limits
                )
    except DecodeError:
        raise
    except BaseException as error:
        if is_control_flow(error):
            raise
        raise _mapped(error) from None


def _dispatch(
    stream: BinaryIO,
    size_bytes: int,
    companion: BinaryIO | None,
    format_name: str,
    *,
    strategy: SliceStrategy,
    limits: Limits,
) -> DecodedImage | NoPixels:
    decoder = _DECODER_BY_FORMAT.get(format_name)
    if decoder == "dicom":
        return decode_dicom(stream, size_bytes, strategy, limits)
    if format_name == "nifti-pair" and companion is None:
        raise DecodeError("missing-companion", "one half of a .hdr/.img pair was given alone")
    if decoder == "nifti":
        return decode_nifti(stream, companion, strategy, limits)
    if decoder == "tiff":
        return decode_tiff(stream, size_bytes, strategy, limits)
    if decoder == "raster":
        return decode_raster(stream, size_bytes, format_name, strategy, limits)
    raise DecodeError("unsupported-format", f"pixels are decoded from {', '.join(FORMATS)}")


_EXHAUSTED: tuple[tuple[type[Exception], ReasonCode, str], ...] = (
    (MemoryError, "out-of-memory", "the decoder ran out of memory"),
    (RecursionError, "too-deep", "the header is nested too deeply"),
)
# The first that fits is taken: subclasses stand before their bases.
_REASONS: tuple[tuple[type[Exception], ReasonCode, str], ...] = (
    (Image.DecompressionBombError, "too-many-pixels", "it is larger than Pillow's own limit"),
    (EOFError, "truncated", "the file ends early"),
    (UnidentifiedImageError, "corrupt", "the header is not of the format it was named as"),
    (NotImplementedError, "unsupported-layout", "the decoder does not support it"),
    (zlib.error, "corrupt", "the compressed data is damaged"),
)


def _mapped(error: BaseException) -> DecodeError:
    """Turn a library's exception into a reason; its message stays behind, its type is told."""
    # Whatever a library catches while memory or stack runs out it takes for a fault of the file:
    # pydicom says OSError where the stack ends between two of its tags.
    causes = list(islice(_causes(error), _MAX_CAUSES))
    for kind, code, detail in _EXHAUSTED:
        if any(isinstance(cause, kind) for cause in causes):
            return DecodeError(code, detail)
    for kind, code, detail in _REASONS:
        if isinstance(error, kind):
            return DecodeError(code, detail)
    # Pillow has no types for these two; its wording is looked at, and not passed on.
    if isinstance(error, OSError) and "truncated" in str(error).lower():
        return DecodeError("truncated", "the file ends early")
    if isinstance(error, ValueError) and "Decompressed data too large" in str(error):
        return DecodeError("decompression-bomb", "a text chunk decompresses to too much")
    return DecodeError("corrupt", f"the decoder failed ({type(error).__name__})")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception, and what it was raised because of or while handling."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _silence_libraries() -> None:
    """Keep what the libraries say out of logs, once per process.

    Their warnings and log lines quote header values, which can be patient data; what matters of
    them is in the result's own warnings. Filters are process-wide in Python: setting them once is
    safe under threads, swapping them around every call would not be.
    """
    if _quiet.is_set():
        return
    _quiet.set()
    for name in ("pydicom", "pydicom.pixels", "nibabel", "nibabel.global", "tifffile", "PIL"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    for module in (r"pydicom(\.|$)", r"nibabel(\.|$)", r"tifffile(\.|$)", r"PIL(\.|$)"):
        python_warnings.filterwarnings("ignore", module=module)
    # Pillow warns in the name of its caller.
    python_warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
