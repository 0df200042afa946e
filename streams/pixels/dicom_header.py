"""DICOM header to the facts that decoding needs, each read defensively."""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset, read_partial
from pydicom.tag import BaseTag
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from streams.pixels.image import WarningList
from streams.pixels.limits import Limits
from streams.pixels.outcome import DecodeError, NoPixels, NoPixelsReason
from streams.pixels.source import BoundedReader, inflate
from streams.pixels.windowing import Lut, ModalityTransform, Voi, Window

# GE's private syntax: implicit VR little endian data set, big endian pixels.
GE_PRIVATE_BIG_ENDIAN_PIXELS = "1.2.840.113619.5.2"

_SPECIFIC_CHARACTER_SET = 0x00080005
_UNDEFINED_LENGTH = 0xFFFFFFFF

_PIXEL_TAGS = {
    0x7FE00008: "FloatPixelData",
    0x7FE00009: "DoubleFloatPixelData",
    0x7FE00010: "PixelData",
}

# Nothing else is kept, so a header with a million elements costs time only, which is bounded too.
_WANTED_TAGS: list[BaseTag | int] = [
    0x00080008,  # Image Type
    0x00080016,  # SOP Class UID
    0x00080060,  # Modality
    0x00181164,  # Imager Pixel Spacing
    0x00182010,  # Nominal Scanned Pixel Spacing
    0x00280002,  # Samples per Pixel
    0x00280004,  # Photometric Interpretation
    0x00280006,  # Planar Configuration
    0x00280008,  # Number of Frames
    0x00280010,  # Rows
    0x00280011,  # Columns
    0x00280030,  # Pixel Spacing
    0x00280100,  # Bits Allocated
    0x00280101,  # Bits Stored
    0x00280102,  # High Bit
    0x00280103,  # Pixel Representation
    0x00280120,  # Pixel Padding Value
    0x00280121,  # Pixel Padding Range Limit
    0x00281050,  # Window Center
    0x00281051,  # Window Width
    0x00281052,  # Rescale Intercept
    0x00281053,  # Rescale Slope
    0x00281054,  # Rescale Type
    0x00281056,  # VOI LUT Function
    0x00281101,  # Palette Color Lookup Table Descriptors, red green blue
    0x00281102,
    0x00281103,
    0x00281201,  # Palette Color Lookup Table Data, red green blue
    0x00281202,
    0x00281203,
    0x00281221,  # Segmented Palette Color Lookup Table Data, red green blue
    0x00281222,
    0x00281223,
    0x00283000,  # Modality LUT Sequence
    0x00283010,  # VOI LUT Sequence
    0x00287FE0,  # Pixel Data Provider URL
    0x00420011,  # Encapsulated Document
    0x00541001,  # Units
    0x30040002,  # Dose Units
    0x3004000E,  # Dose Grid Scaling
    0x30060020,  # Structure Set ROI Sequence
    0x52009229,  # Shared Functional Groups Sequence
    0x52009230,  # Per-Frame Functional Groups Sequence
    0x54000100,  # Waveform Sequence
    0x56000020,  # Spectroscopy Data
    0x7FE00001,  # Extended Offset Table
    0x7FE00002,  # Extended Offset Table Lengths
]

_PHOTOMETRIC = frozenset(
    {
        "MONOCHROME1",
        "MONOCHROME2",
        "PALETTE COLOR",
        "RGB",
        "ARGB",
        "CMYK",
        "HSV",
        "YBR_FULL",
        "YBR_FULL_422",
        "YBR_PARTIAL_420",
        "YBR_PARTIAL_422",
        "YBR_ICT",
        "YBR_RCT",
        "XYB",
    }
)
# Defined terms only: a free text here could hold anything. PS3.3 C.11.1.1.2, C.8.9.1.1.3, C.8.8.3.
_UNITS = {
    **{name: name for name in ("OD", "HU", "HU_MOD", "MGML", "Z_EFF", "ED", "EDW", "PCT")},
    **{name: name for name in ("CNTS", "PCNT", "CPS", "BQML", "GML", "CM2", "CM2ML", "PROPCNTS")},
    **{name: name for name in ("PROPCPS", "MGMINML", "UMOLMINML", "MLMING", "MLG", "1CM", "MLML")},
    **{name: name for name in ("UMOLML", "MLMINML", "STDDEV")},
    "GY": "Gy",
    "RELATIVE": "relative",
}

