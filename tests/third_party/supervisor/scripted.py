"""The model of this team: rollout i wants hotel i."""

from __future__ import annotations

from tests.third_party.saying import model_of, says


def _supervisor(index, messages):
    turns = [
        says(index, f"Look first, says {index}.", ("transfer_to_researcher", {}), first=True),
        says(index, f"Book it, says {index}.", ("transfer_to_booker", {})),
        says(index, f"Hotel {index} is booked."),
    ]
    handed = sum(message.type == "ai" and message.name == "supervisor" for message in messages)
    return turns[handed % 3]


def _researcher(index, messages):
    if messages[-1].type == "tool" and messages[-1].name == "search_hotels":
        return says(index, f"Hotel {index} is free.")
    return says(index, f"Searching for {index}.", ("search_hotels", {"city": f"Oslo {index}"}))


def _booker(index, messages):
    if messages[-1].type == "tool" and messages[-1].name == "book_hotel":
        return says(index, f"Hotel {index} done.")
    return says(index, f"Booking {index}.", ("book_hotel", {"name": f"hotel {index}"}))


supervisor, researcher, booker = model_of(_supervisor), model_of(_researcher), model_of(_booker)
