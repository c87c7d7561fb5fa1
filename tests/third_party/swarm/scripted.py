"""The models of this swarm: rollout i wants to give back i kroner."""

from __future__ import annotations

from tests.third_party.saying import model_of, said_since_asked, says


def _desk(index, messages):
    return says(index, f"Refunds knows more, says {index}.", ("transfer_to_refunds", {}), first=True)


def _refunds(index, messages):
    last = messages[-1]
    if last.type == "tool" and last.name == "find_order":
        return says(index, f"That is {index}.", ("refund", {"order": "7", "kroner": index}))
    if last.type == "tool" and last.name == "refund":
        return says(index, f"You get {index} kroner.")
    hesitates = said_since_asked(messages) == 0  # nobody handed over before
    return says(index, f"I look, says {index}.", ("find_order", {"text": f"order {index}"}), first=hesitates)


desk, refunds = model_of(_desk), model_of(_refunds)
