"""Every bound of a request, in one place."""

from __future__ import annotations

from dataclasses import dataclass

from streams.ingest.errors import LimitError


@dataclass(frozen=True)
class Limits:
    """What one request may cost.

    Parameters
    ----------
    file_bytes : int
        Largest file that is kept.
    download_bytes : int
        Most that is fetched.
    inflated_bytes : int
        Most that all decompressors of a request may give.
    ratio : float
        Most bytes out for one byte in, over the whole request.
    ratio_grace_bytes : int
        Inflated bytes from which on the ratio is looked at; small blank images compress well.
    members : int
        Most members of all archives of a request.
    depth : int
        Archives inside each other.
    bad_members : int
        Members that may be refused before the request is.
    request_seconds : float
        Longest time of a download.
    idle_seconds : float
        Longest wait for the next byte.
    slow_bytes_per_second, slow_window_seconds : float
        A peer that sends less than this over this long is given up.
    redirects : int
        Most redirects that are followed.
    """

    file_bytes: int = 8_000_000_000
    download_bytes: int = 2_000_000_000_000
    inflated_bytes: int = 4_000_000_000_000
    ratio: float = 200.0
    ratio_grace_bytes: int = 256 << 20
    members: int = 500_000
    depth: int = 4
    bad_members: int = 1000
    request_seconds: float = 86_400.0
    idle_seconds: float = 30.0
    slow_bytes_per_second: float = 1024.0
    slow_window_seconds: float = 30.0
    redirects: int = 10


class Budget:
    """What a request has cost so far.

    Parameters
    ----------
    limits : Limits
        What it may cost.
    members : int
        Members that earlier attempts have been through.
    """

    def __init__(self, limits: Limits, *, members: int = 0) -> None:
        self.limits = limits
        self.members = members
        self.fetched_bytes = 0
        self.inflated_bytes = 0

    def fetch(self, size_bytes: int) -> None:
        """Count bytes that came in.

        Raises
        ------
        LimitError
            If there were too many.
        """
        self.fetched_bytes += size_bytes
        if self.fetched_bytes > self.limits.download_bytes:
            raise LimitError(
                "download-too-large",
                f"more than {self.limits.download_bytes} bytes came; "
                "see BIODATAMINE_INGEST_MAX_DOWNLOAD_BYTES",
            )

    def inflate(self, size_bytes: int) -> None:
        """Count bytes that a decompressor gave.

        Raises
        ------
        LimitError
            If there were too many, or too many for what came in.
        """
        self.inflated_bytes += size_bytes
        limits = self.limits
        if self.inflated_bytes > limits.inflated_bytes:
            raise LimitError(
                "too-large-unpacked",
                f"more than {limits.inflated_bytes} bytes when unpacked; "
                "see BIODATAMINE_INGEST_MAX_UNPACKED_BYTES",
            )
        if (
            self.inflated_bytes > limits.ratio_grace_bytes
            and self.inflated_bytes > limits.ratio * max(self.fetched_bytes, 1)
        ):
            raise LimitError(
                "compression-bomb",
                f"unpacks to more than {limits.ratio:.0f} times its size; "
                "see BIODATAMINE_INGEST_MAX_RATIO if it is sound",
            )

    def member(self) -> None:
        """Count a member of an archive.

        Raises
        ------
        LimitError
            If there were too many.
        """
        self.members += 1
        if self.members > self.limits.members:
            raise LimitError(
                "too-many-members",
                f"more than {self.limits.members} members; "
                "see BIODATAMINE_INGEST_MAX_MEMBERS, or split the archive",
            )
