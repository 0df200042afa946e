"""The table: which DICOM elements become which header facts.

The whole allow-list is here. An element that is in neither ``RULES`` nor ``SOURCES`` is not even
read; one in ``SOURCES`` is read, but only what ``derived`` makes of it leaves the blob.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pydicom.datadict import dictionary_VR, tag_for_keyword

from streams.sniff.dicom import values
from streams.sniff.dicom.values import Element
from streams.sniff.dicom.walker import Tree

Convert = Callable[[Element], object]

FUNCTIONAL_GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")


@dataclass(frozen=True)
class Rule:
    """One element that becomes one fact.

    Parameters
    ----------
    path : str
        Keyword (PS3.6), with those of its sequences before it, dots between; of a sequence the
        first item counts. ``FG`` stands for the shared and the first per-frame functional groups
        of enhanced multi-frame objects (PS3.3 C.7.6.16).
    field : str
        Field of ``HeaderFacts``. Of several rules for a field the first that has a value wins.
    convert : callable
        Element to value; ``None`` is no value, ``BadValueError`` a wrong one.
    """

    path: str
    field: str
    convert: Convert


RULES: tuple[Rule, ...] = (
    # Identity and kind
    Rule("Modality", "modality", values.modality),
    Rule("SOPClassUID", "sop_class_uid", values.uid),
    Rule("MediaStorageSOPClassUID", "sop_class_uid", values.uid),
    Rule("TransferSyntaxUID", "transfer_syntax_uid", values.uid),
    Rule("StudyInstanceUID", "study_uid", values.uid),
    Rule("SeriesInstanceUID", "series_uid", values.uid),
    Rule("SOPInstanceUID", "instance_uid", values.uid),
    Rule("MediaStorageSOPInstanceUID", "instance_uid", values.uid),
    Rule("FrameOfReferenceUID", "frame_of_reference_uid", values.uid),
    Rule("InstanceNumber", "instance_number", values.whole),
    Rule("ImagesInAcquisition", "images_in_acquisition", values.count),
    Rule("ImageType", "image_type", values.codes),
    Rule("SpecificCharacterSet", "specific_character_set", values.few_codes),
    # The patient, without saying who
    Rule("PatientAge", "patient_age_years", values.age_years),
    Rule("PatientSex", "patient_sex", values.sex),
    # What was imaged, and how
    Rule("BodyPartExamined", "body_part", values.code),
    Rule("ImageLaterality", "laterality", values.laterality),
    Rule("Laterality", "laterality", values.laterality),
    Rule("FG.FrameAnatomySequence.FrameLaterality", "laterality", values.laterality),
    Rule("ViewPosition", "view_position", values.code),
    Rule("PatientPosition", "patient_position", values.code),
    Rule("Manufacturer", "manufacturer", values.name),
    Rule("ManufacturerModelName", "manufacturer_model", values.name),
    Rule("ContrastBolusAgent", "contrast_agent", values.contrast),
    Rule("ContrastBolusAgentSequence.CodeValue", "contrast_agent", values.contrast),
    Rule("KVP", "kvp", values.number),
    Rule("FG.CTXRayDetailsSequence.KVP", "kvp", values.number),
    Rule("Exposure", "exposure_mas", values.number),
    Rule("ExposureInuAs", "exposure_mas", values.thousandths),
    Rule("ExposureInmAs", "exposure_mas", values.number),
    Rule("FG.CTExposureSequence.ExposureInmAs", "exposure_mas", values.number),
    Rule("RepetitionTime", "repetition_time_ms", values.number),
    Rule(
        "FG.MRTimingAndRelatedParametersSequence.RepetitionTime",
        "repetition_time_ms",
        values.number,
    ),
    Rule("EchoTime", "echo_time_ms", values.number),
    Rule("FG.MREchoSequence.EffectiveEchoTime", "echo_time_ms", values.number),
    Rule("InversionTime", "inversion_time_ms", values.number),
    Rule("FG.MRModifierSequence.InversionTimes", "inversion_time_ms", values.number),
    Rule("FlipAngle", "flip_angle_degrees", values.number),
    Rule("FG.MRTimingAndRelatedParametersSequence.FlipAngle", "flip_angle_degrees", values.number),
    Rule("MagneticFieldStrength", "magnetic_field_strength_tesla", values.number),
    Rule("ConvolutionKernel", "convolution_kernel", values.name),
    Rule("FG.CTReconstructionSequence.ConvolutionKernel", "convolution_kernel", values.name),
    Rule("ScanningSequence", "scanning_sequence", values.few_codes),
    Rule("ConversionType", "conversion_type", values.code),
    Rule("BurnedInAnnotation", "burned_in_annotation", values.yes_or_no),
    Rule("LossyImageCompression", "lossy_compressed", values.lossy),
    # The pixel matrix
    Rule("Rows", "rows", values.count),
    Rule("Columns", "columns", values.count),
    Rule("NumberOfFrames", "frames", values.count),
    Rule("SamplesPerPixel", "samples_per_pixel", values.count),
    Rule("BitsAllocated", "bits_allocated", values.count),
    Rule("BitsStored", "bits_stored", values.count),
    Rule("PixelRepresentation", "pixel_signed", values.signed),
    Rule("PhotometricInterpretation", "photometric_interpretation", values.code),
    Rule("RescaleSlope", "rescale_slope", values.number),
    Rule("FG.PixelValueTransformationSequence.RescaleSlope", "rescale_slope", values.number),
    Rule("RescaleIntercept", "rescale_intercept", values.number),
    Rule(
        "FG.PixelValueTransformationSequence.RescaleIntercept", "rescale_intercept", values.number
    ),
    Rule("RescaleType", "rescale_type", values.code),
    Rule("FG.PixelValueTransformationSequence.RescaleType", "rescale_type", values.code),
    Rule("WindowCenter", "window_center", values.number),
    Rule("FG.FrameVOILUTSequence.WindowCenter", "window_center", values.number),
    Rule("WindowWidth", "window_width", values.number),
    Rule("FG.FrameVOILUTSequence.WindowWidth", "window_width", values.number),
    # Geometry. Spacing in the patient first, at the detector where there is no other.
    Rule("PixelSpacing", "pixel_spacing_mm", values.pair),
    Rule("FG.PixelMeasuresSequence.PixelSpacing", "pixel_spacing_mm", values.pair),
    Rule("ImagerPixelSpacing", "pixel_spacing_mm", values.pair),
    Rule("NominalScannedPixelSpacing", "pixel_spacing_mm", values.pair),
    Rule("SliceThickness", "slice_thickness_mm", values.number),
    Rule("FG.PixelMeasuresSequence.SliceThickness", "slice_thickness_mm", values.number),
    Rule("SpacingBetweenSlices", "spacing_between_slices_mm", values.number),
    Rule(
        "FG.PixelMeasuresSequence.SpacingBetweenSlices", "spacing_between_slices_mm", values.number
    ),
    Rule("ImagePositionPatient", "image_position_mm", values.triple),
    Rule("FG.PlanePositionSequence.ImagePositionPatient", "image_position_mm", values.triple),
    Rule("ImageOrientationPatient", "image_orientation", values.sextuple),
    Rule(
        "FG.PlaneOrientationSequence.ImageOrientationPatient", "image_orientation", values.sextuple
    ),
)

DESCRIPTIONS = (
    "SeriesDescription",
    "ProtocolName",
    "StudyDescription",
    "BodyPartExamined",
    "RequestedProcedureDescription",
    "PerformedProcedureStepDescription",
    "AnatomicRegionSequence.CodeMeaning",
    "FG.FrameAnatomySequence.AnatomicRegionSequence.CodeMeaning",
    "ViewCodeSequence.CodeMeaning",
)
"""Free text of which only the terms of the closed vocabulary are kept."""

DATE_TIMES = ("AcquisitionDateTime", "FG.FrameContentSequence.FrameAcquisitionDateTime")
DATES_AND_TIMES = (
    ("AcquisitionDate", "AcquisitionTime"),
    ("ContentDate", "ContentTime"),
    ("SeriesDate", "SeriesTime"),
    ("StudyDate", "StudyTime"),
)

SOURCES: tuple[str, ...] = (
    *DESCRIPTIONS,
    *DATE_TIMES,
    *(keyword for both in DATES_AND_TIMES for keyword in both),
    "TimezoneOffsetFromUTC",
    "PatientID",
    "IssuerOfPatientID",
    "PatientBirthDate",
    "InstitutionName",
    "StationName",
    "DeviceSerialNumber",
)
"""Elements that are read but leave the blob only as something derived from them."""


def expand(path: str) -> tuple[str, ...]:
    """Write ``FG`` out: shared functional groups first, then those of the first frame."""
    if path.startswith("FG."):
        return tuple(f"{group}{path[2:]}" for group in FUNCTIONAL_GROUPS)
    return (path,)


def _tag(keyword: str) -> int:
    tag = tag_for_keyword(keyword)
    if tag is None:
        msg = f"{keyword} is no keyword of PS3.6"
        raise ValueError(msg)
    return int(tag)


def _build_tree(paths: tuple[str, ...]) -> Tree:
    tree: Tree = {}
    for path in paths:
        *sequences, last = path.split(".")
        node = tree
        for keyword in sequences:
            inner = node.setdefault(_tag(keyword), {})
            if isinstance(inner, str):
                msg = f"{path}: {keyword} is wanted both as a value and as a sequence"
                raise TypeError(msg)
            node = inner
        node[_tag(last)] = path
    return tree


EXPANDED: tuple[Rule, ...] = tuple(
    Rule(path, rule.field, rule.convert) for rule in RULES for path in expand(rule.path)
)
"""``RULES`` with ``FG`` written out."""

PATHS: tuple[str, ...] = (
    *(rule.path for rule in EXPANDED),
    *(path for source in SOURCES for path in expand(source)),
)
TREE: Tree = _build_tree(PATHS)
"""All wanted elements, for the walker."""

DICTIONARY_VR: dict[str, str] = {
    path: str(dictionary_VR(_tag(path.rpartition(".")[2]))) for path in PATHS
}
"""Value representation of each path by the data dictionary (PS3.6)."""
