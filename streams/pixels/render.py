"""Everything the pipeline wants of a file's pixels, in one call that a process pool can take."""

from __future__ import annotations

from dataclasses import dataclass, field

from schemas.facts import QualityFacts
from streams.pixels.decode import decode
from streams.pixels.image import DecodeWarning, UInt8Array
from streams.pixels.limits import Limits
from streams.pixels.outcome import NoPixels
from streams.pixels.quality import compute_quality
from streams.pixels.signals import ImageSignals, compute_signals
from streams.pixels.slices import SliceStrategy
from streams.pixels.source import Source
from streams.pixels.views import make_view, thumbnail


@dataclass(frozen=True, slots=True)
class RenderSpec:
    """What to make of a file.

    Parameters
    ----------
    view_sizes
        Sides in pixels of the square views, one per model input size.
    thumbnail_max_side
        Longer side of the thumbnail in pixels; 0 for none.
    with_display
        Whether to return the display array as well (for text detection on full resolution).
    strategy
        Rule that chooses the slice.
    limits
        Bounds to hold.
    """

    view_sizes: tuple[int, ...] = (224,)
    thumbnail_max_side: int = 256
    with_display: bool = False
    strategy: SliceStrategy = "middle"
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, slots=True)
class SliceInfo:
    """The facts of a :class:`~streams.pixels.image.DecodedImage` without its arrays."""

    format: str
    unit: str
    frames: int
    rows: int
    columns: int
    samples: int
    bits_stored: int
    photometric: str
    slice_strategy: str
    slice_index: int
    windowing: str
    pixel_spacing_mm: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class Rendered:
    """What came of one file.

    Parameters
    ----------
    info
        Shape, depth, unit and slice of the source.
    signals
        Measurements of the slice.
    quality
        What is good or bad about it.
    views
        uint8 ``[size, size, 3]`` for each size of the spec, in its order.
    thumbnail
        A WebP file, or b"" when none was asked for.
    warnings
        What a reader of the result should know.
    display
        uint8 ``[H, W]`` or ``[H, W, 3]`` when asked for.
    """

    info: SliceInfo
    signals: ImageSignals
    quality: QualityFacts
    views: tuple[UInt8Array, ...] = field(repr=False)
    thumbnail: bytes = field(repr=False)
    warnings: tuple[DecodeWarning, ...]
    display: UInt8Array | None = field(default=None, repr=False)


_DEFAULT_SPEC = RenderSpec()


def render(
    source: Source,
    format_name: str,
    spec: RenderSpec = _DEFAULT_SPEC,
    companion: Source | None = None,
) -> Rendered | NoPixels:
    """Decode a file once and make all that the pipeline needs of it.

    A pure, top-level function of picklable values: call it in place, in a thread, or in a process
    that a codec may crash without harm to others.

    Parameters
    ----------
    source
        Bytes or a path (a stream works in the same process only).
    format_name
        One of ``FORMATS``.
    spec
        What to make.
    companion
        The ``.img`` file of a NIfTI pair.

    Raises
    ------
    DecodeError
        As :func:`streams.pixels.decode.decode`.
    """
    image = decode(
        source, format_name, strategy=spec.strategy, limits=spec.limits, companion=companion
    )
    if isinstance(image, NoPixels):
        return image
    small = thumbnail(image.display, spec.thumbnail_max_side) if spec.thumbnail_max_side else b""
    return Rendered(
        info=SliceInfo(
            format=image.format,
            unit=image.unit,
            frames=image.frames,
            rows=image.rows,
            columns=image.columns,
            samples=image.samples,
            bits_stored=image.bits_stored,
            photometric=image.photometric,
            slice_strategy=image.slice_strategy,
            slice_index=image.slice_index,
            windowing=image.windowing,
            pixel_spacing_mm=image.pixel_spacing_mm,
        ),
        signals=compute_signals(image.display, image.values),
        quality=compute_quality(image.display, image.values, image.unit),
        views=tuple(make_view(image.display, size) for size in spec.view_sizes),
        thumbnail=small,
        warnings=image.warnings,
        display=image.display if spec.with_display else None,
    )
