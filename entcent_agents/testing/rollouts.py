"""Log-probabilities and rollouts as a script wants them, to test what reads them: selectors, say. No LangChain."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from entcent_agents.logprobs import TokenLogprobs, token_offsets
from entcent_agents.trajectory import Rollout, Trajectory, Turn


def scripted_logprobs(entropy: Sequence[float], top_k: int = 10) -> TokenLogprobs | None:
    """Log-probabilities of as many one-byte tokens as there are entropies (nats); None for none.

    Example:
        >>> from entcent_agents.testing import scripted_logprobs
        >>> scripted_logprobs([2.0, 0.1]).scored_tokens
        2
    """
    if not len(entropy):
        return None
    tokens = [b"."] * len(entropy)
    column = np.asarray(entropy, np.float32)
    return TokenLogprobs(
        text=b"".join(tokens),
        offsets=token_offsets(tokens),
        logprob=-column,
        entropy=column,
        residual=np.zeros_like(column),
        confidence=column.copy(),
        top_k=top_k,
    )


def scripted_rollouts(*entropies: Sequence[float], outcomes: Sequence[str | None] = ()) -> list[Rollout]:
    """Finished rollouts of one turn each, to test a selector with.

    Args:
        *entropies: Nats of each one's tokens; an empty one is a rollout without log-probabilities.
        outcomes: What each came to, which votes compare; None, and where there are fewer than rollouts: nothing.

    Example:
        >>> from entcent_agents.testing import scripted_rollouts
        >>> [rollout.trajectory.scored_tokens for rollout in scripted_rollouts([2.0, 0.1], [])]
        [2, 0]
    """
    keys = [*outcomes, *[None] * len(entropies)]
    return [
        Rollout(
            index=index,
            thread_id=f"scripted:{index}",
            status="finished",
            trajectory=Trajectory(turns=(_turn(index, entropy),)),
            vote_key=keys[index],
        )
        for index, entropy in enumerate(entropies)
    ]


def _turn(index: int, entropy: Sequence[float]) -> Turn:
    tokens = max(len(entropy), 1)
    return Turn(message_id=f"message {index}", generated_tokens=tokens, logprobs=scripted_logprobs(entropy))
