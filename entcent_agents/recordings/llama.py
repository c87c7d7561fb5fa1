"""llama.cpp's own `/completion` responses; without `n_probs` they have no log-probabilities."""

from __future__ import annotations

import re
from typing import Annotated, Final

import msgspec

from entcent_agents.capture.llama import LlamaEntry, llama_logprobs
from entcent_agents.recordings.generation import generation
from entcent_agents.trajectory import Rollout

_Count = Annotated[int, msgspec.Meta(ge=0)]


class _Completion(msgspec.Struct):
    content: str
    completion_probabilities: list[LlamaEntry] | None = None
    tokens_predicted: _Count = 0
    tokens_evaluated: _Count = 0


_COMPLETION: Final = msgspec.json.Decoder(_Completion)


def read_llama(data: bytes, where: str, answer: re.Pattern[str] | None) -> list[Rollout]:
    """One candidate."""
    completion = _COMPLETION.decode(data)
    return [
        generation(
            where,
            llama_logprobs(completion.completion_probabilities or ()),
            answer=completion.content,
            pattern=answer,
            generated_tokens=completion.tokens_predicted,
            prompt_tokens=completion.tokens_evaluated,
        )
    ]
