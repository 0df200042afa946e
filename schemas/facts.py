"""Value types that file events carry: header facts, image signals, decisions, embeddings."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from schemas.base import UtcDatetime, Value

Format = Literal[
    "dicom",
    "nifti",
    "nifti-pair",
    "png",
    "jpeg",
    "tiff",
    "bmp",
    "webp",
    "gif",
    "unknown",
]
FORMATS: tuple[Format, ...] = get_args(Format)
"""What sniffing can answer. ``nifti-pair`` is one half of a .hdr/.img pair."""

Code = Annotated[str, Field(max_length=64)]
Term = Annotated[str, Field(max_length=64)]


class DicomUids(Value):
    """The UIDs by which DICOM names an instance (PS3.3 C.7.2, C.7.3, C.12.1)."""

    study_uid: str = Field(max_length=64)
    series_uid: str = Field(max_length=64)
    instance_uid: str = Field(max_length=64)
    sop_class_uid: str = Field(max_length=64)


class Association(Value):
    """The DICOM association over which a file came (PS3.8).

    Parameters
    ----------
    association_id : str
        Name of the association in the gateway's logs.
    calling_ae_title, called_ae_title : str
        Application Entity titles of the sender and of the one it asked for.
    peer_address : str
        Network address of the sender.
    """

    association_id: str = Field(max_length=64)
    calling_ae_title: str = Field(max_length=16)
    called_ae_title: str = Field(max_length=16)
    peer_address: str = Field(default="", max_length=64)


class Problem(Value):
    """Something about a file that did not stop its way but that a reader should know."""

    code: str = Field(max_length=64, pattern=r"^[a-z0-9-]+$")
    detail: str = Field(default="", max_length=512)


class HeaderFacts(Value):
    """The allow-list of header fields that may leave the blob (DESIGN.md section 4.7).

    Every field is optional: a header says what it says. Free text is reduced to the terms of a
    closed vocabulary (``description_terms``), patient identity and site to keyed hashes.
    Lengths and times carry their unit in their name.
    """

    # Identity and kind
    modality: Code | None = None
    sop_class_uid: Code | None = None
    transfer_syntax_uid: Code | None = None
    study_uid: Code | None = None
    series_uid: Code | None = None
    instance_uid: Code | None = None
    frame_of_reference_uid: Code | None = None
    instance_number: int | None = None
    images_in_acquisition: int | None = None
    image_type: tuple[Code, ...] = Field(default=(), max_length=16)
    specific_character_set: tuple[Code, ...] = Field(default=(), max_length=8)
    # Whose and where, without saying who
    patient_key: str | None = Field(default=None, max_length=64)
    site_key: str | None = Field(default=None, max_length=64)
    device_key: str | None = Field(default=None, max_length=64)
    patient_age_years: float | None = Field(default=None, ge=0, le=90)
    patient_sex: Literal["F", "M", "O"] | None = None
    acquired_at: UtcDatetime | None = None
    # What was imaged, and how
    body_part: Code | None = None
    laterality: Literal["L", "R", "B", "U"] | None = None
    view_position: Code | None = None
    patient_position: Code | None = None
    description_terms: tuple[Term, ...] = Field(default=(), max_length=32)
    manufacturer: Code | None = None
    manufacturer_model: Code | None = None
    contrast_agent: bool | None = None
    kvp: float | None = None
    exposure_mas: float | None = None
    repetition_time_ms: float | None = None
    echo_time_ms: float | None = None
    inversion_time_ms: float | None = None
    flip_angle_degrees: float | None = None
    magnetic_field_strength_tesla: float | None = None
    convolution_kernel: Code | None = None
    scanning_sequence: tuple[Code, ...] = Field(default=(), max_length=8)
    conversion_type: Code | None = None
    burned_in_annotation: bool | None = None
    lossy_compressed: bool | None = None
    # The pixel matrix
    rows: int | None = Field(default=None, ge=0)
    columns: int | None = Field(default=None, ge=0)
    frames: int | None = Field(default=None, ge=0)
    samples_per_pixel: int | None = Field(default=None, ge=0)
    bits_allocated: int | None = Field(default=None, ge=0)
    bits_stored: int | None = Field(default=None, ge=0)
    pixel_signed: bool | None = None
    photometric_interpretation: Code | None = None
    rescale_slope: float | None = None
    rescale_intercept: float | None = None
    rescale_type: Code | None = None
    window_center: float | None = None
    window_width: float | None = None
    # Geometry
    shape: tuple[int, ...] = Field(default=(), max_length=7)
    pixel_spacing_mm: tuple[float, float] | None = None
    slice_thickness_mm: float | None = None
    spacing_between_slices_mm: float | None = None
    voxel_size_mm: tuple[float, ...] = Field(default=(), max_length=7)
    image_position_mm: tuple[float, float, float] | None = None
    image_orientation: tuple[float, float, float, float, float, float] | None = None


class PixelFacts(Value):
    """What decoding found: the source's matrix and the slice that was looked at."""

    rows: int = Field(ge=0)
    columns: int = Field(ge=0)
    frames: int = Field(ge=0)
    samples_per_pixel: int = Field(ge=0)
    bit_depth: int = Field(ge=0)
    photometric_interpretation: str = Field(default="", max_length=64)
    slice_strategy: str = Field(max_length=64)
    slice_index: int = Field(ge=0)
    unit: str = Field(default="raw", max_length=16)


