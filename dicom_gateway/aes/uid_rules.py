"""Rules over SOP classes and transfer syntaxes, in the words that operators use for them.

A UID may be written as a number (``1.2.840.10008.5.1.4.1.1.2``), as its keyword
(``CTImageStorage``), as its name in PS3.6 annex A (``CT Image Storage``), or as a group of them
(``images``). Case, spaces and punctuation in words make no difference, except between the keyword
``JPEG2000``, one transfer syntax, and the group ``jpeg-2000``.
"""

from __future__ import annotations

import difflib
import re
from enum import Enum
from functools import cached_property
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, field_validator
from pydicom._uid_dict import UID_dictionary

_DICOM_ROOT = "1.2.840.10008."
_PRIVATE = "private"
_UID = re.compile(r"(?=.{3,64}\Z)[0-2](\.(0|[1-9]\d*))+\Z")

_UNCOMPRESSED = (
    r"ImplicitVRLittleEndian|ExplicitVR(Little|Big)Endian|Encapsulated.*|Papyrus.*|SMPTE.*"
)

# Patterns of keywords (PS3.6 annex A) that make up a group.
_SOP_CLASS_GROUPS = {
    "images": r"(?!StoredPrint).*(Image|Photography|EnFace|Pyramidal|USVolume|2DAIT|3DAIT).*",
    "structured-reports": r".*(SR|Report)Storage(Trial)?|KeyObjectSelection.*|ProcedureLog.*",
    "presentation-states": r".*PresentationState.*",
    "segmentations": r".*Segmentation(?!.*Presentation).*",
    "waveforms": r".*Waveform(?!Annotation).*",
    "radiotherapy": r"RT.*|Enhanced(Continuous)?RT.*|Tomotherapeutic.*|CArm.*|Robotic.*",
    "documents": r"Encapsulated.*",
    "raw-data": r"RawDataStorage",
}
_TRANSFER_SYNTAX_GROUPS = {
    "uncompressed": _UNCOMPRESSED,
    "compressed": rf"(?!({_UNCOMPRESSED})$).*",
    "deflated": r"Deflated.*",
    "jpeg": r"JPEG(?!LS|2000|XL).*",
    "jpeg-ls": r"JPEGLS.*",
    "jpeg-2000": r"JPEG2000.*",
    "jpeg-xl": r"JPEGXL.*",
    "htj2k": r"HTJ2K.*",
    "rle": r"RLE.*",
    "video": r"(MPEG|HEVC).*",
}
# In PS3.6 since 2024, later than the dictionary of pydicom 3.0.
_NEW_TRANSFER_SYNTAXES = {
    "1.2.840.10008.1.2.4.110": ("JPEG XL Lossless", "JPEGXLLossless"),
    "1.2.840.10008.1.2.4.111": ("JPEG XL JPEG Recompression", "JPEGXLJPEGRecompression"),
    "1.2.840.10008.1.2.4.112": ("JPEG XL", "JPEGXL"),
    "1.2.840.10008.1.2.8.1": (
        "Deflated Image Frame Compression",
        "DeflatedImageFrameCompression",
    ),
}


class Verdict(Enum):
    """What becomes of an instance that is not refused."""

    STORE = "store"
    IGNORE = "ignore"


