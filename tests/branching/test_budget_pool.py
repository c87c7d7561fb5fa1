from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from entcent_agents.branching import BudgetPool, allocate
from entcent_agents.errors import ConfigurationError


def test_what_easy_tasks_left_goes_to_saturated_ones_in_equal_parts():
    assert allocate({"a": 1, "b": 8, "c": 8, "d": 2}, 8) == {"b": 7, "c": 6}  # 7 and 6 were left


def test_nobody_gets_more_than_twice_the_maximum_in_all():
    assert allocate({"a": 1, "b": 1, "c": 4}, 4) == {"c": 4}


def test_with_labels_unsolved_tasks_draw_whether_saturated_or_not():
    assert allocate({"a": 8, "b": 8, "c": 3, "d": 5}, 8, unsolved={"c", "b"}) == {"b": 4, "c": 4}


@pytest.mark.parametrize("used", [{}, {"a": 3}, {"a": 8, "b": 8}])
def test_where_nothing_is_left_or_nobody_draws_nothing_is_given(used):
    assert allocate(used, 8) == {}


@settings(deadline=None)
@given(st.integers(1, 9), st.data())
def test_no_more_is_given_than_was_left_nobody_gets_beyond_the_cap_and_parts_are_equal(maximum, data):
    used = dict(enumerate(data.draw(st.lists(st.integers(0, maximum), max_size=8))))
    unsolved = data.draw(st.none() | st.sets(st.sampled_from(sorted(used)))) if used else None
    given = allocate(used, maximum, unsolved=unsolved)
    left = maximum * len(used) - sum(used.values())
    drawing = [task for task in used if (used[task] == maximum if unsolved is None else task in unsolved)]
    assert set(given) <= set(drawing)
    assert sum(given.values()) == min(left, maximum * len(drawing))
    assert all(1 <= rollouts <= maximum and used[task] + rollouts <= 2 * maximum for task, rollouts in given.items())
    parts = [given.get(task, 0) for task in drawing]
    assert max(parts, default=0) - min(parts, default=0) <= 1


@pytest.mark.parametrize(
    ("used", "maximum", "unsolved", "named"),
    [
        ({"a": 9}, 8, None, "used"),
        ({"a": -1}, 8, None, "used"),
        ({"a": 1}, 0, None, "maximum"),
        ({"a": 1}, 8, {"b"}, "unsolved"),
    ],
)
def test_what_cannot_have_been_is_refused(used, maximum, unsolved, named):
    with pytest.raises(ConfigurationError, match=named):
        allocate(used, maximum, unsolved=unsolved)


def test_a_request_borrows_what_others_left_and_at_most_as_many_as_it_had():
    pool = BudgetPool(capacity=100)
    hard = pool.request(4)
    assert hard.borrow(4) == 0
    for _ in range(3):
        pool.request(8).settle(used=5)
    assert pool.balance == 9
    assert [hard.borrow(3), hard.borrow(3)] == [3, 1]
    assert (hard.allowed, pool.balance) == (8, 5)
    hard.settle(used=6)
    assert pool.balance == 7
    hard.settle(used=0)  # it is over
    assert (hard.borrow(1), pool.balance) == (0, 7)


def test_what_is_left_over_beyond_the_capacity_is_lost():
    pool = BudgetPool(capacity=3)
    pool.request(8).settle(used=1)
    assert pool.balance == 3
    assert pool.request(8).borrow(8) == 3


def test_more_than_was_allowed_cannot_have_been_used():
    with pytest.raises(ConfigurationError, match="used=9"):
        BudgetPool(capacity=3).request(8).settle(used=9)
    with pytest.raises(ConfigurationError, match="wanted"):
        BudgetPool(capacity=3).request(8).borrow(-1)


@settings(deadline=None)
@given(
    st.integers(0, 12),
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["borrow", "settle"]), st.integers(0, 10)), max_size=20),
)
def test_a_pool_lends_no_more_than_was_left_and_is_never_negative_or_over_full(capacity, steps):
    pool, maximum = BudgetPool(capacity), 5
    requests = [pool.request(maximum) for _ in range(4)]
    used: dict[int, int] = {}
    for who, step, number in steps:
        if step == "borrow":
            assert requests[who].borrow(number) <= number
        else:
            used.setdefault(who, min(number, requests[who].allowed))
            requests[who].settle(min(number, requests[who].allowed))
        assert 0 <= pool.balance <= capacity
        assert all(request.allowed <= 2 * maximum for request in requests)
        committed = sum(used.get(i, request.allowed) for i, request in enumerate(requests))
        assert committed + pool.balance <= 4 * maximum


def test_threads_that_borrow_at_once_never_get_more_than_there_is():
    pool = BudgetPool(capacity=1000)
    pool.deposit(1000)
    with ThreadPoolExecutor(8) as threads:
        granted = list(threads.map(lambda _: sum(pool.lend(1) for _ in range(200)), range(8)))
    assert (sum(granted), pool.balance) == (1000, 0)
