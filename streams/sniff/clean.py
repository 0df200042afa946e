"""Text from a header, reduced to what may leave the blob."""

from __future__ import annotations

import re
import unicodedata

MAX_CODE_CHARS = 64

_NOT_CODE_STRING = re.compile(r"[^A-Z0-9_ .+/-]+")
_NOT_NAME = re.compile(r"[^A-Za-z0-9_ .,:+/()&%*-]+")
_SPACES = re.compile(r" {2,}")


def _ascii(text: str) -> str:
    if text.isascii():
        return text
    return unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode("ascii")


def code_string(text: str) -> str:
    """Clean a coded term (value representation CS, PS3.5 section 6.2) to upper case.

    Characters that no code has are dropped; the length is bounded to 64.
    """
    kept = _NOT_CODE_STRING.sub("", _ascii(text).upper())
    return _SPACES.sub(" ", kept).strip()[:MAX_CODE_CHARS].rstrip()


def product_name(text: str) -> str:
    """Clean the name of a product or a maker: letters, digits, spaces and light punctuation."""
    kept = _NOT_NAME.sub("", _ascii(text))
    return _SPACES.sub(" ", kept).strip()[:MAX_CODE_CHARS].rstrip()


def identity(text: str) -> str:
    """Bring an identity to one spelling before it is hashed: no control characters or padding."""
    if text.isascii() and text.isprintable():
        return text.strip()
    kept = "".join(char for char in text if char.isprintable())
    return unicodedata.normalize("NFC", kept).strip()
