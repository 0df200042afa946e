"""Walk over the elements of a DICOM data set, keeping the few that are wanted.

pydicom builds an object per element and reads every value; a header of 150 elements takes it
more than a millisecond. Here an element that nobody asked for costs one look at its eight or
twelve bytes, and its value is never read.
"""

from __future__ import annotations

from struct import Struct
from typing import Dict, Tuple, Union  # noqa: UP035 - recursive aliases are evaluated at run time

from streams.sniff.dicom.encoding import LONG_VRS, SHORT_VRS, UNDEFINED_LENGTH, Encoding
from streams.sniff.report import Report
from streams.sniff.result import SniffLimits
from streams.sniff.window import LimitReachedError, Window

Tree = Dict[int, Union[str, "Tree"]]  # noqa: UP006
"""Wanted elements by tag: a name to keep the value under, or the tree of a sequence's item."""

Found = Dict[str, Tuple[bytes, bytes]]  # noqa: UP006
"""Value representation (empty where none is written) and raw value, by name."""

_ITEM = 0xFFFEE000
_ITEM_DELIMITER = 0xFFFEE00D
_SEQUENCE_DELIMITER = 0xFFFEE0DD
_PER_FRAME_GROUPS = 0x52009230
_FIRST_PIXEL_TAG = 0x7FE00008
_PIXEL_TAGS = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})
_PAST_META = 0x00030000
_PAST_DATA = 0xFFFA0000


class _WalkError(Exception):
    """The walk ends here; facts so far are kept. Without a code it ends well."""

    def __init__(self, code: str = "", detail: str = "") -> None:
        super().__init__(code)
        self.code = code
        self.detail = detail


def _named(tag: int) -> str:
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X})"


