"""NIfTI-1 and NIfTI-2 to a middle axial slice."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header
from nibabel.orientations import io_orientation

from streams.pixels.image import AnyArray, DecodedImage, Float32Array, WarningList, thin
from streams.pixels.limits import Limits
from streams.pixels.outcome import DecodeError
from streams.pixels.slices import SliceStrategy, choose_index
from streams.pixels.source import GZIP_MAGIC, gunzip_range
from streams.pixels.windowing import Voi, Window, display_floats, sample_percentiles

_HEADER_BYTES = 540
_IDENTITY = np.array([[0.0, 1.0], [1.0, 1.0], [2.0, 1.0]])
# NIfTI's own window is seldom set; these percentiles of what is not background are the usual view.
_PERCENTILES = (1.0, 99.0)
_MM_PER_UNIT = {1: 1000.0, 2: 1.0, 3: 0.001}


@dataclass(frozen=True, slots=True)
class _Volume:
    """What the header says about the first volume."""

    shape: tuple[int, int, int]
    volumes: int
    dtype: np.dtype[Any]
    offset: int
    slope: float
    intercept: float
    zooms: tuple[float, float, float]
    orientation: npt.NDArray[np.float64]


class _Bytes:
    """Random access to a stream that may be gzipped, decompressing no further than asked."""

    def __init__(self, stream: BinaryIO, limits: Limits) -> None:
        self._stream = stream
        self._limits = limits
        stream.seek(0)
        self._zipped = stream.read(2) == GZIP_MAGIC

    def read(self, start: int, end: int) -> bytes:
        if end - start > self._limits.max_decompressed_bytes:
            raise DecodeError(
                "too-many-bytes",
                f"{end - start} bytes are needed, "
                f"the limit is {self._limits.max_decompressed_bytes}",
            )
        if self._zipped:
            self._stream.seek(0)
            return gunzip_range(self._stream, start, end, self._limits.max_decompressed_bytes)
        self._stream.seek(start)
        return self._stream.read(end - start)


def decode_nifti(
    stream: BinaryIO, companion: BinaryIO | None, strategy: SliceStrategy, limits: Limits
) -> DecodedImage:
    """Decode one slice of a NIfTI file, in canonical (RAS+) orientation.

    The slice is axial, unless the axial axis would give a line: then it is taken along an axis of
    length one. It is shown in radiological convention (anterior up, patient's right on the left).

    Parameters
    ----------
    stream
        A ``.nii``, ``.nii.gz`` or ``.hdr`` file.
    companion
        The ``.img`` file of a pair.
    strategy
        Rule that chooses the slice; a 4-D or 5-D file gives its first volume.
    limits
        Bounds to hold.

    Raises
    ------
    DecodeError
        ``missing-companion`` for one half of a pair, or why it cannot be read.
    """
    warnings = WarningList()
    header_bytes = _Bytes(stream, limits)
    volume, single = _read_header(header_bytes.read(0, _HEADER_BYTES), limits, warnings)
    if single:
        data = header_bytes
    elif companion is None:
        raise DecodeError(
            "missing-companion", "this is the header of a pair; its .img file was not given"
        )
    else:
        data = _Bytes(companion, limits)

    axis = _slice_axis(volume)
    count = volume.shape[axis]
    canonical = choose_index(strategy, count)
    flipped = volume.orientation[axis, 1] < 0
    stored_index = count - 1 - canonical if flipped else canonical
    plane = _read_plane(data, volume, axis, stored_index)
    plane, spacing = _orient(plane, volume, axis)
    plane, step = thin(plane, limits.max_kept_pixels, warnings)
    rows, columns = plane.shape[0] * step, plane.shape[1] * step
    common: dict[str, Any] = {
        "format": "nifti",
        "frames": count * volume.volumes,
        "rows": rows,
        "columns": columns,
        "slice_strategy": f"{strategy}-{_axis_name(volume, axis)}",
        "slice_index": canonical,
        "pixel_spacing_mm": spacing,
    }
    if volume.dtype.names:
        display = np.stack([plane[name] for name in ("R", "G", "B")], axis=-1)
        return DecodedImage(
            display=np.ascontiguousarray(display),
            values=None,
            unit="raw",
            samples=len(volume.dtype.names),
            bits_stored=8,
            photometric="RGB",
            windowing="colour",
            warnings=warnings.done(),
            **common,
        )
    values = _scale(plane, volume)
    display, windowing = display_floats(
        values, Voi(window=_window(values)), invert=False, padding=None, warnings=warnings
    )
    return DecodedImage(
        display=np.ascontiguousarray(display),
        values=values,
        unit="raw",
        samples=1,
        bits_stored=volume.dtype.itemsize * 8,
        photometric="MONOCHROME2",
        windowing="percentile" if windowing == "window" else windowing,
        warnings=warnings.done(),
        **common,
    )


def _read_header(raw: bytes, limits: Limits, warnings: WarningList) -> tuple[_Volume, bool]:
    size = {raw[:4][::order] for order in (1, -1)}
    if (348).to_bytes(4, "big") in size:
        length, magic, kind = 348, raw[344:348], Nifti1Header
    elif (540).to_bytes(4, "big") in size:
        length, magic, kind = 540, raw[4:8], Nifti2Header
    else:
        raise DecodeError("corrupt", "it does not start with a NIfTI header")
    if len(raw) < length:
        raise DecodeError("truncated", f"the header has {len(raw)} of {length} bytes")
    if magic not in (b"n+1\0", b"ni1\0", b"n+2\0", b"ni2\0"):
        raise DecodeError("corrupt", "the NIfTI magic is missing")
    single = magic[1:2] == b"+"
    header = kind(raw[:length], check=False)  # type: ignore[no-untyped-call]

    dims = [int(d) for d in header["dim"]]
    if not 1 <= dims[0] <= 7:
        raise DecodeError("inconsistent-header", f"it has {dims[0]} dimensions")
    shape = [*dims[1 : dims[0] + 1], 1, 1][: max(3, dims[0])]
    if any(d < 1 for d in shape):
        raise DecodeError("inconsistent-header", "a dimension is not positive")
    x, y, z = shape[:3]
    try:
        dtype = np.dtype(header.get_data_dtype())  # type: ignore[no-untyped-call]
    except Exception:  # noqa: BLE001 - an unknown type code
        raise DecodeError("unsupported-layout", "unknown NIfTI data type") from None
    if dtype.itemsize == 0:
        raise DecodeError("unsupported-layout", "unsupported NIfTI data type")
    sides = sorted((x, y, z))
    limits.check_frame(sides[1], sides[2], dtype.itemsize)
    offset = float(header["vox_offset"])
    if not math.isfinite(offset) or not 0 <= offset < 2**62:
        raise DecodeError("inconsistent-header", "the voxel offset is unusable")
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if not math.isfinite(slope) or slope == 0:
        slope, intercept = 1.0, 0.0
    if not math.isfinite(intercept):
        warnings.add("scaling-invalid")
        intercept = 0.0
    unit = _MM_PER_UNIT.get(int(header["xyzt_units"]) & 7, 1.0)
    zooms = [abs(float(v)) * unit for v in header["pixdim"][1:4]]
    volume = _Volume(
        shape=(x, y, z),
        volumes=math.prod(shape[3:]),
        dtype=dtype,
        # A single file keeps its data behind the header and the extension flag, whatever it says.
        offset=max(int(offset), length + 4) if single else int(offset),
        slope=slope,
        intercept=intercept,
        zooms=(zooms[0], zooms[1], zooms[2]),
        orientation=_orientation(header, warnings),
    )
    return volume, single


def _orientation(header: Any, warnings: WarningList) -> npt.NDArray[np.float64]:
    """Return nibabel's (canonical axis, flip) per stored axis; identity when there is none."""
    try:
        affine = np.asarray(header.get_best_affine(), dtype=np.float64)
        orientation = io_orientation(affine)  # type: ignore[no-untyped-call]
    except Exception:  # noqa: BLE001 - a degenerate affine raises in several ways
        orientation = np.full((3, 2), np.nan)
    if orientation.shape != (3, 2) or not np.isfinite(orientation).all():
        warnings.add("orientation-unknown")
        return _IDENTITY
    # What nibabel.as_closest_canonical applies: for each stored axis, its RAS axis and direction.
    return np.asarray(orientation, dtype=np.float64)


def _slice_axis(volume: _Volume) -> int:
    """Return the stored axis to cut along: the axial one unless that would give a line."""
    axial = int(np.flatnonzero(volume.orientation[:, 0] == 2)[0])
    others = [size for axis, size in enumerate(volume.shape) if axis != axial]
    if min(others) == 1 and volume.shape[axial] > 1:
        return volume.shape.index(1)
    return axial


def _axis_name(volume: _Volume, axis: int) -> str:
    return ("sagittal", "coronal", "axial")[int(volume.orientation[axis, 0])]


def _read_plane(data: _Bytes, volume: _Volume, axis: int, index: int) -> AnyArray:
    """Read the stored plane ``index`` along ``axis``: only its bytes when they are contiguous."""
    x, y, z = volume.shape
    item = volume.dtype.itemsize
    place: int | None = None
    shape: tuple[int, ...] = (x, y, z)
    if axis == 2:
        start = volume.offset + index * x * y * item
        raw = data.read(start, start + x * y * item)
        wanted, shape = x * y * item, (x, y)
    else:
        # The plane's voxels lie all over the volume, up to the last one that it needs.
        wanted = x * y * z * item
        raw = data.read(volume.offset, volume.offset + wanted)
        place = index
    if len(raw) < wanted:
        raise DecodeError("truncated", f"the slice needs {wanted} bytes and {len(raw)} are there")
    array = np.frombuffer(raw, volume.dtype).reshape(shape, order="F")
    return array if place is None else np.take(array, place, axis=axis)


def _orient(
    plane: AnyArray, volume: _Volume, axis: int
) -> tuple[AnyArray, tuple[float, float] | None]:
    """Turn a stored plane the way it is looked at: rows down, columns to the right."""
    in_plane = [a for a in range(3) if a != axis]
    for position, stored_axis in enumerate(in_plane):
        if volume.orientation[stored_axis, 1] < 0:
            plane = np.flip(plane, position)
    targets = [int(volume.orientation[a, 0]) for a in in_plane]
    if targets[0] > targets[1]:
        plane = plane.T
        in_plane.reverse()
    # Now [lower canonical axis, higher one], both towards R, A or S: show the higher one upwards.
    # The patient's right goes to the left (x flipped); a sagittal view has anterior on the left.
    shown = plane[::-1, ::-1].T
    spacing = (volume.zooms[in_plane[1]], volume.zooms[in_plane[0]])
    known = all(math.isfinite(v) and v > 0 for v in spacing)
    return shown, spacing if known else None


def _scale(plane: AnyArray, volume: _Volume) -> Float32Array:
    if np.issubdtype(plane.dtype, np.complexfloating):
        plane = np.abs(plane)
    values: Float32Array = plane.astype(np.float32)
    if volume.slope != 1.0:
        values *= np.float32(volume.slope)
    if volume.intercept != 0.0:
        values += np.float32(volume.intercept)
    return np.ascontiguousarray(values)


def _window(values: Float32Array) -> Window | None:
    """Percentiles of what lies above the background, which is the lowest value of the slice."""
    known = values[np.isfinite(values)]
    if known.size == 0:
        return None
    above = known[known > known.min()]
    if above.size == 0:
        return None
    low, high = sample_percentiles(above, _PERCENTILES)
    if above.max() == above.min():
        low = float(known.min())
    return Window((low + high) / 2, high - low, "LINEAR_EXACT") if high > low else None
