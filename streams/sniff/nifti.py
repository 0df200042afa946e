"""NIfTI-1, NIfTI-2 and Analyze 7.5 headers (nifti1.h, nifti2.h of nifti.nimh.nih.gov)."""

from __future__ import annotations

import math
from struct import Struct
from typing import NamedTuple

from schemas.facts import Format
from streams.sniff import vocabulary
from streams.sniff.report import Report

NIFTI1_BYTES = 348
NIFTI2_BYTES = 540


class _Layout(NamedTuple):
    """Where a version of the header keeps its fields: struct format and offset."""

    dim: tuple[str, int]
    datatype: tuple[str, int]
    bitpix: tuple[str, int]
    pixdim: tuple[str, int]
    vox_offset: tuple[str, int]
    slope: tuple[str, int]
    intercept: tuple[str, int]
    units: tuple[str, int]
    descrip: int


_NIFTI1 = _Layout(
    dim=("8h", 40),
    datatype=("h", 70),
    bitpix=("h", 72),
    pixdim=("8f", 76),
    vox_offset=("f", 108),
    slope=("f", 112),
    intercept=("f", 116),
    units=("B", 123),
    descrip=148,
)
_NIFTI2 = _Layout(
    dim=("8q", 16),
    datatype=("h", 12),
    bitpix=("h", 14),
    pixdim=("8d", 104),
    vox_offset=("q", 168),
    slope=("d", 176),
    intercept=("d", 184),
    units=("i", 500),
    descrip=240,
)
_NIFTI1_MAGICS: dict[bytes, tuple[Format, str]] = {
    b"n+1\0": ("nifti", "n+1"),
    b"ni1\0": ("nifti-pair", "ni1"),
}
_NIFTI2_MAGICS: dict[bytes, tuple[Format, str]] = {
    b"n+2\0\r\n\x1a\n": ("nifti", "n+2"),
    b"ni2\0\r\n\x1a\n": ("nifti-pair", "ni2"),
}

_DESCRIP_BYTES = 80
_MM_PER_UNIT = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
_SPACE_UNITS = 0x07
_MAX_INT = 2**31 - 1
_MAX_BITS = 256
# Data type codes: samples per voxel where it is not one, and whether the numbers have a sign.
_SAMPLES = {128: 3, 2304: 4}
_SIGNED = {4: True, 8: True, 256: True, 1024: True, 2: False, 512: False, 768: False, 1280: False}


class NiftiKind(NamedTuple):
    """What a header is: format, evidence in words, layout and byte order."""

    format: Format
    evidence: str
    layout: _Layout
    order: str
    is_analyze: bool = False


def recognise(head: bytes) -> NiftiKind | None:
    """Tell NIfTI by its size field and magic, in either byte order.

    Parameters
    ----------
    head : bytes
        First 540 bytes of the file, or as many as it has.

    Returns
    -------
    NiftiKind or None
        ``None`` if it is neither NIfTI nor Analyze.
    """
    if len(head) < NIFTI1_BYTES:
        return None
    for order, order_name in (("<", "little endian"), (">", "big endian")):
        (size,) = Struct(order + "i").unpack_from(head)
        if size == NIFTI2_BYTES and len(head) >= NIFTI2_BYTES:
            found = _NIFTI2_MAGICS.get(head[4:12])
            if found is not None:
                evidence = f"NIfTI-2 {found[1]} magic at offset 4, {order_name}"
                return NiftiKind(found[0], evidence, _NIFTI2, order)
        elif size == NIFTI1_BYTES:
            found = _NIFTI1_MAGICS.get(head[344:348])
            if found is not None:
                evidence = f"NIfTI-1 {found[1]} magic at offset 344, {order_name}"
                return NiftiKind(found[0], evidence, _NIFTI1, order)
            if _is_analyze(head, order):
                evidence = f"Analyze 7.5 header of 348 bytes, {order_name}"
                return NiftiKind("nifti-pair", evidence, _NIFTI1, order, is_analyze=True)
    return None


def _is_analyze(head: bytes, order: str) -> bool:
    # No magic: the constant fields, sane dimensions and a known data type have to do.
    dim = Struct(order + "8h").unpack_from(head, 40)
    datatype, bitpix = Struct(order + "2h").unpack_from(head, 70)
    sane = 1 <= dim[0] <= 7 and all(size >= 1 for size in dim[1 : dim[0] + 1])
    known = (datatype, bitpix) in {(1, 1), (2, 8), (4, 16), (8, 32), (16, 32), (32, 64), (64, 64)}
    return sane and (known or (datatype == 128 and bitpix == 24))