class Walker:
    """One walk over one data set.

    Parameters
    ----------
    window : Window
        The file.
    encoding : Encoding
        How the data set is encoded.
    limits : SniffLimits
        Most elements, deepest nesting, longest value.
    """

    def __init__(self, window: Window, encoding: Encoding, limits: SniffLimits) -> None:
        order = "<" if encoding.little else ">"
        self._window = window
        self._explicit = encoding.explicit
        self._limits = limits
        self._count = 0
        self._explicit_head = Struct(order + "HH2sH").unpack_from
        self._implicit_head = Struct(order + "HHL").unpack_from
        self._long = Struct(order + "L").unpack_from
        self.found: Found = {}
        self._oversized: list[str] = []
        self._strays: set[str] = set()

    def file_meta(self, pos: int, tree: Tree, report: Report) -> int | None:
        """Walk over group 0002; return where the data set begins, ``None`` if it never does."""
        return self._guarded(pos, tree, report, stop_tag=_PAST_META)

    def data_set(self, pos: int, tree: Tree, report: Report) -> None:
        """Walk over the data set up to its pixels."""
        self._guarded(pos, tree, report, stop_tag=_FIRST_PIXEL_TAG)

    def _guarded(self, pos: int, tree: Tree, report: Report, *, stop_tag: int) -> int | None:
        after = None
        try:
            after = self._elements(
                pos, self._window.size, explicit=self._explicit, tree=tree, stop_tag=stop_tag
            )
        except _WalkError as stop:
            if stop.code:
                report.problem(stop.code, stop.detail)
        except LimitReachedError:
            report.problem("header-limit", "facts up to here are kept")
        for name in self._oversized:
            report.problem("oversized-value", name)
        for stray in sorted(self._strays):
            report.problem("malformed-header", f"{stray} among elements")
        return after

    def _too_deep(self) -> _WalkError:
        return _WalkError("depth-limit", f"sequences nest deeper than {self._limits.depth}")

    def _too_many(self) -> _WalkError:
        return _WalkError("element-limit", f"more than {self._limits.elements} elements")

    def _overrun(self, detail: str) -> _WalkError:
        # The end of an inflated beginning is our limit, not the sender's fault.
        if self._window.is_cut:
            return _WalkError("header-limit", "the inflated header is longer than the limit")
        return _WalkError("truncated", detail)

    def _elements(  # noqa: PLR0912, PLR0915 - one loop, kept flat because it is the hot one
        self, pos: int, end: int, *, explicit: bool, tree: Tree, stop_tag: int, depth: int = 0
    ) -> int:
        """Walk over elements from ``pos`` and return where they end.

        Ends at ``end``, at an item delimiter (below the top level), at ``stop_tag`` or later.
        """
        window = self._window
        data, base = window.data, window.base
        explicit_head, implicit_head, long = self._explicit_head, self._implicit_head, self._long
        most, value_limit = self._limits.elements, self._limits.value_bytes
        long_vrs, short_vrs, get_wanted = LONG_VRS, SHORT_VRS, tree.get
        # Copies of attributes, taken again after all that may change them. Where an element's head
        # can begin for all of it to be in the window; elements counted here and nowhere else yet.
        last, size, count = len(data) - 12, window.size, self._count
        while pos < end:
            count += 1
            if count > most:
                raise self._too_many()
            i = pos - base
            if i < 0 or i > last:
                window.load(pos, 12)
                data, base, size = window.data, window.base, window.size
                last = len(data) - 12
                i = 0
                if len(data) < 8:
                    if any(data):
                        raise self._overrun("the file ends inside an element's head")
                    break
            if explicit:
                group, element, vr, length = explicit_head(data, i)
                if vr in short_vrs:
                    value = pos + 8
                elif vr in long_vrs:
                    if i > last:
                        raise self._overrun("the file ends inside an element's head")
                    length = long(data, i + 8)[0]
                    value = pos + 12
                elif b"AA" <= vr <= b"ZZ":
                    value = pos + 8
                else:
                    # Delimiters, and writers that fall back to implicit in the middle.
                    length = long(data, i + 4)[0]
                    value = pos + 8
                    vr = b""
            else:
                group, element, length = implicit_head(data, i)
                value = pos + 8
                vr = b""
            tag = (group << 16) | element
            if tag >= stop_tag:
                if tag == _ITEM_DELIMITER and depth:
                    pos = value
                    break
                if self._ends_at(tag, value, length, stop_tag, depth):
                    break
            wanted = get_wanted(tag)
            if length == UNDEFINED_LENGTH:
                self._count = count
                pos = self._sequence(
                    tag, vr, value, length=length, explicit=explicit, wanted=wanted, depth=depth
                )
                data, base, size = window.data, window.base, window.size
                last, count = len(data) - 12, self._count
                continue
            pos = value + length
            if pos > size:
                left = max(size - value, 0)
                raise self._overrun(f"{_named(tag)} claims {length} bytes, {left} are left")
            if wanted is not None:
                if type(wanted) is str:
                    if length > value_limit:
                        self._oversized.append(wanted)
                    else:
                        j = value - base
                        raw = data[j : j + length]
                        if len(raw) < length:
                            raw = window.take(value, length)
                            data, base, size = window.data, window.base, window.size
                            last = len(data) - 12
                            if len(raw) < length:
                                raise self._overrun(f"the file ends inside {_named(tag)}")
                        self.found[wanted] = (vr, raw)
                elif length:
                    self._count = count
                    self._sequence(
                        tag, vr, value, length=length, explicit=explicit, wanted=wanted, depth=depth
                    )
                    data, base, size = window.data, window.base, window.size
                    last, count = len(data) - 12, self._count
            elif not tag and not length and not depth:
                # Zeros after the data set: padding to a block.
                break
        self._count = count
        return pos

    def _ends_at(self, tag: int, value: int, length: int, stop_tag: int, depth: int) -> bool:
        if depth:
            if tag in (_ITEM, _SEQUENCE_DELIMITER):
                raise _WalkError("malformed-header", f"{_named(tag)} among elements")
            return False
        if stop_tag == _PAST_META:
            return True
        if tag in _PIXEL_TAGS:
            window = self._window
            if length != UNDEFINED_LENGTH and value + length > window.size and not window.is_cut:
                left = max(window.size - value, 0)
                detail = f"{_named(tag)} claims {length} bytes, {left} are left"
                raise _WalkError("truncated", detail)
            return True
        if tag >> 16 == 0xFFFE:
            # An item or delimiter without its sequence: writers lose sequences, and what follows
            # is still good. An item is passed like an element.
            self._strays.add(_named(tag))
            return False
        return tag >= _PAST_DATA

    def _sequence(
        self,
        tag: int,
        vr: bytes,
        pos: int,
        *,
        length: int,
        explicit: bool,
        wanted: str | Tree | None,
        depth: int,
    ) -> int:
        """Pass a sequence, after a look into its first item if that is wanted."""
        if depth >= self._limits.depth:
            raise self._too_deep()
        if vr == b"UN":
            # PS3.5 section 6.2.2 note 2: items of unknown VR are implicit; not all writers know.
            explicit = explicit and self._is_explicit(pos + 8)
        undefined = length == UNDEFINED_LENGTH
        if isinstance(wanted, dict):
            head = self._window.take(pos, 8)
            if len(head) < 8:
                raise self._overrun(f"the file ends inside {_named(tag)}")
            group, element, item_length = self._implicit_head(head, 0)
            item = (group << 16) | element
            if item == _ITEM:
                inner = pos + 8
                open_item = item_length == UNDEFINED_LENGTH
                item_end = self._window.size if open_item else inner + item_length
                if item_end > self._window.size:
                    raise self._overrun(f"an item of {_named(tag)} claims {item_length} bytes")
                after = self._elements(
                    inner,
                    item_end,
                    explicit=explicit,
                    tree=wanted,
                    stop_tag=_ITEM,
                    depth=depth + 1,
                )
                pos = after if open_item else item_end
                if tag == _PER_FRAME_GROUPS and undefined:
                    # As long as the file has frames, and no wanted element comes after it.
                    raise _WalkError
            elif item != _SEQUENCE_DELIMITER:
                raise _WalkError("malformed-header", f"{_named(tag)} does not begin with an item")
        if not undefined:
            return pos
        return self._skip_sequence(pos, explicit)

    def _is_explicit(self, pos: int) -> bool:
        head = self._window.take(pos, 6)
        return len(head) == 6 and b"AA" <= head[4:6] <= b"ZZ" and head[5] <= 0x5A

    def _skip_sequence(self, pos: int, explicit: bool) -> int:  # noqa: PLR0912 - one state machine
        """Pass the items of a sequence of undefined length, however deep they nest.

        Not recursive: nesting is the sender's choice, the interpreter's stack is not.
        """
        window = self._window
        # One entry per open sequence (None) or open item (is it explicit?).
        open_levels: list[bool | None] = [None]
        modes = [explicit]
        while open_levels:
            self._count += 1
            if self._count > self._limits.elements:
                raise self._too_many()
            if len(open_levels) > 2 * self._limits.depth:
                raise self._too_deep()
            head = window.take(pos, 12)
            if len(head) < 8:
                raise self._overrun("the file ends inside a sequence")
            group, element, length = self._implicit_head(head, 0)
            tag = (group << 16) | element
            pos += 8
            if open_levels[-1] is None:
                if tag == _SEQUENCE_DELIMITER:
                    open_levels.pop()
                    modes.pop()
                elif tag != _ITEM:
                    raise _WalkError("malformed-header", f"{_named(tag)} between items")
                elif length == UNDEFINED_LENGTH:
                    open_levels.append(modes[-1])
                else:
                    pos += length
            elif tag == _ITEM_DELIMITER:
                open_levels.pop()
            elif group == 0xFFFE:
                raise _WalkError("malformed-header", f"{_named(tag)} among elements")
            else:
                mode = bool(open_levels[-1])
                vr = head[4:6]
                if mode and vr in LONG_VRS:
                    if len(head) < 12:
                        raise self._overrun("the file ends inside a sequence")
                    length = self._long(head, 8)[0]
                    pos += 4
                elif mode and b"AA" <= vr <= b"ZZ":
                    length = self._explicit_head(head, 0)[3]
                if length == UNDEFINED_LENGTH:
                    open_levels.append(None)
                    if mode and vr == b"UN":
                        mode = self._is_explicit(pos + 8)
                    modes.append(mode)
                else:
                    pos += length
            if pos > window.size:
                raise self._overrun("the file ends inside a sequence")
        return pos