_NO_PIXELS_BY_SOP_CLASS: tuple[tuple[str, NoPixelsReason], ...] = (
    ("1.2.840.10008.5.1.4.1.1.88.", "structured-report"),
    ("1.2.840.10008.5.1.4.1.1.104.", "encapsulated-document"),
    ("1.2.840.10008.5.1.4.1.1.481.3", "rt-structure-set"),
    ("1.2.840.10008.5.1.4.1.1.481.", "rt-plan"),
    ("1.2.840.10008.5.1.4.34.", "rt-plan"),
    ("1.2.840.10008.5.1.4.1.1.9.", "waveform"),
    ("1.2.840.10008.5.1.4.1.1.11.", "presentation-state"),
    ("1.2.840.10008.1.3.10", "directory"),
    ("1.2.840.10008.5.1.4.1.1.66.1", "registration"),
    ("1.2.840.10008.5.1.4.1.1.66.3", "registration"),
    ("1.2.840.10008.5.1.4.1.1.66.2", "surface-or-fiducials"),
    ("1.2.840.10008.5.1.4.1.1.66.5", "surface-or-fiducials"),
    ("1.2.840.10008.5.1.4.1.1.66.6", "surface-or-fiducials"),
    ("1.2.840.10008.5.1.4.1.1.68.", "surface-or-fiducials"),
    ("1.2.840.10008.5.1.4.1.1.4.2", "spectroscopy"),
    ("1.2.840.10008.5.1.4.1.1.66", "raw-data"),
)
_NO_PIXELS_BY_ELEMENT: tuple[tuple[str, NoPixelsReason], ...] = (
    ("EncapsulatedDocument", "encapsulated-document"),
    ("StructureSetROISequence", "rt-structure-set"),
    ("WaveformSequence", "waveform"),
    ("SpectroscopyData", "spectroscopy"),
)


@dataclass(frozen=True, slots=True)
class PixelElement:
    """Where the pixel data is.

    Parameters
    ----------
    keyword
        "PixelData", "FloatPixelData" or "DoubleFloatPixelData".
    vr
        "OB", "OW", ... or "" when implicit.
    offset
        Offset of the value in ``stream``.
    length_bytes
        Length of the value that is really there; None when encapsulated.
    stream
        The stream that ``offset`` counts in: the file, or what it inflated to.
    size_bytes
        Length of that stream.
    """

    keyword: str
    vr: str
    offset: int
    length_bytes: int | None
    stream: BinaryIO
    size_bytes: int


@dataclass(frozen=True, slots=True)
class DicomHeader:
    """The data set before its pixels, and where those are."""

    dataset: Dataset
    transfer_syntax: str
    big_endian: bool
    pixels: PixelElement


@dataclass(frozen=True, slots=True)
class ImagePixelModule:
    """The Image Pixel module (PS3.3 C.7.6.3), checked."""

    rows: int
    columns: int
    samples: int
    frames: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    planar: bool
    photometric: str
    keyword: str

    @property
    def bytes_per_sample(self) -> float:
        """Bytes of one sample in a native frame; 1/8 for packed bits."""
        return self.bits_allocated / 8

    def dtype(self, *, big_endian: bool) -> np.dtype[Any]:
        """Type of a sample in a native frame."""
        if self.keyword != "PixelData":
            kind = "f"
        else:
            kind = "i" if self.signed else "u"
        if self.bits_allocated <= 8:
            return np.dtype(f"{'u' if self.bits_allocated == 1 else kind}1")
        return np.dtype(f"{'>' if big_endian else '<'}{kind}{self.bits_allocated // 8}")


def value_of(dataset: Dataset, keyword: str) -> Any:
    """Return an element's value, or None when absent, empty or not convertible."""
    try:
        return dataset.get(keyword)
    except RecursionError:
        raise
    except Exception:  # noqa: BLE001 - conversion of a hostile value may raise anything
        return None


def text_of(dataset: Dataset, keyword: str) -> str:
    """Return the first value of a code string, upper case; "" when absent."""
    value = value_of(dataset, keyword)
    if isinstance(value, Sequence) and not isinstance(value, str):
        value = value[0] if len(value) else ""
    return str(value).strip(" \0").upper() if value is not None else ""


