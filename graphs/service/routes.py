"""The service over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Awaitable, Callable
from typing import Annotated, Any, Final, cast
from uuid import uuid4

import httpx2
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent
from psycopg_pool import PoolTimeout
from pydantic import AfterValidator, BaseModel, Field

from graphs.service.desk import Desk, OverloadedError, outcome
from graphs.service.log import ThreadBusyError, without_nul
from graphs.service.questions import AnswerError, OtherQuestionsError
from graphs.service.stores import OUTAGE

_READY_SECONDS: Final = 2.0
_AGAIN: Final = {"Retry-After": "5"}
Id = Annotated[str, Field(pattern=r"^[\w.-]{1,100}$")]
router = APIRouter()


def _storable(value: Any) -> Any:
    if without_nul(value) != value:
        raise ValueError("there is a NUL, or half of a character, in it")
    return value


class Question(BaseModel):
    """What a client asks."""

    question: Annotated[str, AfterValidator(_storable)] = Field(min_length=1, max_length=20_000)
    thread: Id | None = Field(default=None, description="The conversation; none begins one.")
    id: Id = Field(default_factory=lambda: uuid4().hex, description="Send it again, and nothing is done twice.")


class Reply(BaseModel):
    """What a person answers to what the agent asks."""

    answers: Annotated[dict[str, Any], AfterValidator(_storable)] = Field(
        description='By the ids of the questions, say {"decisions": [{"type": "approve"}]} to a call.'
    )


def _desk(request: Request) -> Desk:
    return request.app.state.desk


async def _asked(request: Request, asked: Question) -> str:
    """Begin, before anything is answered: what is refused is refused with a status."""
    thread = asked.thread or asked.id
    await _desk(request).ask(asked.id, thread, asked.question)
    found = await request.app.state.log.find(asked.id)
    if found is not None and (found["question"], found["thread"]) != (asked.question, thread):
        raise HTTPException(409, f"request {asked.id} asked something else: give each question an id of its own")
    return asked.id


async def _known(request: Request, id: Id) -> str:
    if await request.app.state.log.find(id) is None:
        raise HTTPException(404, f"there is no request {id}")
    return id


Begun = Annotated[str, Depends(_asked)]
Known = Annotated[str, Depends(_known)]


@router.post("/requests")
async def ask(request: Request, id: Begun) -> dict[str, Any]:
    """Ask, and wait for what comes of it."""
    return await _last(request, id)


@router.post("/requests/stream", response_class=EventSourceResponse)
async def ask_and_listen(request: Request, id: Begun) -> AsyncIterable[ServerSentEvent]:
    """Ask, and hear how the rollouts are doing; last a `result`."""
    async for event in _desk(request).follow(id):
        yield ServerSentEvent(event=event["type"], data=event)


@router.get("/requests/{id}/stream", response_class=EventSourceResponse)
async def listen(request: Request, id: Known) -> AsyncIterable[ServerSentEvent]:
    """Hear of a request that was begun before."""
    async for event in _desk(request).follow(id):
        yield ServerSentEvent(event=event["type"], data=event)


@router.get("/requests/{id}")
async def look(request: Request, id: Known) -> dict[str, Any]:
    """How a request stands."""
    return outcome(await request.app.state.log.find(id))


@router.post("/requests/{id}/answer")
async def answer(request: Request, id: Known, reply: Reply) -> dict[str, Any]:
    """Answer what the agent asks a person, and wait for what comes of it."""
    await _desk(request).answer(id, reply.answers)
    return await _last(request, id)


@router.delete("/requests/{id}")
async def withdraw(request: Request, id: Known) -> dict[str, Any]:
    """End a request: nothing more is sampled, called or committed."""
    await _desk(request).withdraw(id)
    return outcome(await request.app.state.log.find(id))


@router.get("/health")
async def health() -> dict[str, str]:
    """Whether the process answers."""
    return {"status": "ok"}


@router.get("/ready")
async def ready(request: Request, response: Response) -> dict[str, str]:
    """Whether requests can be taken: the database is there. Of the model it says how it is: nobody else has another."""
    state = request.app.state

    async def database() -> None:
        async with state.pool.connection() as connection:
            await connection.execute("SELECT 1")

    async def model() -> None:
        async with httpx2.AsyncClient() as client:  # what it answers does not matter
            await client.get(f"{state.model.base_url}/models")

    found = {"database": await _said(database), "model": await _said(model)}
    if found["database"] != "ok":
        response.status_code = 503
    return found


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """As Prometheus reads it."""
    return Response(request.app.state.metrics.page(), media_type="text/plain; version=0.0.4")


def add_refusals(app: FastAPI) -> None:
    """What clients are told where nothing can be done for them now."""
    refused = {
        OverloadedError: (503, "as many requests are under way as there may be: come again"),
        ThreadBusyError: (409, "another request of this thread is under way, or waits for an answer"),
        PoolTimeout: (503, "the database is busy: come again"),
        **dict.fromkeys(OUTAGE, (503, "the database cannot be reached: come again with the same id")),
        OtherQuestionsError: (409, "this is not what the request asks (any more): look at its questions"),
    }
    for kind, (status, said) in refused.items():
        app.add_exception_handler(kind, _telling(status, said))
    app.add_exception_handler(AnswerError, _answer_refused)
    app.add_exception_handler(RequestValidationError, _refused)


def _telling(status: int, said: str) -> Callable[[Request, Exception], Awaitable[Response]]:
    async def tell(_: Request, __: Exception) -> Response:
        return JSONResponse({"detail": said}, status, _AGAIN)

    return tell


async def _answer_refused(_: Request, error: Exception) -> Response:
    return JSONResponse({"detail": str(error)}, 422)


async def _refused(_: Request, error: Exception) -> Response:
    """What is wrong, and not what was sent: it may be long, or a secret."""
    wrong = cast(RequestValidationError, error).errors()
    return JSONResponse({"detail": [{key: each[key] for key in ("loc", "msg", "type")} for each in wrong]}, 422)


async def _said(check: Callable[[], Awaitable[None]]) -> str:
    try:
        async with asyncio.timeout(_READY_SECONDS):
            await check()
    except Exception as error:
        return type(error).__name__
    return "ok"


async def _last(request: Request, id: str) -> dict[str, Any]:
    last: dict[str, Any] = {}
    async for event in _desk(request).follow(id):
        last = dict(event)
    return {key: value for key, value in last.items() if key != "type"}
