"""Who may push over HTTP: bearer tokens and passwords from a file."""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Iterable
from pathlib import Path

_HELP = "write one `bearer TOKEN` or `basic USER:PASSWORD` a line"


class CredentialsError(OSError):
    """A file of credentials cannot be used; the message says which line and what to write."""


class Credentials:
    """What a client may show in its Authorization header (RFC 6750, RFC 7617).

    Parameters
    ----------
    tokens : iterable of str
        Bearer tokens.
    passwords : iterable of str
        ``user:password`` each.
    """

    def __init__(self, tokens: Iterable[str] = (), passwords: Iterable[str] = ()) -> None:
        self._known = [("bearer", token.encode()) for token in tokens]
        self._known += [("basic", password.encode()) for password in passwords]

    @property
    def challenges(self) -> tuple[str, ...]:
        """WWW-Authenticate headers for who showed nothing that is known."""
        schemes = {scheme for scheme, _ in self._known}
        return tuple(f'{scheme.title()} realm="dicomweb"' for scheme in sorted(schemes))

    def accept(self, authorization: str) -> bool:
        """Whether an Authorization header shows one of them."""
        scheme, _, shown = authorization.strip().partition(" ")
        secret = shown.strip().encode("utf-8", "surrogateescape")
        scheme = scheme.lower()
        if scheme == "basic":
            try:
                secret = base64.b64decode(secret, validate=True)
            except binascii.Error:
                return False
        # All are compared, each in constant time: how long it takes tells nothing.
        matches = [
            scheme == known_scheme and hmac.compare_digest(secret, known)
            for known_scheme, known in self._known
        ]
        return any(matches)


def read_credentials(path: Path) -> Credentials:
    """Read a file of credentials: one ``bearer TOKEN`` or ``basic USER:PASSWORD`` a line.

    Parameters
    ----------
    path : Path
        The file; empty lines and those that begin with ``#`` are passed over.

    Raises
    ------
    CredentialsError
        If it cannot be read, or holds none, or another line.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        msg = f"the credentials cannot be read: {error}; {_HELP}"
        raise CredentialsError(msg) from error
    tokens, passwords = [], []
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        scheme, _, secret = text.partition(" ")
        secret = secret.strip()
        if scheme.lower() == "bearer" and secret and " " not in secret:
            tokens.append(secret)
        elif scheme.lower() == "basic" and ":" in secret:
            passwords.append(secret)
        else:
            msg = f"line {number} of {path} is no credential; {_HELP}"
            raise CredentialsError(msg)
    if not tokens and not passwords:
        msg = f"{path} holds no credential; {_HELP}"
        raise CredentialsError(msg)
    return Credentials(tokens, passwords)