def numbers_of(dataset: Dataset, keyword: str) -> list[float]:
    """Return an element's numbers; [] when absent or when one is not a number."""
    value = value_of(dataset, keyword)
    if value is None or value == "":
        return []
    values = [value] if isinstance(value, (int, float, str)) else value
    try:
        return [float(v) for v in values]
    except (TypeError, ValueError, OverflowError):
        return []


def number_of(dataset: Dataset, keyword: str) -> float | None:
    """Return the first number of an element, or None."""
    values = numbers_of(dataset, keyword)
    return values[0] if values else None


def integer_of(dataset: Dataset, keyword: str, default: int) -> int:
    """Return the first number of an element as int, or ``default``."""
    value = number_of(dataset, keyword)
    return int(value) if value is not None and math.isfinite(value) else default


def items_of(dataset: Dataset, keyword: str) -> Sequence[Dataset]:
    """Return the items of a sequence; () when absent or unreadable."""
    value = value_of(dataset, keyword)
    if value is None or isinstance(value, (str, bytes)):
        return ()
    return value if isinstance(value, Sequence) else ()


def _at_pixels(tag: BaseTag, vr: str | None, length: int) -> bool:
    return tag in _PIXEL_TAGS


class _FileMeta(NamedTuple):
    """The facts of the file meta information (PS3.10 7.1); "" for what is not there."""

    transfer_syntax: str
    sop_class: str
    data_set_offset: int


# Zeros read as elements of no length: padding, or a bomb that deflates to a few kilobytes.
_MOST_ZERO_ELEMENTS = 64


def _stop(reader: BoundedReader) -> Callable[[BaseTag, str | None, int], bool]:
    zeros = 0

    def stop(tag: BaseTag, vr: str | None, length: int) -> bool:
        nonlocal zeros
        zeros = zeros + 1 if not tag and not length else 0
        # pydicom looks the character set up as soon as it meets it, and some texts there make it
        # fail. The texts that are wanted are ASCII in every character set.
        if tag == _SPECIFIC_CHARACTER_SET and 0 < length < _UNDEFINED_LENGTH:
            reader.blank_next()
        return zeros > _MOST_ZERO_ELEMENTS or _at_pixels(tag, vr, length)

    return stop


def _read_file_meta(stream: BinaryIO) -> _FileMeta:
    head = stream.read(132)
    position = 132 if head[128:132] == b"DICM" else 0
    found = {b"\x02\x00": "", b"\x10\x00": ""}
    while True:
        stream.seek(position)
        element = stream.read(12)
        if len(element) < 8 or element[:2] != b"\x02\x00":
            return _FileMeta(found[b"\x10\x00"], found[b"\x02\x00"], position)
        vr = element[4:6]
        if vr in (b"OB", b"OW", b"UN", b"SQ", b"UT"):
            length = struct.unpack("<L", element[8:].ljust(4, b"\0"))[0]
            start = position + 12
        elif vr.isalpha() and vr.isupper():
            length, start = struct.unpack_from("<H", element, 6)[0], position + 8
        else:
            length, start = struct.unpack_from("<L", element, 4)[0], position + 8
        if element[2:4] in found and length <= 128:
            stream.seek(start)
            text = stream.read(length).decode("ascii", "replace")
            found[element[2:4]] = text.strip(" \0")
        position = start + length


