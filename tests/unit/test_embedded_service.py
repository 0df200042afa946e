from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.embedded.errors import StackError
from deploy.embedded.service import RestartBudget, RestartPolicy, ServiceSpec, start_levels


def spec(name: str, *depends_on: str, restarts: tuple[str, ...] = ()) -> ServiceSpec:
    return ServiceSpec(
        name=name, argv=("true",), env={}, depends_on=depends_on, restart_dependents=restarts
    )


def test_levels_put_what_is_needed_first() -> None:
    levels = start_levels(
        [spec("worker", "broker", "clickhouse"), spec("broker"), spec("clickhouse"), spec("triton")]
    )
    assert levels == [["broker", "clickhouse", "triton"], ["worker"]]


@given(st.lists(st.sets(st.integers(0, 30)), max_size=12), st.randoms())
def test_every_acyclic_stack_has_an_order(wanted: list[set[int]], random: object) -> None:
    # A service may depend on any that precedes it, so there is no cycle.
    specs = [
        spec(str(i), *(str(other) for other in others if other < i))
        for i, others in enumerate(wanted)
    ]
    random.shuffle(specs)  # type: ignore[attr-defined]
    place = {name: i for i, level in enumerate(start_levels(specs)) for name in level}
    assert set(place) == {each.name for each in specs}
    assert all(place[other] < place[each.name] for each in specs for other in each.depends_on)


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        ([spec("a", "b"), spec("b", "a")], "wait for each other: a, b"),
        ([spec("a", "b")], "a refers to b"),
        ([spec("a", restarts=("b",))], "a refers to b"),
        ([spec("a"), spec("a")], "two services are named a"),
    ],
)
def test_impossible_orders_are_refused(specs: list[ServiceSpec], message: str) -> None:
    with pytest.raises(StackError, match=message):
        start_levels(specs)


POLICY = RestartPolicy(
    max_restarts=3, window_seconds=60, backoff_seconds=0.5, backoff_max_seconds=1.5
)


def test_backoff_doubles_up_to_its_maximum_then_gives_up() -> None:
    budget = RestartBudget(POLICY)
    delays = []
    for now in (0.0, 1.0, 2.0, 3.0):
        budget.became_ready()
        delays.append(budget.died(now))
    assert delays == [0.5, 1.0, 1.5, None]


def test_deaths_far_apart_are_forgiven() -> None:
    budget = RestartBudget(POLICY)
    for i in range(100):
        budget.became_ready()
        assert budget.died(61.0 * i) == 0.5


def test_a_service_that_never_becomes_ready_is_given_up_however_slow_it_is() -> None:
    budget = RestartBudget(POLICY)
    assert [budget.died(1000.0 * i) is None for i in range(4)] == [False, False, False, True]
