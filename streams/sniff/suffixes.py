"""Known suffixes and the formats that they promise; a suffix is never believed, only compared."""

from __future__ import annotations

from schemas.facts import Format

_NIFTI: frozenset[Format] = frozenset({"nifti", "nifti-pair"})
_PAIR: frozenset[Format] = frozenset({"nifti-pair"})
_ANY: frozenset[Format] = frozenset()

_PROMISES: dict[str, frozenset[Format]] = {
    ".dcm": frozenset({"dicom"}),
    ".dicom": frozenset({"dicom"}),
    ".dic": frozenset({"dicom"}),
    ".ima": frozenset({"dicom"}),
    ".nii": _NIFTI,
    ".nii.gz": _NIFTI,
    ".hdr": _PAIR,
    ".hdr.gz": _PAIR,
    ".img": _PAIR,
    ".img.gz": _PAIR,
    ".png": frozenset({"png"}),
    ".jpg": frozenset({"jpeg"}),
    ".jpeg": frozenset({"jpeg"}),
    ".jpe": frozenset({"jpeg"}),
    ".jfif": frozenset({"jpeg"}),
    ".tif": frozenset({"tiff"}),
    ".tiff": frozenset({"tiff"}),
    ".btf": frozenset({"tiff"}),
    ".svs": frozenset({"tiff"}),
    ".bmp": frozenset({"bmp"}),
    ".dib": frozenset({"bmp"}),
    ".webp": frozenset({"webp"}),
    ".gif": frozenset({"gif"}),
    **dict.fromkeys(
        (
            *(".gz", ".zip", ".7z", ".tar", ".tgz", ".tar.gz", ".bz2", ".xz", ".zst", ".rar"),
            *(".txt", ".csv", ".tsv", ".json", ".xml", ".html", ".htm", ".md", ".pdf", ".log"),
            *(".nrrd", ".nhdr", ".mha", ".mhd", ".mgz", ".mgh", ".mnc", ".par", ".rec", ".h5"),
            *(
                ".hdf5",
                ".npy",
                ".npz",
                ".mat",
                ".pkl",
                ".parquet",
                ".bval",
                ".bvec",
                ".trk",
                ".tck",
            ),
            *(".jp2", ".j2k", ".jls", ".jxl", ".heic", ".avif", ".svg", ".psd", ".ico", ".ppm"),
            *(".pgm", ".pbm", ".pnm", ".mp4", ".avi", ".mov", ".mkv", ".webm", ".mpg", ".raw"),
            *(".bin", ".dat", ".exe", ".iso", ".py", ".doc", ".docx", ".xls", ".xlsx", ".ppt"),
        ),
        _ANY,
    ),
}


def known_suffix(name: str) -> str:
    """Return the suffix of a file name, lower case, if it is on the list; else an empty string.

    A suffix is text that people write: anything that is not on the list could be a name.
    """
    base = name.replace("\\", "/").rpartition("/")[2][-64:].lower()
    parts = base.split(".")
    for take in (2, 1):
        if len(parts) > take:
            suffix = "." + ".".join(parts[-take:])
            if suffix in _PROMISES:
                return suffix
    return ""


def contradicts(suffix: str, found: Format) -> bool:
    """Tell whether a known suffix promises another format than was found."""
    promised = _PROMISES.get(suffix, _ANY)
    return bool(promised) and found not in promised