def read(kind: NiftiKind, head: bytes, report: Report, *, size_bytes: int | None) -> None:
    """Read the header's facts.

    Parameters
    ----------
    kind : NiftiKind
        From ``recognise`` of the same bytes.
    head : bytes
        First bytes of the (inflated) file.
    report : Report
        Takes facts and problems.
    size_bytes : int or None
        Length of the file, to find out whether all voxels are there; ``None`` if unknown.
    """
    layout, order = kind.layout, kind.order

    def field(place: tuple[str, int]) -> tuple[float, ...]:
        return tuple(Struct(order + place[0]).unpack_from(head, place[1]))

    datatype, bits_per_voxel = int(field(layout.datatype)[0]), int(field(layout.bitpix)[0])
    shape = _shape(field(layout.dim), report)
    _numbers(datatype, bits_per_voxel, report)
    units = 0 if kind.is_analyze else int(field(layout.units)[0])
    _voxel_size(shape, field(layout.pixdim), units, report)
    if not kind.is_analyze:
        _scaling(field(layout.slope)[0], field(layout.intercept)[0], report)
    text = head[layout.descrip : layout.descrip + _DESCRIP_BYTES].split(b"\0", 1)[0]
    found = vocabulary.terms([text.decode("latin-1")])
    if found:
        report.facts["description_terms"] = found
    if size_bytes is not None and kind.format == "nifti" and shape:
        voxel_bytes = math.prod(shape) * max(bits_per_voxel, 0) // 8
        _extent(field(layout.vox_offset)[0], voxel_bytes, size_bytes, report)


def _shape(dim: tuple[float, ...], report: Report) -> tuple[int, ...]:
    dims = int(dim[0])
    shape = tuple(int(size) for size in dim[1 : dims + 1]) if 1 <= dims <= 7 else ()
    if not shape or min(shape) < 0 or max(shape) > _MAX_INT:
        report.problem("invalid-value", "dim")
        return ()
    # The first axis runs along a row (nifti1.h).
    report.facts.update(shape=shape, columns=shape[0], rows=shape[1] if dims > 1 else 1)
    frames = math.prod(shape[2:])
    if frames <= _MAX_INT:
        report.facts["frames"] = frames
    else:
        report.problem("invalid-value", "dim")
    return shape


def _numbers(datatype: int, bits_per_voxel: int, report: Report) -> None:
    samples = _SAMPLES.get(datatype, 1)
    report.facts["samples_per_pixel"] = samples
    report.facts["photometric_interpretation"] = "RGB" if samples > 1 else "MONOCHROME2"
    if 0 < bits_per_voxel <= _MAX_BITS:
        report.facts["bits_allocated"] = bits_per_voxel // samples
    else:
        report.problem("invalid-value", "bitpix")
    if datatype in _SIGNED:
        report.facts["pixel_signed"] = _SIGNED[datatype]


def _voxel_size(
    shape: tuple[int, ...], pixdim: tuple[float, ...], units: int, report: Report
) -> None:
    # Unknown units are millimetres in practice.
    scale = _MM_PER_UNIT.get(units & _SPACE_UNITS)
    sizes = tuple(abs(size) for size in pixdim[1 : min(len(shape), 3) + 1])
    if scale is None or not sizes or not all(math.isfinite(size) for size in sizes):
        report.problem("invalid-value", "pixdim")
    else:
        report.facts["voxel_size_mm"] = tuple(size * scale for size in sizes)


def _extent(offset: float, voxel_bytes: int, size_bytes: int, report: Report) -> None:
    if not math.isfinite(offset) or offset < 0:
        report.problem("invalid-value", "vox_offset")
    elif offset + voxel_bytes > size_bytes:
        end = int(offset) + voxel_bytes
        report.problem("truncated", f"voxels end at byte {end}, the file at {size_bytes}")


def _scaling(slope: float, intercept: float, report: Report) -> None:
    # nifti1.h: a slope of zero means that values are not scaled.
    if slope == 0 or math.isnan(slope):
        return
    for name, keyword, value in (
        ("rescale_slope", "scl_slope", slope),
        ("rescale_intercept", "scl_inter", intercept),
    ):
        if math.isfinite(value):
            report.facts[name] = value
        else:
            report.problem("invalid-value", keyword)
