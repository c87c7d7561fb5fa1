"""How many rollouts a round may begin, and which index each has."""

from __future__ import annotations

from entcent_agents.branching import BudgetPool
from entcent_agents.branching.pool import PooledRequest
from entcent_agents.rollouts.places import Places


def account(balance: int, n: int = 4) -> PooledRequest:
    pool = BudgetPool(64)
    pool.deposit(balance)
    return pool.request(n)


def test_own_places_are_taken_first_and_no_more_is_lent_than_is_there():
    places = Places(range(4), range(4, 8), account=account(2))
    assert places.room == 6
    assert [places.take(3), places.take(2), places.take(5)] == [[0, 1, 2], [3, 4], [5]]
    assert (places.room, places.begun) == (0, 6)


def test_nothing_is_borrowed_while_there_are_places_of_its_own():
    own = account(4)
    Places(range(4), range(4, 8), account=own).take(4)
    assert own.allowed == 4


def test_a_request_that_the_budget_limits_borrows_no_more_than_that():
    own = account(4)
    places = Places(range(4), range(4, 5), account=own)
    assert (places.room, places.take(8), own.allowed) == (5, [0, 1, 2, 3, 4], 5)


def test_a_place_that_was_given_back_is_taken_again_before_another_is_lent():
    own = account(4)
    places = Places(range(4), range(4, 8), account=own)
    places.take(5)
    places.give_back(2)
    assert (places.begun, places.take(1), own.allowed) == (4, [2], 5)


def test_what_another_process_began_has_its_place_and_is_not_lent_again():
    own = account(4)
    places = Places(range(4), range(4, 8), account=own)
    places.take(1)
    places.take_up({1, 2, 3, 5})
    assert (places.begun, places.untaken, own.allowed) == (5, [4, 6, 7], 4)
    assert places.take(9) == [4, 6, 7]


async def test_only_a_request_that_used_all_its_own_asks_for_further_ones():
    async def five(begun: int) -> int:
        asked.append(begun)
        return 5

    asked: list[int] = []
    places = Places(range(3), range(3, 6), further=five)
    places.take(2)
    assert await places.further(2) == []
    places.take(1)
    assert await places.further(2) == [3, 4]
    assert (asked, places.take(9)) == ([3], [5])  # the rest is for branches


async def test_what_was_lent_before_a_crash_is_a_part_of_what_is_lent_after_it():
    async def two(begun: int) -> int:
        return 2

    places = Places(range(2), range(2, 4), further=two)
    places.take(1)
    places.take_up({1, 3})
    assert await places.further(2) == [2]


async def test_a_request_without_a_part_begins_no_further_ones():
    async def none(begun: int) -> int:
        return 0

    places = Places(range(2), range(2, 4), further=none)
    places.take(2)
    assert (await places.further(2), places.room) == ([], 0)