class ImageSignals(Value):
    """Numbers that describe the displayed slice, each cheap and named for what it measures."""

    mean: float
    std: float
    minimum: float
    maximum: float
    p01: float
    p05: float
    p50: float
    p95: float
    p99: float
    entropy_bits: float
    foreground_fraction: float
    color_fraction: float
    sharpness: float
    noise_sigma: float
    aspect_ratio: float
    is_color: bool
    is_blank: bool
    histogram: tuple[float, ...] = Field(default=(), max_length=64)


class QualityFacts(Value):
    """What is good or bad about the slice that was looked at, from the same decode.

    The names from ``mean`` on are those of MRQy (Sadri et al., Med Phys 47:6029, 2020) in lower
    case, for the same measures; ``streams/pixels/quality.py`` holds the definitions. A measure
    that an image does not allow (no background, no contrast) stays empty.

    Parameters
    ----------
    is_blank, is_near_constant, is_clipped, is_blurry : bool or None
        Flags; each has its measure or its rule beside it.
    clipped_low_fraction, clipped_high_fraction : float or None
        Share of the pixels at the smallest and at the largest value.
    blur : float or None
        No-reference blur of Crete et al. (2007): 0 sharp, 1 as blurred as can be.
    perceptual_hash : str or None
        64-bit DCT hash of the picture, 16 hex digits; empty for a blank one.
    text_box_count : int or None
        Boxes of burned-in text that were found.
    text_area_fraction : float or None
        Share of the picture that those boxes cover.
    contrast_per_pixel : float or None
        Mean absolute difference of a pixel and its eight neighbours, over the range of the slice.
    """

    is_blank: bool | None = None
    is_near_constant: bool | None = None
    is_clipped: bool | None = None
    is_blurry: bool | None = None
    clipped_low_fraction: float | None = Field(default=None, ge=0, le=1)
    clipped_high_fraction: float | None = Field(default=None, ge=0, le=1)
    blur: float | None = Field(default=None, ge=0, le=1)
    perceptual_hash: str | None = Field(default=None, pattern=r"^[0-9a-f]{16}$")
    text_box_count: int | None = Field(default=None, ge=0)
    text_area_fraction: float | None = Field(default=None, ge=0, le=1)
    contrast_per_pixel: float | None = Field(default=None, ge=0)
    mean: float | None = None
    rng: float | None = Field(default=None, ge=0)
    var: float | None = Field(default=None, ge=0)
    cv_percent: float | None = Field(default=None, ge=0)
    psnr_db: float | None = None
    snr1: float | None = Field(default=None, ge=0)
    snr2: float | None = Field(default=None, ge=0)
    snr3: float | None = Field(default=None, ge=0)
    snr4: float | None = Field(default=None, ge=0)
    cnr: float | None = None
    cvp: float | None = Field(default=None, ge=0)
    cjv: float | None = Field(default=None, ge=0)
    efc: float | None = Field(default=None, ge=0)
    fber: float | None = Field(default=None, ge=0)


