"""One small instance in any transfer syntax, for receivers that must not care what is inside."""

from __future__ import annotations

import zlib
from pathlib import Path

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset, write_file_meta_info
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
    generate_uid,
)

# Their whole dataset is deflated (PS3.5 A.5, A.7).
_DEFLATED = frozenset(
    {"1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.4.205"}
)
# Their pixels lie elsewhere (PS3.5 A.6, A.7).
_REFERENCED = frozenset(
    {"1.2.840.10008.1.2.4.94", "1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.4.204",
     "1.2.840.10008.1.2.4.205"}
)  # fmt: skip


def make_instance(path: Path, transfer_syntax_uid: str) -> str:
    """Write an instance; its compressed pixels are noise that no receiver should decode.

    Parameters
    ----------
    path : Path
        Where to.
    transfer_syntax_uid : str
        A transfer syntax of PS3.5 annex A.

    Returns
    -------
    str
        Its SOP Instance UID.
    """
    syntax = UID(transfer_syntax_uid)
    dataset = _dataset(syntax)
    encoded = DicomBytesIO()
    encoded.is_implicit_VR = syntax == ImplicitVRLittleEndian
    encoded.is_little_endian = syntax != ExplicitVRBigEndian
    write_dataset(encoded, dataset)
    body = encoded.getvalue()
    if syntax in _DEFLATED:
        deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        body = deflater.compress(body) + deflater.flush()
        body += bytes(len(body) % 2)
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\x00\x01"
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = syntax
    meta.ImplementationClassUID = UID("1.2.826.0.1.3680043.8.498.1")
    head = DicomBytesIO()
    head.is_implicit_VR, head.is_little_endian = False, True
    write_file_meta_info(head, meta)
    path.write_bytes(bytes(128) + b"DICM" + head.getvalue() + body)
    return str(dataset.SOPInstanceUID)


def _dataset(syntax: UID) -> Dataset:
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.SOPClassUID = SecondaryCaptureImageStorage
    dataset.SOPInstanceUID = generate_uid()
    dataset.StudyDate = "20260102"
    dataset.Modality = "OT"
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "1", "99TEST", "test"
    dataset.ProcedureCodeSequence = [item]
    dataset.PatientName = "Näme^Test"
    dataset.PatientID = "1"
    dataset.StudyInstanceUID = generate_uid()
    dataset.SeriesInstanceUID = generate_uid()
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows = dataset.Columns = 64
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit = 7
    dataset.PixelRepresentation = 0
    noise = bytes((i * i + i // 7) % 251 for i in range(64 * 64))
    if syntax in _REFERENCED:
        dataset.PixelDataProviderURL = "https://pixels.example/1"
    elif syntax.is_encapsulated:
        dataset.PixelData = encapsulate([noise], has_bot=True)
        dataset["PixelData"].VR = "OB"
        dataset["PixelData"].is_undefined_length = True
    else:
        dataset.PixelData = noise
        dataset["PixelData"].VR = "OW" if syntax == ImplicitVRLittleEndian else "OB"
    return dataset
