"""Event time of several logs: what a record's time is, and what can no longer come.

The rule, which makes a replay equal to the live run:

1. Every log (a partition) has a clock. It is the largest event time read from it so far, ticks
   among them, less the allowed disorder, and never runs back.
2. A record's *stamp* is its event time, or its log's clock where that is later. So a stamp depends
   on nothing but the log up to the record: not on the other logs, on batches or on the wall clock.
3. The watermark is the earliest of the clocks. No stamp to come lies before it; whatever is stamped
   before it is therefore complete, in whatever order the logs were read.

A tick that keeps its promise changes no stamp: it only lets the watermark go on, so a live run
that ticks a quiet log and a replay without those ticks agree on all versions. A tick whose promise
is broken afterwards (a gateway was cut off and sends an hour later) does change stamps; for a
replay to agree there too, ticks have to stand in the log that they tell of.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping


class Watermarks:
    """The clocks of a fixed set of logs.

    Parameters
    ----------
    sources : iterable of str
        Names of all logs that are read. One that says nothing holds everything back; tick it.
    disorder_us : int
        By how much a record may be older than one before it in its log and keep its own time.

    Raises
    ------
    ValueError
        Without sources, or if the disorder is negative.
    """

    def __init__(self, sources: Iterable[str], disorder_us: int) -> None:
        self._clocks: dict[str, int | None] = dict.fromkeys(sources)
        self._disorder_us = disorder_us
        if not self._clocks:
            msg = "name at least one source, such as the partitions of the topic"
            raise ValueError(msg)
        if disorder_us < 0:
            msg = f"the allowed disorder is a duration; {disorder_us} is negative"
            raise ValueError(msg)

    def stamp(self, source: str, at_us: int) -> int:
        """Take a record's event time; return its stamp, both in microseconds.

        Raises
        ------
        ValueError
            If the source was not named.
        """
        clock = self._clock(source)
        reached = at_us - self._disorder_us
        if clock is None or reached > clock:
            self._clocks[source] = reached
            return at_us
        return max(at_us, clock)

    def tick(self, source: str, at_us: int) -> None:
        """Take a tick: a record without content."""
        self.stamp(source, at_us)

    @property
    def low_us(self) -> int | None:
        """The watermark, microseconds; None until every source has told a time."""
        low: int | None = None
        for clock in self._clocks.values():
            if clock is None:
                return None
            if low is None or clock < low:
                low = clock
        return low

    @property
    def clocks(self) -> Mapping[str, int | None]:
        """Clock of each source, microseconds; the least are those that hold the others back."""
        return dict(self._clocks)

    def restore(self, clocks: Mapping[str, int | None]) -> None:
        """Set the clocks of known sources; one that is not among them starts anew."""
        for source in self._clocks:
            self._clocks[source] = clocks.get(source)

    def _clock(self, source: str) -> int | None:
        try:
            return self._clocks[source]
        except KeyError:
            names = ", ".join(sorted(self._clocks)[:8])
            msg = f"source {source!r} is not one of those given at the start: {names}"
            raise ValueError(msg) from None
