"""Bounds on what one file may cost."""

from __future__ import annotations

from dataclasses import dataclass

from streams.pixels.outcome import DecodeError


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds that hold before anything is allocated.

    Parameters
    ----------
    max_frame_pixels
        Rows times columns of the one frame that is decoded. Pillow's own bound (178.9 million)
        holds as well for the formats it reads.
    max_frame_bytes
        Bytes of that frame after decompression, all samples together.
    max_decompressed_bytes
        Bytes that a deflated or gzipped stream may grow to, counted while it grows.
    max_file_bytes
        Bytes of the file itself.
    max_kept_pixels
        A larger frame is thinned to every k-th row and column right after it is decoded, so that
        later steps cost what this size costs.
    max_header_reads
        Read calls a DICOM header parser may make: about four per element, one to two seconds in
        all at the default.
    max_fragments
        Items of an encapsulated pixel data element.
    max_animation_pixels
        Pixels composed on the way to the chosen frame of an animated GIF or WebP; the frame
        nearest to the middle that this pays for is taken.
    max_pages
        Pages of a TIFF file.
    """

    max_frame_pixels: int = 200_000_000
    max_frame_bytes: int = 800_000_000
    max_decompressed_bytes: int = 1_000_000_000
    max_file_bytes: int = 8_000_000_000
    max_kept_pixels: int = 16_777_216
    max_header_reads: int = 2_000_000
    max_fragments: int = 500_000
    max_animation_pixels: int = 100_000_000
    max_pages: int = 10_000

    def check_frame(self, rows: int, columns: int, bytes_per_pixel: float) -> None:
        """Refuse a frame that is empty or too large, before it is allocated.

        Parameters
        ----------
        rows, columns
            Size of the frame in pixels.
        bytes_per_pixel
            All samples of one pixel together; below 1 for packed bits.

        Raises
        ------
        DecodeError
            ``inconsistent-header``, ``too-many-pixels`` or ``too-many-bytes``.
        """
        if rows < 1 or columns < 1:
            raise DecodeError("inconsistent-header", f"the frame is {rows} x {columns} pixels")
        pixels = rows * columns
        if pixels > self.max_frame_pixels:
            raise DecodeError(
                "too-many-pixels",
                f"the frame is {rows} x {columns} pixels, the limit is {self.max_frame_pixels}",
            )
        if pixels * bytes_per_pixel > self.max_frame_bytes:
            raise DecodeError(
                "too-many-bytes",
                f"the frame takes {int(pixels * bytes_per_pixel)} bytes decoded, "
                f"the limit is {self.max_frame_bytes}",
            )
