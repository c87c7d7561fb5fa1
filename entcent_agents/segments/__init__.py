"""Segments of a model turn: which of its tokens are reasoning, answer, tool names, tool arguments or markup.

`lenient_json` reads almost-JSON, `json_calls` says what a tool call is in it, `spans` knows the formats in which models
call tools, and `tokens` lays tokens over the spans.
"""

from __future__ import annotations

from entcent_agents.segments.spans import SegmentKind
from entcent_agents.segments.tokens import Segment, token_kinds, token_segments

__all__ = ["Segment", "SegmentKind", "token_kinds", "token_segments"]
