"""An answer that rollouts branched from, until it is on its own rollout's thread.

Its branches are on record before the graph has it. Where the process dies in between, whoever goes on gives the graph
this answer, and not another one: its branches are of it, and its tokens are not generated again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from entcent_agents.capture.recorder import LogprobsGeneration
from entcent_agents.logprobs import TokenLogprobs
from entcent_agents.rollouts.packing import pack, unpack


@dataclass(frozen=True, slots=True, kw_only=True)
class Released:
    """An answer that is released to its graph.

    Attributes:
        prompt: Digest of what it answers.
        generation: The answer; its message has an id.
        reused_tokens: Its first tokens, which were generated for another rollout.
    """

    prompt: str
    generation: LogprobsGeneration
    reused_tokens: int = 0

    @property
    def message_id(self) -> str | None:
        """Of the message."""
        return self.generation.message.id

    def to_dict(self) -> dict[str, Any]:
        """Plain form, with what was said: for the journal of a rollout alone."""
        generation = self.generation
        assert generation.token_logprobs is not None  # of an answer without them nothing branches
        return {
            "prompt": self.prompt,
            "said": generation.token_logprobs.to_dict(),
            "reused_tokens": self.reused_tokens,
            "packed": pack({
                "message": generation.message,
                "info": generation.generation_info,
                "prompt_tokens": generation.whole_prompt_tokens,
            }),
        }  # fmt: skip

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote."""
        packed = unpack(record["packed"])
        generation = LogprobsGeneration(
            message=packed["message"],
            generation_info=packed["info"],
            token_logprobs=TokenLogprobs.from_dict(record["said"]),
            whole_prompt_tokens=packed["prompt_tokens"],
        )
        return cls(prompt=record["prompt"], generation=generation, reused_tokens=record["reused_tokens"])
