"""What the path of a file says of its modality."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from typing import Final

from streams.modality.cues import Cue, listed, weigh
from streams.modality.opinion import Opinion
from streams.modality.path_words import SCRIPTS, STEMS, SUFFIXES, WORDS, Said
from streams.modality.terms import TERM_SHARES
from streams.sniff import vocabulary
from streams.sniff.months import without_months

SIGNAL: Final = "path"

# Of a path the last parts count, each of them from its beginning.
_MAX_PARTS: Final = 8
_MAX_PART_CHARS: Final = 256
_MAX_CUES: Final = 24
# Each folder up says less than the one below it: data sets are named for more than they hold.
_FADING: Final = 0.8
# Names of tools, whose words are not about the picture.
_TOOLS = re.compile(r"tensor[-_ ]?flow|pytorch|flex[-_ ]?unet|efficient[-_ ]?net", re.IGNORECASE)

_ID_NUMBERS: Final = 3

# Spellings of the vocabulary that in a path are words of everyday, or titles of people.
_EVERYDAY: Final = listed(
    "mrs|art|map|maps|late|delay|space|vista|flash|lava|vibe|ideal|bravo|functional|mobile|portal|"
    "planning|simulation|navigator|survey|scout|topo|isotropic|standing|bilateral|mama|haut|pelle"
)

_SEPARATORS = re.compile(r"[^A-Za-z0-9]+")
_PIECE = re.compile(r"[Tt][12][A-Za-z]{0,2}(?![a-z])|[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[0-9]+")
# UIDs, digests, UUIDs and other machine-made names hold short words by chance.
_UID = re.compile(r"(?:[0-9]+\.){3,}[0-9]+")
_HEX = re.compile(r"(?=[0-9a-f-]*[0-9])(?=[0-9a-f-]*[a-f])[0-9a-f]{6,}(?:-[0-9a-f]+)*")
_DOUBLE_SUFFIX: Final = frozenset({".gz", ".bz2", ".xz", ".zst"})
_SUFFIX = re.compile(r"\.[A-Za-z][A-Za-z0-9]{0,4}")


def path_opinion(relpath: str) -> Opinion | None:
    """Read the words of a path.

    Parameters
    ----------
    relpath : str
        Path within the dataset, of folders and a file name; either slash separates them.

    Returns
    -------
    Opinion or None
        None where no word says anything: UIDs, numbers, digests and everyday words. The evidence
        names words of closed lists only, for a path may name a person.
    """
    parts = _parts(relpath)
    if not parts:
        return None
    cues: dict[str, Cue] = {}
    weight = 1.0
    for i, part in enumerate(reversed(parts)):
        for name, said in _said(part[:_MAX_PART_CHARS], is_file=i == 0):
            # The nearest of equal words counts.
            cues.setdefault(name, Cue(name, said.shares, said.floor, weight))
        weight *= _FADING
    return weigh(SIGNAL, tuple(cues.values())[:_MAX_CUES], "the path says: ")


def path_words(relpath: str) -> tuple[str, ...]:
    """Return the words of a path, case kept, without its suffix, UIDs and digests.

    They may name a person: look them up in closed lists, and keep nothing else.
    """
    parts = _parts(relpath)
    if parts:
        parts[-1] = _split_suffix(parts[-1])[0]
    return tuple(
        word
        for part in parts
        for run in _SEPARATORS.split(_cleaned(part[:_MAX_PART_CHARS]))
        for word in ([run] if run.isupper() else _PIECE.findall(run))
    )


def _parts(relpath: str) -> list[str]:
    # Looked at from its end: a path may be as long as a message.
    tail = relpath[-_MAX_PARTS * _MAX_PART_CHARS :]
    return [part for part in re.split(r"[/\\\\]+", tail) if part][-_MAX_PARTS:]


def _cleaned(part: str) -> str:
    return _TOOLS.sub(" ", _HEX.sub(" ", _UID.sub(" ", without_months(_fold(part)))))


def _said(part: str, *, is_file: bool) -> Iterator[tuple[str, Said]]:
    if is_file:
        part, suffix = _split_suffix(part)
        if suffix in SUFFIXES:
            yield suffix, SUFFIXES[suffix]
    text = _cleaned(part)
    words = [word for run in _SEPARATORS.split(text) if run for word in _words(run)]
    known = [False] * len(words)
    for i, word in enumerate(words):
        # Two words as one: ``chest x-ray``, ``pap smear``, ``bus uc``.
        both = word + words[i + 1] if i + 1 < len(words) else ""
        if len(both) > 3 and both in WORDS:
            yield both, WORDS[both]
            known[i] = known[i + 1] = True
        elif not known[i] and word in WORDS:
            yield word, WORDS[word]
            known[i] = True
        elif not known[i]:
            for stem, said in STEMS:
                if stem in word:
                    yield stem, said
                    known[i] = True
                    break
    # Two letters are too many things; the lists of words have those that are worth it.
    rest = " ".join(
        word
        for word, is_known in zip(words, known, strict=True)
        if not is_known and len(word) > 2 and word not in _EVERYDAY
    )
    for term in vocabulary.terms([rest]):
        if term in TERM_SHARES:
            shares, floor = TERM_SHARES[term]
            yield term, Said(shares, max(floor, 0.05))


def _split_suffix(name: str) -> tuple[str, str]:
    """Take off what may be a suffix: ``.nii.gz``, ``.dcm``, ``.svs``."""
    suffix = ""
    for _ in range(2):
        stem, dot, last = name.rpartition(".")
        found = f"{dot}{last}"
        if not stem or not _SUFFIX.fullmatch(found):
            break
        name, suffix = stem, found.lower()
        if suffix not in _DOUBLE_SUFFIX:
            break
    return name, suffix


def _words(run: str) -> Iterator[str]:
    """Split a run of letters and digits at its humps and between letters and digits."""
    whole = run.lower()
    if whole in WORDS:
        yield whole
        return
    pieces = [piece.lower() for piece in _PIECE.findall(run)]
    # A code with a number glued to it is one (``mri3d``, ``CT0012``); letters and digits in turns
    # are an identifier.
    if sum(piece.isdigit() for piece in pieces) < _ID_NUMBERS:
        yield from (piece for piece in pieces if not piece.isdigit())


def _fold(text: str) -> str:
    """Drop accents, keep case; put known words of other scripts into Latin letters."""
    if text.isascii():
        return text
    lowered = text.lower()
    for written, meant in SCRIPTS.items():
        if written in lowered:
            text = f"{text} {meant}"
    return unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode("ascii")