def read_header(
    stream: BinaryIO, size_bytes: int, limits: Limits, warnings: WarningList
) -> DicomHeader | NoPixels:
    """Parse a DICOM stream up to its pixel data.

    Parameters
    ----------
    stream, size_bytes
        The file at its start, and its length.
    limits
        Bounds to hold.
    warnings
        Gets "transfer-syntax-missing".

    Returns
    -------
    DicomHeader or NoPixels
        NoPixels when the data set has no pixel element.

    Raises
    ------
    DecodeError
        When there is no data set, or it breaks a limit.
    """
    meta = _read_file_meta(stream)
    uid = meta.transfer_syntax
    if uid == DeflatedExplicitVRLittleEndian:
        stream.seek(meta.data_set_offset)
        inflated = inflate(stream, limits.max_decompressed_bytes)
        stream, size_bytes = io.BytesIO(inflated), len(inflated)
        reader = BoundedReader(stream, size_bytes, limits.max_header_reads)
        dataset = read_dataset(
            reader.file, False, True, stop_when=_stop(reader), specific_tags=_WANTED_TAGS
        )
        big_endian = False
    else:
        stream.seek(0)
        reader = BoundedReader(stream, size_bytes, limits.max_header_reads)
        partial = read_partial(
            reader.file, stop_when=_stop(reader), force=True, specific_tags=_WANTED_TAGS
        )
        dataset = partial
        little = partial.original_encoding[1]
        big_endian = little is False or uid == GE_PRIVATE_BIG_ENDIAN_PIXELS
        if not uid:
            warnings.add("transfer-syntax-missing")
            if big_endian:
                uid = ExplicitVRBigEndian
            elif partial.original_encoding[0]:
                uid = ImplicitVRLittleEndian
            else:
                uid = ExplicitVRLittleEndian
    pixels = _locate_pixels(
        stream, size_bytes, reader.tell(), big_endian=uid == ExplicitVRBigEndian
    )
    if pixels is None:
        if reader.overrun:
            raise DecodeError("truncated", "the file ends inside its header")
        if len(dataset) == 0 and not meta.sop_class:
            raise DecodeError("corrupt", "no DICOM element that belongs to an image was found")
        return NoPixels(_reason_without_pixels(dataset, meta.sop_class))
    return DicomHeader(dataset, uid, big_endian, pixels)


def _locate_pixels(
    stream: BinaryIO, size_bytes: int, position: int, *, big_endian: bool
) -> PixelElement | None:
    stream.seek(position)
    head = stream.read(12)
    endian = ">" if big_endian else "<"
    if len(head) < 8:
        return None
    group, element = struct.unpack_from(f"{endian}HH", head)
    keyword = _PIXEL_TAGS.get(group << 16 | element)
    if keyword is None:
        return None
    vr = ""
    if head[4:6] in (b"OB", b"OW", b"OF", b"OD", b"UN") and len(head) == 12:
        vr = head[4:6].decode("ascii")
        length: int = struct.unpack_from(f"{endian}L", head, 8)[0]
        offset = position + 12
    else:
        length = struct.unpack_from(f"{endian}L", head, 4)[0]
        offset = position + 8
    available = max(0, size_bytes - offset)
    known = None if length == _UNDEFINED_LENGTH else min(length, available)
    return PixelElement(keyword, vr, offset, known, stream, size_bytes)


def _reason_without_pixels(dataset: Dataset, stored_sop_class: str) -> NoPixelsReason:
    sop_class = text_of(dataset, "SOPClassUID") or stored_sop_class
    for prefix, reason in _NO_PIXELS_BY_SOP_CLASS:
        whole = not prefix.endswith(".")
        if sop_class == prefix or (not whole and sop_class.startswith(prefix)):
            return reason
    for keyword, reason in _NO_PIXELS_BY_ELEMENT:
        if keyword in dataset:
            return reason
    return "no-pixel-element"


