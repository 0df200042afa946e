"""What every provider gives: a source of bytes that can be begun again in the middle."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from schemas.events import Source as Origin


class Source(Protocol):
    """One stream of bytes: a file or an archive.

    ``chunks`` may be called again and again; ``name``, ``size_bytes`` and ``validator`` are known
    when its first chunk has come.
    """

    @property
    def name(self) -> str:
        """File name that the other side gives it; empty if it gives none."""

    @property
    def media_type(self) -> str:
        """Media type that the other side claims; empty if it claims none."""

    @property
    def validator(self) -> str:
        """What stays the same as long as the bytes do; empty if the other side tells nothing."""

    def chunks(self, offset: int = 0, validator: str = "") -> Iterator[bytes]:
        """Read from an offset to the end.

        Parameters
        ----------
        offset : int
            Bytes to leave out.
        validator : str
            What the bytes before the offset were read with.

        Raises
        ------
        IngestError
            If it cannot be had.
        SourceAwayError
            If it cannot be had now.
        SourceChangedError
            If it is another one than that of the validator.
        """


@dataclass(frozen=True)
class Entry:
    """One thing to fetch, as a provider found it.

    Parameters
    ----------
    source : Source
        Its bytes.
    path : str
        Place in the dataset; empty for the source's own name at the root.
    origin : str
        How its files are said to have come when it is no archive.
    strip_parts : int
        Leading folders of member paths that are left out (a repository's archive has one).
    subfolder : str
        Only members below this folder are kept, and their paths begin there.
    unpack : bool
        Whether an archive is taken apart.
    """

    source: Source
    path: str = ""
    origin: Origin = "url"
    strip_parts: int = 0
    subfolder: str = ""
    unpack: bool = True


@dataclass(frozen=True)
class Asked:
    """What a request asks for, as providers see it.

    Parameters
    ----------
    url : str
        Where from.
    credentials_ref : str or None
        Name of a secret.
    """

    url: str
    credentials_ref: str | None = None


class Provider(Protocol):
    """Knows one kind of place to fetch from."""

    def serves(self, url: str) -> bool:
        """Whether a URL is of this kind."""

    def entries(self, asked: Asked) -> Iterator[Entry]:
        """Find what there is to fetch, always in the same order.

        Raises
        ------
        IngestError
            If the URL or credentials cannot be used.
        SourceAwayError
            If the other side cannot be asked now.
        """


Stop = Callable[[], bool]
