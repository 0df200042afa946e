"""The set of instances of a series, small in memory, and its hash."""

from __future__ import annotations

import base64
import hashlib
from typing import Final

_UID_BYTES: Final = 16
_MEMBER_BYTES: Final = 32
_PAIR_BYTES: Final = _UID_BYTES + _MEMBER_BYTES


class Members:
    """The instances of a series: SOP Instance UIDs, each with the bytes that came under it.

    Kept as digests, some 200 bytes an instance. The *member digest* of an instance is SHA-256 of
    its SOP Instance UID, the byte 0x1F and its image_id, all ASCII. Other bytes under the same UID
    are a second member.
    """

    def __init__(self) -> None:
        self._by_uid: dict[bytes, bytes] = {}
        self._count = 0

    def add(self, instance_uid: str, image_id: str) -> bool:
        """Add an instance; return whether it was not there yet."""
        uid, member = _digests(instance_uid, image_id)
        known = self._by_uid.get(uid)
        if known is None:
            self._by_uid[uid] = member
        elif _holds(known, member):
            return False
        else:
            self._by_uid[uid] = known + member
        self._count += 1
        return True

    def holds(self, instance_uid: str, image_id: str) -> bool:
        """Tell whether an instance with these bytes is among them."""
        uid, member = _digests(instance_uid, image_id)
        return _holds(self._by_uid.get(uid, b""), member)

    @property
    def instance_count(self) -> int:
        """Distinct SOP Instance UIDs."""
        return len(self._by_uid)

    @property
    def member_count(self) -> int:
        """Distinct pairs of SOP Instance UID and bytes."""
        return self._count

    @property
    def set_hash(self) -> str:
        """SHA-256, hex, of the member digests in ascending order, one after the other.

        It depends on the set alone, and ClickHouse can make it again from the rows.
        """
        digests = sorted(_split(b"".join(self._by_uid.values())))
        return hashlib.sha256(b"".join(digests)).hexdigest()

    def pack(self) -> str:
        """Return the set as text, 64 characters an instance, always the same for the same set."""
        pairs = [
            uid + member for uid, members in self._by_uid.items() for member in _split(members)
        ]
        return base64.b64encode(b"".join(sorted(pairs))).decode("ascii")

    @classmethod
    def unpack(cls, text: str) -> Members:
        """Return the set that ``pack`` wrote.

        Raises
        ------
        ValueError
            If the text is of something else.
        """
        data = base64.b64decode(text, validate=True)
        if len(data) % _PAIR_BYTES:
            msg = f"packed members take {_PAIR_BYTES} bytes each; these are {len(data)} bytes"
            raise ValueError(msg)
        members = cls()
        for start in range(0, len(data), _PAIR_BYTES):
            uid = data[start : start + _UID_BYTES]
            member = data[start + _UID_BYTES : start + _PAIR_BYTES]
            members._by_uid[uid] = members._by_uid.get(uid, b"") + member
            members._count += 1
        return members


def _digests(instance_uid: str, image_id: str) -> tuple[bytes, bytes]:
    # image_id has a fixed length, so no two pairs are written alike.
    uid = instance_uid.encode()
    member = hashlib.sha256(uid + b"\x1f" + image_id.encode())
    return hashlib.sha256(uid).digest()[:_UID_BYTES], member.digest()


def _split(members: bytes) -> list[bytes]:
    return [members[i : i + _MEMBER_BYTES] for i in range(0, len(members), _MEMBER_BYTES)]


def _holds(members: bytes, member: bytes) -> bool:
    return len(members) > 0 and member in _split(members)
