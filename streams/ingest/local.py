"""Files of this machine, from folders that the operator has allowed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit


class IngestError(Exception):
    """A request that cannot be served.

    Parameters
    ----------
    reason : str
        Short stable code; it becomes the dead letter's reason.
    detail : str
        What is wrong and what to do.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


def resolve(url: str, roots: Sequence[Path]) -> Path:
    """Find the regular file that a ``file://`` URL names, under an allowed folder.

    Parameters
    ----------
    url : str
        ``file:///...``.
    roots : sequence of Path
        Allowed folders.

    Returns
    -------
    Path
        The file, with every symbolic link followed, so that what was checked is what is read.

    Raises
    ------
    IngestError
        If the URL is of another kind, or the file is absent, outside, or not a regular file.
    """
    parts = urlsplit(url)
    if parts.scheme != "file" or parts.netloc not in ("", "localhost"):
        raise IngestError("unsupported-url", f"{parts.scheme or 'no'} scheme; file:// is served")
    raw = unquote(parts.path)
    if "\0" in raw:
        raise IngestError("unsupported-url", "the path holds a NUL")
    try:
        path = Path(raw).resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise IngestError(
            "not-found", f"the file cannot be found ({type(error).__name__})"
        ) from None
    if not any(path.is_relative_to(root.resolve()) for root in roots):
        raise IngestError(
            "outside-roots", "the file is in no allowed folder; see BIODATAMINE_INGEST_ROOTS"
        )
    if not path.is_file():
        raise IngestError("not-a-file", "the path is not a regular file")
    return path
