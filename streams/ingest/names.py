"""Names of archive members: hostile text to a place in a dataset."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata

from streams.ingest.errors import IngestError

MAX_RELPATH_CHARACTERS = 1024
"""What an event takes (``schemas.base.RelPath``)."""

_DIGEST_CHARACTERS = 16
_MAX_PARTS = 64
_DRIVE = re.compile(r"[A-Za-z]:")


def dataset_path(name: str) -> str:
    r"""Say where a file stands in a dataset, as text that an event can hold.

    Parameters
    ----------
    name : str
        Path relative to the dataset. Bytes of it that are no text come as surrogates, as Python
        reads file names; they are written as ``\xNN``. Of a path that is too long, a digest of all
        of it takes the place of its beginning.
    """
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    if len(text) <= MAX_RELPATH_CHARACTERS:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()[:_DIGEST_CHARACTERS]
    return f"{digest}~{text[len(digest) + 1 - MAX_RELPATH_CHARACTERS :]}"


def member_path(name: str, *, backslashes: bool = False) -> str:
    r"""Turn the name of an archive member into a path inside the dataset.

    Nothing is ever extracted to this path; it is refused nevertheless where it points out of the
    archive, since whoever made it meant harm, or a file of another place.

    Parameters
    ----------
    name : str
        As the archive has it, undecodable bytes as surrogates.
    backslashes : bool
        Whether ``\`` separates folders as well (zip made on Windows).

    Returns
    -------
    str
        Relative path of plain parts joined by ``/``; control characters and other text that is
        not for showing are written as ``\xNN``. Empty for the root folder itself.

    Raises
    ------
    IngestError
        ``unsafe-path`` for an absolute path, a drive, ``..`` or a NUL.
    """
    text = name.replace("\\", "/") if backslashes else name
    if "\0" in text:
        raise IngestError("unsafe-path", "the member's name holds a NUL")
    if text.startswith("/") or _DRIVE.match(text):
        raise IngestError("unsafe-path", "the member's path is absolute")
    parts = [part for part in text.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise IngestError("unsafe-path", "the member's path leads out of the archive")
    if len(parts) > _MAX_PARTS:
        raise IngestError("unsafe-path", f"the member lies in more than {_MAX_PARTS} folders")
    return dataset_path("/".join(map(_shown, parts))) if parts else ""


def zip_name(raw: bytes, *, utf8: bool) -> str:
    """Decode the name of a zip member (APPNOTE 4.4.17, appendix D).

    Parameters
    ----------
    raw : bytes
        As it stands in the header.
    utf8 : bool
        Whether the header says that it is UTF-8. Many tools write UTF-8 and do not say so; what
        is no UTF-8 is code page 437, in which every byte is a character.
    """
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("utf-8", "surrogateescape") if utf8 else raw.decode("cp437")


def _shown(part: str) -> str:
    if part.isascii() and part.isprintable():
        return part
    # Cc: control, Cf: direction marks and the like, Zl and Zp: line ends, Cn and Co: unknown.
    return "".join(_escaped(c) if _hidden(c) else c for c in part)


def _hidden(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cf", "Zl", "Zp", "Cn", "Co")


def _escaped(character: str) -> str:
    code = ord(character)
    return (
        f"\\x{code:02x}"
        if code < 0x100
        else f"\\u{code:04x}"
        if code < 0x10000
        else (f"\\U{code:08x}")
    )
