"""Recognise DICOM and read its header."""

from __future__ import annotations

import io
import zlib
from dataclasses import replace

from streams.sniff.dicom import derived, encoding, table, values
from streams.sniff.dicom.encoding import EXPLICIT_LITTLE, Encoding
from streams.sniff.dicom.values import BadValueError, Element
from streams.sniff.dicom.walker import Found, Tree, Walker
from streams.sniff.report import Report
from streams.sniff.result import SniffContext, SniffLimits
from streams.sniff.window import LimitReachedError, Window

MEDIA_TYPE = "application/dicom"

_PREAMBLE_BYTES = 128
_DIRECTORY_SOP_CLASS = "1.2.840.10008.1.3.10"
_TREE_META: Tree = {tag: node for tag, node in table.TREE.items() if tag >> 16 == 0x0002}
_TREE_DATA: Tree = {tag: node for tag, node in table.TREE.items() if tag >> 16 != 0x0002}
_KNOWN_VRS = {vr: vr.decode() for vr in encoding.SHORT_VRS | encoding.LONG_VRS if vr != b"UN"}


def recognise(window: Window, report: Report, context: SniffContext) -> str | None:
    """Read the file as DICOM if it is that.

    Parameters
    ----------
    window : Window
        The file.
    report : Report
        Takes the facts and problems.
    context : SniffContext
        For whom, and within which bounds.

    Returns
    -------
    str or None
        Evidence in words; ``None`` if the file is not DICOM.
    """
    head = window.take(0, _PREAMBLE_BYTES + 4)
    if head[_PREAMBLE_BYTES:] == b"DICM":
        evidence = "DICM at offset 128"
        if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            # PS3.10 section 7.1 allows a preamble for another application: dual personality.
            evidence += ", TIFF preamble"
        start = _PREAMBLE_BYTES + 4
    else:
        found = encoding.guess(window, 0)
        if found is None:
            return None
        group = 8 if head[:2] in (b"\x08\0", b"\0\x08") else 2
        evidence = f"group {group:04d} elements parse without preamble"
        start = 0
    return f"{evidence}, {_read(window, start, report, context)}"


def _read(window: Window, start: int, report: Report, context: SniffContext) -> str:
    limits = context.limits
    meta = Walker(window, EXPLICIT_LITTLE, limits)
    after_meta = meta.file_meta(start, _TREE_META, report)
    found = meta.found
    if after_meta is None:
        _tell(found, EXPLICIT_LITTLE, report, context)
        return EXPLICIT_LITTLE.name
    start = after_meta
    syntax = found.get("TransferSyntaxUID", (b"", b""))[1].strip(b" \0").decode("latin-1")
    used = EXPLICIT_LITTLE
    try:
        if syntax in encoding.DEFLATED_SYNTAXES:
            window = _inflate(window, start, limits, report)
            start = 0
        else:
            used = _settle(syntax, window, start, report)
    except LimitReachedError:
        report.problem("header-limit", "facts up to here are kept")
        _tell(found, used, report, context)
        return used.name
    if start < window.size:
        walker = Walker(window, used, limits)
        walker.data_set(start, _TREE_DATA, report)
        found = {**found, **walker.found}
    elif not window.is_cut:
        report.problem("truncated", "the file ends before its data set")
    _tell(found, used, report, context)
    name = used.name
    if syntax in encoding.DEFLATED_SYNTAXES:
        name = f"Deflated {name}"
    if report.facts.get("sop_class_uid") == _DIRECTORY_SOP_CLASS:
        name += ", a DICOMDIR"
    return name


def _settle(syntax: str, window: Window, start: int, report: Report) -> Encoding:
    if not syntax:
        report.problem("missing-file-meta", "no transfer syntax; the encoding is guessed")
        return encoding.guess(window, start) or encoding.really(EXPLICIT_LITTLE, window, start)
    declared = encoding.of_transfer_syntax(syntax)
    used = encoding.really(declared, window, start)
    if used != declared:
        report.problem("encoding-mismatch", f"declared {declared.name}, written {used.name}")
    return used


def _inflate(window: Window, start: int, limits: SniffLimits, report: Report) -> Window:
    """Inflate the beginning of a deflated data set (PS3.5 Annex A.5), within bounds."""
    packed_bytes = max(min(window.size - start, limits.header_bytes - window.bytes_read), 0)
    packed = window.take(start, packed_bytes)
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        data = stream.decompress(packed, limits.inflated_bytes)
    except zlib.error:
        report.problem("malformed-header", "the deflated data set cannot be inflated")
        data = b""
    # All of it is in memory already; the elements still count.
    inner = replace(limits, header_bytes=2 * len(data) + 4096, first_read_bytes=len(data))
    return Window(io.BytesIO(data), len(data), inner, is_cut=not stream.eof)


def _tell(found: Found, used: Encoding, report: Report, context: SniffContext) -> None:
    """Turn raw values into facts, by the table and by the derivations."""
    charset = found.get("SpecificCharacterSet")
    codec = "latin-1" if charset is None else values.codec_of(charset[1])
    little = used.little

    def get(path: str) -> Element | None:
        raw = found.get(path)
        if raw is None:
            return None
        vr = _KNOWN_VRS.get(raw[0]) or table.DICTIONARY_VR[path]
        return Element(vr, raw[1], little, codec)

    facts = report.facts
    for rule in table.EXPANDED:
        if rule.path in found and rule.field not in facts:
            element = get(rule.path)
            if element is None or not element.value:
                continue
            try:
                value = rule.convert(element)
            except BadValueError:
                report.problem("invalid-value", rule.path.rpartition(".")[2])
                continue
            if value is not None:
                facts[rule.field] = value
    derived.keys(get, report, context)
    derived.age(get, report)
    derived.acquired_at(get, report)
    derived.description_terms(get, report)
    derived.frames(get, report)
