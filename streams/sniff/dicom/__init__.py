"""DICOM headers: encodings, elements, and the table from elements to facts."""

from streams.sniff.dicom.reader import recognise

__all__ = ["recognise"]
