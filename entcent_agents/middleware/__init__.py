"""The middleware of LangChain's `create_agent`: at each step several candidate turns, of which one is committed.

::

    from entcent_agents import EntropyCentroidMiddleware
    agent = create_agent(model, tools, middleware=[EntropyCentroidMiddleware(n=8)])

Loaded at first use: LangChain's agents are an extra.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from entcent_agents.lazy import lazy_names

if TYPE_CHECKING:
    from entcent_agents.middleware.entropy_centroid import EntropyCentroidMiddleware
else:
    __getattr__, __dir__ = lazy_names(__name__, {"entropy_centroid": ("EntropyCentroidMiddleware",)})

__all__ = ["EntropyCentroidMiddleware"]