class Vocabulary:
    """The words for one kind of UID.

    Parameters
    ----------
    what : str
        Name of the kind, for messages.
    words : dict of str to tuple of str
        UID -> its name and keyword.
    groups : dict of str to str
        Group -> pattern that the keywords of its members match.
    """

    def __init__(
        self, what: str, words: dict[str, tuple[str, str]], groups: dict[str, str]
    ) -> None:
        self.what = what
        self.groups = {
            group: frozenset(
                uid for uid, (_, keyword) in words.items() if re.fullmatch(pattern, keyword)
            )
            for group, pattern in groups.items()
        }
        self._exact = {word: uid for uid, both in words.items() for word in both if word}
        self._uids = {_plain(word): uid for word, uid in self._exact.items()}
        self._groups = {_plain(group): group for group in self.groups}
        self._spellings = {_plain(word): word for _, word in words.values()}
        for group in (*groups, _PRIVATE):
            self._spellings.setdefault(_plain(group), group)

    def resolve(self, word: str) -> frozenset[str]:
        """Find the UIDs that a word stands for; nothing for ``private``, which is no list.

        Raises
        ------
        ValueError
            If it is no UID and no such word is known; the message names similar ones.
        """
        if _UID.match(word):
            return frozenset((word,))
        if word in self._exact:
            return frozenset((self._exact[word],))
        if word in self.groups:
            return self.groups[word]
        plain = _plain(word)
        if plain in self._groups and plain in self._uids:
            msg = (
                f'"{word}" may mean the group {self._groups[plain]} or one {self.what}; write '
                f'"{self._groups[plain]}" or "{self._spellings[plain]}"'
            )
            raise ValueError(msg)
        if plain == _PRIVATE:
            return frozenset()
        if plain in self._groups:
            return self.groups[self._groups[plain]]
        if plain in self._uids:
            return frozenset((self._uids[plain],))
        near = difflib.get_close_matches(plain, self._spellings, n=3, cutoff=0.6)
        hint = (
            f"did you mean {' or '.join(self._spellings[found] for found in near)}?"
            if near
            else f"write a UID, a keyword of PS3.6 annex A, or one of the groups "
            f"{', '.join((*self.groups, _PRIVATE))}"
        )
        msg = f'"{word[:80]}" is no {self.what}; {hint}'
        raise ValueError(msg)


def _plain(word: str) -> str:
    return re.sub(r"[^a-z0-9]", "", word.lower())


def _words(kinds: tuple[str, ...], keyword: str) -> dict[str, tuple[str, str]]:
    return {
        str(uid): (str(entry[0]), str(entry[4]))
        for uid, entry in UID_dictionary.items()
        if entry[1] in kinds and entry[4] and re.search(keyword, entry[4])
    }


SOP_CLASSES = Vocabulary(
    "storage SOP class",
    _words(("SOP Class",), r"^(?!MediaStorageDirectory|StorageCommitment).*Storage"),
    _SOP_CLASS_GROUPS,
)
TRANSFER_SYNTAXES = Vocabulary(
    "transfer syntax",
    {**_words(("Transfer Syntax",), ""), **_NEW_TRANSFER_SYNTAXES},
    _TRANSFER_SYNTAX_GROUPS,
)


class UidRules(BaseModel):
    """Which UIDs are stored, which are answered with Success and dropped, and which refused.

    ``ignore`` is asked first. What it does not name is stored if ``allow`` names it or is empty,
    and refused otherwise.

    Parameters
    ----------
    allow, ignore : tuple of str
        UIDs, keywords, names or groups; ``private`` is every UID outside DICOM's own root
        ``1.2.840.10008``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    vocabulary: ClassVar[Vocabulary]

    allow: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()

    @field_validator("allow", "ignore")
    @classmethod
    def _known(cls, words: tuple[str, ...]) -> tuple[str, ...]:
        for word in words:
            cls.vocabulary.resolve(word)
        return words

    @cached_property
    def _allowed(self) -> frozenset[str]:
        return frozenset().union(*map(self.vocabulary.resolve, self.allow))

    @cached_property
    def _ignored(self) -> frozenset[str]:
        return frozenset().union(*map(self.vocabulary.resolve, self.ignore))

    @cached_property
    def _allows_private(self) -> bool:
        return any(_plain(word) == _PRIVATE for word in self.allow)

    @cached_property
    def _ignores_private(self) -> bool:
        return any(_plain(word) == _PRIVATE for word in self.ignore)

    def judge(self, uid: str) -> Verdict | None:
        """Decide over one UID; None means that it is refused."""
        is_private = not uid.startswith(_DICOM_ROOT)
        if uid in self._ignored or (is_private and self._ignores_private):
            return Verdict.IGNORE
        if not self.allow or uid in self._allowed or (is_private and self._allows_private):
            return Verdict.STORE
        return None


class SopClassRules(UidRules):
    """Rules over storage SOP classes."""

    vocabulary = SOP_CLASSES


class TransferSyntaxRules(UidRules):
    """Rules over transfer syntaxes."""

    vocabulary = TRANSFER_SYNTAXES
