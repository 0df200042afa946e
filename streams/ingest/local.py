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
        If the URL is of another kind, or the file is absent, outside, or not a regular file. Of
        what lies outside, the answer does not tell whether it exists.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        raise IngestError("unsupported-url", "not a URL; file:///PATH is served") from None
    if parts.scheme != "file" or parts.netloc not in ("", "localhost"):
        raise IngestError("unsupported-url", "file:///PATH is served, no other scheme or host")
    raw = unquote(parts.path)
    if "\0" in raw or not raw.startswith("/"):
        raise IngestError("unsupported-url", "the path is not absolute, or holds a NUL")
    try:
        path = Path(raw).resolve()
        allowed = any(path.is_relative_to(root.resolve()) for root in roots)
    except (OSError, RuntimeError):
        allowed = False
    if not allowed:
        raise IngestError(
            "outside-roots", "the file is in no allowed folder; see BIODATAMINE_INGEST_ROOTS"
        )
    try:
        path = path.resolve(strict=True)
        regular = path.is_file()
    except (OSError, RuntimeError) as error:
        raise IngestError(
            "not-found", f"the file cannot be found ({type(error).__name__})"
        ) from None
    if not regular:
        raise IngestError("not-a-file", "the path is not a regular file")
    return path
