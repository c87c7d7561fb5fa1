"""The middleware of LangChain's `create_agent`: at each step several candidate turns, of which one is committed.

::

    from entcent_agents.middleware import EntropyCentroidMiddleware
    agent = create_agent(model, tools, middleware=[EntropyCentroidMiddleware(n=8)])

Loaded at first use: LangChain's agents are an extra.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from entcent_agents.errors import MissingExtraError

if TYPE_CHECKING:
    from entcent_agents.middleware.entropy_centroid import EntropyCentroidMiddleware

__all__ = ["EntropyCentroidMiddleware"]


def __getattr__(name: str) -> Any:
    """The middleware, where LangChain is installed.

    Raises:
        MissingExtraError: Without LangChain.
    """
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from entcent_agents.middleware.entropy_centroid import EntropyCentroidMiddleware
    except ModuleNotFoundError as error:
        if error.name not in ("langchain", "langchain.agents"):
            raise
        raise MissingExtraError("langchain", "langchain") from None
    return EntropyCentroidMiddleware