def image_pixel_module(header: DicomHeader, warnings: WarningList) -> ImagePixelModule:
    """Read and check the Image Pixel module.

    Raises
    ------
    DecodeError
        ``inconsistent-header`` or ``unsupported-layout``.
    """
    ds = header.dataset
    keyword = header.pixels.keyword
    rows, columns = integer_of(ds, "Rows", 0), integer_of(ds, "Columns", 0)
    samples = integer_of(ds, "SamplesPerPixel", 1)
    bits_allocated = integer_of(ds, "BitsAllocated", 0)
    if keyword == "FloatPixelData":
        bits_allocated = 32
    elif keyword == "DoubleFloatPixelData":
        bits_allocated = 64
    if "BitsAllocated" not in ds and keyword == "PixelData":
        raise DecodeError("inconsistent-header", "Bits Allocated is missing")
    if bits_allocated not in (1, 8, 16, 32, 64):
        raise DecodeError("unsupported-layout", f"Bits Allocated is {bits_allocated}")
    if samples not in (1, 3, 4):
        raise DecodeError("unsupported-layout", f"Samples per Pixel is {samples}")
    bits_stored = integer_of(ds, "BitsStored", bits_allocated)
    if not 1 <= bits_stored <= bits_allocated:
        bits_stored = bits_allocated
    high_bit = integer_of(ds, "HighBit", bits_stored - 1)
    if not bits_stored - 1 <= high_bit < bits_allocated:
        high_bit = bits_stored - 1
    photometric = text_of(ds, "PhotometricInterpretation")
    if photometric not in _PHOTOMETRIC:
        photometric = ""
    colour = photometric.startswith(("RGB", "YBR", "ARGB", "CMYK", "HSV", "XYB"))
    if samples == 1 and (colour or not photometric):
        warnings.add("photometric")
        photometric = "MONOCHROME2"
    elif samples >= 3 and not colour:
        warnings.add("photometric")
        photometric = "RGB"
    frames = integer_of(ds, "NumberOfFrames", 1)
    if frames < 1:
        frames = 1
        warnings.add("frame-count")
    return ImagePixelModule(
        rows=rows,
        columns=columns,
        samples=samples,
        frames=frames,
        bits_allocated=bits_allocated,
        bits_stored=bits_stored,
        high_bit=high_bit,
        signed=integer_of(ds, "PixelRepresentation", 0) == 1,
        planar=samples > 1 and integer_of(ds, "PlanarConfiguration", 0) == 1,
        photometric=photometric,
        keyword=keyword,
    )


def functional_groups(dataset: Dataset, index: int) -> tuple[Dataset, ...]:
    """Return where the facts of frame ``index`` are looked up, in order.

    Per-frame functional groups win over shared ones, and both over the data set (PS3.3 C.7.6.16).
    """
    per_frame = items_of(dataset, "PerFrameFunctionalGroupsSequence")
    shared = items_of(dataset, "SharedFunctionalGroupsSequence")
    places = []
    if index < len(per_frame):
        places.append(per_frame[index])
    places.extend(shared[:1])
    return (*places, dataset)


def _macro(places: tuple[Dataset, ...], sequence: str, has: Callable[[Dataset], bool]) -> Dataset:
    """Return the first item of ``sequence`` that has the facts, else the data set itself."""
    for place in places[:-1]:
        items = items_of(place, sequence)
        if len(items) and has(items[0]):
            return items[0]
    return places[-1]


def modality_transform(
    places: tuple[Dataset, ...], module: ImagePixelModule, warnings: WarningList
) -> tuple[ModalityTransform, str]:
    """Read the Modality LUT, rescale or dose scaling of a frame, and its unit.

    Returns
    -------
    tuple
        The transform, and the unit; "raw" when the file names none of the defined terms.
    """
    ds = places[-1]
    modality = text_of(ds, "Modality")
    scaling = number_of(ds, "DoseGridScaling")
    if modality == "RTDOSE" and scaling is not None:
        if math.isfinite(scaling) and scaling > 0:
            return ModalityTransform(scaling), _UNITS.get(text_of(ds, "DoseUnits"), "raw")
        warnings.add("scaling-invalid")
        return ModalityTransform(), "raw"
    items = items_of(ds, "ModalityLUTSequence")
    if len(items):
        lut = read_lut(items[0], module, warnings)
        if lut is not None:
            return ModalityTransform(lut=lut), _UNITS.get(
                text_of(items[0], "ModalityLUTType"), "raw"
            )
    rescale = _macro(
        places, "PixelValueTransformationSequence", lambda item: "RescaleSlope" in item
    )
    slope, intercept = number_of(rescale, "RescaleSlope"), number_of(rescale, "RescaleIntercept")
    if slope is None and intercept is None:
        return ModalityTransform(), "raw"
    slope = 1.0 if slope is None else slope
    intercept = 0.0 if intercept is None else intercept
    if not (math.isfinite(slope) and math.isfinite(intercept)) or slope == 0:
        warnings.add("scaling-invalid")
        return ModalityTransform(), "raw"
    term = text_of(rescale, "RescaleType")
    if not term and modality == "CT":
        term = "HU"  # PS3.3 C.8.2.1.1.2: without Rescale Type a CT is in Hounsfield units
    if term in ("", "US") and modality == "PT":
        term = text_of(ds, "Units")
    return ModalityTransform(slope, intercept), _UNITS.get(term, "raw")


