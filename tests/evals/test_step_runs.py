"""Mode step: one rollout a task, which at each step takes the selected one of n answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np

from evals.store import DATABASE, RolloutStore
from tests.chat_server import ChatServer, Reply
from tests.evals.lives import N, go
from tests.evals.sums import choices

SIZE = 2


def mean_entropy(reply: Reply) -> float:
    rows = np.array([token.probabilities for token in reply.tokens])
    return float(-(rows * np.log(rows)).sum(axis=1).mean())


async def test_each_step_asks_for_n_answers_and_takes_the_selected_one(
    serve: Callable[..., ChatServer], tmp_path: Path
):
    server = serve(choices)
    run = await go(tmp_path, server.base_url, SIZE, mode="step")
    assert run.progress == f"{2 * SIZE} of {2 * SIZE} rollouts"
    assert {request.n for request in server.answered[1:]} == {N}  # the first looks whether anybody is there
    with closing(RolloutStore.open(tmp_path / DATABASE)) as store:
        rows = list(store.rows())
    assert len(rows) == 2 * SIZE
    once = [row for row in rows if row["category"] == "once"]
    for row in once:
        [request] = [each for each in server.answered if f"Task once {row['task'][-1]}" in str(each.body["messages"])]
        offered = choices(request)
        # All differ, and are short: the lowest mean entropy decides, and what the others took counts.
        assert json.loads(row["replies"])[0]["text"] == min(offered, key=mean_entropy).text
        assert row["model_calls"] == N
        assert row["generated_tokens"] == sum(len(reply.tokens) for reply in offered)
