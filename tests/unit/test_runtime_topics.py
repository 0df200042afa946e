"""What is compared and counted about topics, without brokers."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from schemas import TOPICS
from streams.runtime.lag import lag_of
from streams.runtime.retry import Backoff
from streams.runtime.topics import missing_and_wrong

RIGHT = {name: topic.partitions for name, topic in TOPICS.items()}


def test_a_broker_that_has_everything_lacks_nothing() -> None:
    assert missing_and_wrong(TOPICS, RIGHT | {"a-topic-of-others": 3}) == ([], [])


def test_what_is_missing_and_what_is_wrong_are_told_apart() -> None:
    partitions = RIGHT | {"files-received": 3}
    del partitions["feedback"]
    missing, wrong = missing_and_wrong(TOPICS, partitions)
    assert [topic.name for topic in missing] == ["feedback"]
    assert wrong == ["files-received has 3 partitions, the table says 8"]


def test_an_empty_broker_lacks_all() -> None:
    assert missing_and_wrong(TOPICS, {}) == (list(TOPICS.values()), [])


def test_lag_is_what_lies_between_commit_and_end() -> None:
    ends = {("a", 0): 10, ("a", 1): 5, ("b", 0): 7}
    # -1 is how brokers say that nothing was committed.
    committed = {("a", 0): 4, ("a", 1): -1, ("c", 0): 99}
    assert lag_of(ends, committed) == {"a": 6 + 5, "b": 7}


places = st.tuples(st.sampled_from("abc"), st.integers(0, 3))


@given(
    st.dictionaries(places, st.integers(0, 1000)), st.dictionaries(places, st.integers(-1, 1000))
)
def test_lag_is_never_negative_and_never_more_than_there_is(
    ends: dict[tuple[str, int], int], committed: dict[tuple[str, int], int]
) -> None:
    lags = lag_of(ends, committed)
    assert set(lags) == {topic for topic, _ in ends}
    for topic, lag in lags.items():
        assert 0 <= lag <= sum(end for (name, _), end in ends.items() if name == topic)


@given(
    st.integers(),
    st.floats(0.001, 10),
    st.floats(0.001, 100),
    st.floats(1, 4),
)
def test_waits_grow_to_their_bound_and_stay_there(
    seed: int, initial: float, maximum: float, factor: float
) -> None:
    waits = Backoff(initial, maximum, factor).waits(random.Random(seed))
    bound = initial
    for _ in range(30):
        wait = next(waits)
        assert bound / 2 <= wait <= bound
        bound = min(bound * factor, maximum)