def voi(places: tuple[Dataset, ...], module: ImagePixelModule, warnings: WarningList) -> Voi:
    """Read the VOI LUT and the first window of a frame."""
    ds = places[-1]
    lut = None
    items = items_of(ds, "VOILUTSequence")
    if len(items):
        lut = read_lut(items[0], module, warnings)
    place = _macro(places, "FrameVOILUTSequence", lambda item: "WindowCenter" in item)
    center, width = number_of(place, "WindowCenter"), number_of(place, "WindowWidth")
    window = None
    if center is not None and width is not None:
        function = text_of(place, "VOILUTFunction")
        if function not in ("LINEAR_EXACT", "SIGMOID"):
            function = "LINEAR"
        window = Window(center, width, function)
    return Voi(lut, window)


def pixel_spacing_mm(places: tuple[Dataset, ...]) -> tuple[float, float] | None:
    """Read the distance between rows and between columns."""
    place = _macro(places, "PixelMeasuresSequence", lambda item: "PixelSpacing" in item)
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        values = numbers_of(place, keyword)
        if len(values) == 2 and all(math.isfinite(v) and v > 0 for v in values):
            return values[0], values[1]
    return None


def padding_range(dataset: Dataset, module: ImagePixelModule) -> tuple[int, int] | None:
    """Read the inclusive range of stored values that are padding (PS3.3 C.7.5.1.1.2)."""
    first = number_of(dataset, "PixelPaddingValue")
    if first is None or not math.isfinite(first):
        return None
    last = number_of(dataset, "PixelPaddingRangeLimit")
    if last is None or not math.isfinite(last):
        last = first
    a, b = (_as_stored(int(v), module) for v in (first, last))
    return min(a, b), max(a, b)


def _as_stored(value: int, module: ImagePixelModule) -> int:
    """Wrap a value whose VR (US or SS) was read with the wrong sign."""
    bits = module.bits_allocated
    value &= (1 << bits) - 1
    if module.signed and value >= 1 << (bits - 1):
        value -= 1 << bits
    return value


def lut_descriptor(values: list[float]) -> tuple[int, int, int] | None:
    """Check a LUT descriptor: number of entries (0 means 65536), first input, bits per entry."""
    if len(values) != 3 or not all(math.isfinite(v) for v in values):
        return None
    count, first, bits = (int(v) for v in values)
    count &= 0xFFFF  # read as SS, a count above 32767 turns negative
    return (count or 65_536), first, (bits if 1 <= bits <= 16 else 16)


def lut_entries(
    data: Any, count: int, bits: int, *, big_endian: bool = False
) -> np.ndarray[Any, np.dtype[np.uint16]] | None:
    """Unpack at most ``count`` entries of LUT data: US values, or OW bytes of 8 or 16 bits each."""
    if isinstance(data, (bytes, bytearray)):
        narrow = bits <= 8 and len(data) < 2 * count
        dtype = "u1" if narrow else (">u2" if big_endian else "<u2")
        usable = len(data) - len(data) % (1 if narrow else 2)
        entries = np.frombuffer(data[:usable], dtype).astype(np.uint16)
    elif isinstance(data, int):
        entries = np.array([data & 0xFFFF], np.uint16)
    elif isinstance(data, Sequence) and not isinstance(data, str):
        try:
            entries = np.array([int(v) & 0xFFFF for v in data[:65_536]], np.uint16)
        except (TypeError, ValueError):
            return None
    else:
        return None
    return entries[:count] if entries.size else None


def read_lut(item: Dataset, module: ImagePixelModule, warnings: WarningList) -> Lut | None:
    """Read a Modality or VOI LUT item; None, with a warning, when it is unusable."""
    descriptor = lut_descriptor(numbers_of(item, "LUTDescriptor"))
    if descriptor is None:
        warnings.add("lut-invalid")
        return None
    count, first, bits = descriptor
    entries = lut_entries(value_of(item, "LUTData"), count, bits)
    if entries is None:
        warnings.add("lut-invalid")
        return None
    if not module.signed:
        first &= 0xFFFF
    elif first > 0x7FFF:
        first -= 0x10000
    return Lut(first, entries.astype(np.float64), bits)