class Embedding(Value):
    """An L2-normalised embedding and the model that made it.

    Parameters
    ----------
    model : str
        Name of the Triton model.
    model_version : str
        Backbone and digest of its weights.
    vector_f32le : str
        Base64 of little-endian float32, length ``4 * dim`` bytes: a third of the size of JSON
        numbers, and no digit is lost.
    dim : int
        Length of the vector.
    """

    model: str = Field(max_length=128)
    model_version: str = Field(max_length=128)
    dim: int = Field(ge=1, le=8192)
    vector_f32le: str = Field(max_length=43_700)

    @model_validator(mode="after")
    def _holds_dim_values(self) -> Embedding:
        try:
            length_bytes = len(base64.b64decode(self.vector_f32le, validate=True))
        except (binascii.Error, ValueError):
            msg = "vector_f32le must be base64 of float32 values"
            raise ValueError(msg) from None
        if length_bytes != 4 * self.dim:
            msg = f"vector_f32le holds {length_bytes} bytes; dim asks for {4 * self.dim}"
            raise ValueError(msg)
        return self

    @classmethod
    def from_array(
        cls, vector: NDArray[np.float32], *, model: str, model_version: str
    ) -> Embedding:
        """Pack a vector, shape (dim,), float32."""
        data = np.ascontiguousarray(vector, dtype="<f4")
        return cls(
            model=model,
            model_version=model_version,
            dim=int(data.shape[0]),
            vector_f32le=base64.b64encode(data.tobytes()).decode("ascii"),
        )

    def to_array(self) -> NDArray[np.float32]:
        """Unpack the vector, shape (dim,), float32."""
        return np.frombuffer(base64.b64decode(self.vector_f32le), dtype="<f4")


class Vote(Value):
    """One signal's say about the modality, with its evidence in words.

    ``confidence`` is how sure the signal would be if it were the only one.
    """

    signal: str = Field(max_length=64)
    label: str = Field(max_length=32)
    weight: float | None = None
    evidence: str = Field(default="", max_length=256)
    confidence: float | None = Field(default=None, ge=0, le=1)


class Attribute(Value):
    """One more thing that the evidence tells of an image: its view, plane, phase or body part."""

    name: str = Field(max_length=32)
    value: str = Field(max_length=64)
    confidence: float | None = Field(default=None, ge=0, le=1)
    evidence: str = Field(default="", max_length=256)


class ModalityDecision(Value):
    """The modality of a file, how it was found, and how sure that is.

    ``confidence`` stays empty where no calibrated model gave one (DESIGN.md section 4.8).
    ``abstained`` says that nothing is sure enough to be the answer, and ``abstained_reason`` why;
    ``family`` is the likeliest all the same (one of ``streams.modality.labels.FAMILIES``), and
    ``confidence`` its probability. ``novelty`` grows from 0 to 1 with the distance from all that
    the method was taught.
    """

    modality: str = Field(max_length=32)
    confidence: float | None = Field(default=None, ge=0, le=1)
    method: str = Field(max_length=64)
    method_version: str = Field(max_length=64)
    votes: tuple[Vote, ...] = Field(default=(), max_length=32)
    conflict: bool = False
    conflict_reason: str = Field(default="", max_length=256)
    abstained: bool = False
    abstained_reason: str = Field(default="", max_length=256)
    family: str = Field(default="", max_length=32)
    novelty: float | None = None


class Prediction(Value):
    """One answer of one model: label, score, and what is needed to trust it."""

    model: str = Field(max_length=128)
    model_version: str = Field(max_length=128)
    task: str = Field(max_length=64)
    label: str = Field(max_length=128)
    score: float = Field(ge=0, le=1)
    calibration: str = Field(max_length=128)


class AbsentModel(Value):
    """A model that did not answer because it is not there, and why."""

    model: str = Field(max_length=128)
    reason: str = Field(max_length=512)


class ClusterSummary(Value):
    """One cluster of a scope, under an id that survives refits."""

    cluster_id: str = Field(max_length=64)
    size: int = Field(ge=0)
    state: Literal["born", "alive", "merged", "split", "retired"]
    exemplars: tuple[str, ...] = Field(default=(), max_length=16)
    modality_counts: dict[str, int] = Field(default_factory=dict)
    map_x: float | None = None
    map_y: float | None = None


class DriftedFeature(Value):
    """One feature that moved, by how much and how surely."""

    feature: str = Field(max_length=128)
    statistic: str = Field(max_length=64)
    effect_size: float
    effect_low: float | None = None
    effect_high: float | None = None
    p_value: float | None = Field(default=None, ge=0, le=1)
    examples: tuple[str, ...] = Field(default=(), max_length=16)


__all__ = [
    "FORMATS",
    "AbsentModel",
    "Association",
    "Attribute",
    "ClusterSummary",
    "DicomUids",
    "DriftedFeature",
    "Embedding",
    "Format",
    "HeaderFacts",
    "ImageSignals",
    "ModalityDecision",
    "PixelFacts",
    "Prediction",
    "Problem",
    "QualityFacts",
    "Vote",
]
