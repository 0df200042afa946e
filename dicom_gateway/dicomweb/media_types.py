"""Media types of HTTP headers: Content-Type with its parameters, and the choice by Accept."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

MAX_HEADER_CHARACTERS = 4096
"""Of one Content-Type or Accept; real ones have some hundred."""

_WORD = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_NAME = re.compile(rf"\s*({_WORD}/{_WORD})\s*")
# Unquoted values may hold more than tokens: ``type=application/dicom`` is what many clients send.
_PARAMETER = re.compile(rf';\s*(?:({_WORD})\s*=\s*("(?:[^"\\]|\\.)*"|[^;"\s]*)\s*)?')
_LIST_ITEM = re.compile(r'(?:[^,"]|"(?:[^"\\]|\\.)*")+')


@dataclass(frozen=True)
class MediaType:
    """A media type (RFC 9110 section 8.3.1).

    Parameters
    ----------
    name : str
        ``type/subtype`` in lower case.
    parameters : mapping
        Values by name; names in lower case, values unquoted.
    """

    name: str
    parameters: Mapping[str, str] = field(default_factory=dict)


def parse_media_type(text: str) -> MediaType:
    """Read a media type.

    Parameters
    ----------
    text : str
        As a header holds it. Of a parameter that comes twice the first counts.

    Raises
    ------
    ValueError
        If it is none.
    """
    if len(text) > MAX_HEADER_CHARACTERS:
        msg = "the media type is too long"
        raise ValueError(msg)
    found = _NAME.match(text)
    if found is None:
        msg = "there is no media type"
        raise ValueError(msg)
    parameters: dict[str, str] = {}
    offset = found.end()
    while offset < len(text):
        parameter = _PARAMETER.match(text, offset)
        if parameter is None:
            msg = "the parameters of the media type cannot be read"
            raise ValueError(msg)
        if parameter[1] is not None:
            parameters.setdefault(parameter[1].lower(), _unquoted(parameter[2]))
        offset = parameter.end()
    return MediaType(found[1].lower(), parameters)


def choose(accept: str, offered: Sequence[str]) -> str | None:
    """Choose by an Accept header (RFC 9110 section 12.5.1).

    Parameters
    ----------
    accept : str
        The header; empty accepts everything. What cannot be read in it is passed over.
    offered : sequence of str
        Names of media types, the best first.

    Returns
    -------
    str or None
        None if none of them is acceptable.
    """
    if not accept.strip():
        return offered[0]
    ranges = list(_ranges(accept[:MAX_HEADER_CHARACTERS]))
    best, best_weight = None, 0.0
    for name in offered:
        weight = _weight(name, ranges)
        if weight > best_weight:
            best, best_weight = name, weight
    return best


def _ranges(accept: str) -> list[tuple[str, float]]:
    found = []
    for item in _LIST_ITEM.findall(accept):
        try:
            media_type = parse_media_type(item)
            weight = float(media_type.parameters.get("q", "1"))
        except ValueError:
            continue
        found.append((media_type.name, weight))
    return found


def _weight(name: str, ranges: list[tuple[str, float]]) -> float:
    # The most specific range decides, wherever it stands.
    for wanted in (name, name.partition("/")[0] + "/*", "*/*"):
        weights = [weight for item, weight in ranges if item == wanted]
        if weights:
            return max(weights)
    return 0.0


def _unquoted(text: str) -> str:
    if not text.startswith('"'):
        return text
    return re.sub(r"\\(.)", r"\1", text[1:-1])
