"""What a reader of an archive says of its members."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from streams.ingest.errors import IngestError, LimitError

Kind = Literal["file", "folder", "refused"]


@dataclass
class Member:
    r"""One member of an archive; its bytes must be read before the next one is asked for.

    Parameters
    ----------
    name : str
        As the archive has it, undecodable bytes as surrogates.
    kind : str
        ``file``, ``folder``, or ``refused`` with the reason in ``fault``.
    chunks : iterator of bytes
        The bytes; raises ``IngestError`` where they are damaged.
    backslashes : bool
        Whether ``\`` separates folders in the name.
    fault : IngestError or None
        Why it is refused.
    """

    name: str
    kind: Kind
    chunks: Iterator[bytes]
    backslashes: bool = False
    fault: IngestError | None = None


def drain(chunks: Iterator[bytes]) -> None:
    """Read what is left of a member, so that the next one can be found.

    Raises
    ------
    LimitError
        If the request costs too much. Damage does not matter here: whoever wanted the bytes has
        met it, and the next member tells whether the archive goes on.
    """
    try:
        for _ in chunks:
            pass
    except LimitError:
        raise
    except IngestError:
        return
