"""`ChatLogprobs`: a LangChain chat model for any OpenAI-compatible server that always brings its log-probabilities."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal, cast

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LangSmithParams, LanguageModelInput
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable, RunnableBinding, RunnableConfig
from langchain_core.runnables.config import ensure_config
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from openai import AsyncOpenAI
from pydantic import AliasChoices, Field, SecretStr

from entcent_agents.blocking import iterate_sync, run_sync
from entcent_agents.branching import BranchPoint
from entcent_agents.capture.recorder import LogprobsGeneration, hand_over
from entcent_agents.capture.usage import SHARING
from entcent_agents.chat.answering import answered, as_sampled, blocks_a_loop, each_as_sampled
from entcent_agents.chat.branches import BRANCH_METHODS, Asks, Branched, branched
from entcent_agents.chat.choices import choices
from entcent_agents.chat.clients import MAX_CONNECTIONS, aclose_clients, check_address, client_of_loop, shown
from entcent_agents.chat.completion import Completion, CompletionRequest
from entcent_agents.chat.constraints import native_tool_choice, text_binding
from entcent_agents.chat.continuation import (
    PROBE_QUESTION,
    PROBE_TOKENS,
    Continuation,
    ContinuationMethod,
    Prefix,
    continued,
    known_method,
)
from entcent_agents.chat.digests import digest, prompt_digest
from entcent_agents.chat.messages import generation, last_chunks, piece_chunk
from entcent_agents.chat.payload import chat_payload
from entcent_agents.chat.sampling import (
    Outcome,
    TokenListener,
    current_pool,
    known_calls,
    makes_one_attempt,
    token_listener,
)
from entcent_agents.chat.structured import Method, Schema, structured_output
from entcent_agents.errors import ConfigurationError, LogprobsMissingError
from entcent_agents.logprobs import TokenLogprobs
from entcent_agents.trajectory import BranchMethod

__all__ = ["ChatLogprobs", "aclose_clients"]


class ChatLogprobs(BaseChatModel):
    """Chat with per-token log-probabilities, over the OpenAI chat completions API of any server.

    Log-probabilities become arrays on arrival and ride beside the message (`LogprobsGeneration.token_logprobs`),
    never in it. Inside rollouts, identical concurrent calls become one request with several choices.

    Raises:
        ConfigurationError: At a call, on settings that cannot work.
        ModelServerError: At a call, where the server cannot be reached or answers with an error.

    Example:
        >>> from entcent_agents import ChatLogprobs
        >>> model = ChatLogprobs(model="my-model", base_url="http://127.0.0.1:8000/v1", tool_calling="text")
        >>> model.top_logprobs  # nothing is asked of the server before the first call
        10
    """

    model: str
    """Name of the model, as the server knows it."""
    base_url: str = "https://api.openai.com/v1"
    """Address of the API, up to and including `/v1`."""
    api_key: SecretStr | None = None
    """Key, where the server wants one; never printed, stored or traced."""
    tool_calling: Literal["native", "text"] = "native"
    """How tools are bound: by the API, or as JSON in the text (full coverage of the call's tokens on any server)."""
    temperature: float = 0.7
    """Sampling temperature."""
    top_p: float | None = None
    """Nucleus; None leaves it to the server."""
    max_tokens: int | None = None
    """Most tokens of one turn; None leaves it to the server."""
    seed: int | None = None
    """Seed of a call outside rollouts; inside, the rollouts' own seed counts."""
    stop: list[str] | None = None
    """Strings that end a turn."""
    top_logprobs: int = Field(default=10, ge=1)
    """k, the alternatives asked for at each token."""
    n: int = Field(default=1, ge=1)
    """Choices of one call; `agenerate` gives all of them, `ainvoke` the first."""
    coalesce: bool = True
    """Whether identical concurrent calls of one request's rollouts share a request."""
    timeout_seconds: float = Field(default=600.0, validation_alias=AliasChoices("timeout_seconds", "timeout"))
    """Longest silence of the server; `timeout`, as LangChain calls it, is understood too."""
    max_retries: int = 2
    """How often a failed request is repeated (with backoff, Retry-After honoured); never below a budget."""
    max_connections: int = Field(default=MAX_CONNECTIONS, ge=1)
    """Most requests at once, from the whole process to one server with one key; further ones wait, however long. Fewer
    while the server shows that it takes fewer."""
    extra_body: dict[str, Any] = Field(default_factory=dict[str, Any], repr=False)
    """Further fields of the body, for what only this server has."""

    @property
    def _llm_type(self) -> str:
        return "entcent-chat-logprobs"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        """What decides an answer and may be seen, for traces."""
        settings = ("model", "tool_calling", "temperature", "top_p", "max_tokens", "seed", "stop", "top_logprobs", "n")
        return {"base_url": shown(self.base_url), **{name: getattr(self, name) for name in settings}}

    def _get_llm_string(self, stop: list[str] | None = None, **kwargs: Any) -> str:
        """The model in the keys of LangChain's caches, with a digest of what serialised forms leave out."""
        shown_settings = super()._get_llm_string(stop=stop, **kwargs)
        return f"{shown_settings}---{digest((self.base_url, self.extra_body))}"

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        for name, value in super().__repr_args__():
            yield name, shown(value) if name == "base_url" else value

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        return {**super()._get_ls_params(stop=stop or self.stop, **kwargs), "ls_provider": SHARING}

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """Yes: caches and traces then see all settings, and `load` takes the class where it is allowed by name."""
        return True

    @property
    def lc_secrets(self) -> dict[str, str]:
        """What may hold a key and is left out of serialised forms, and the names under which `load` asks for it."""
        address = {"base_url": "ENTCENT_BASE_URL"} if set("?@") & set(self.base_url) else {}
        fields = {"extra_body": "ENTCENT_EXTRA_BODY"} if self.extra_body else {}
        return {"api_key": "ENTCENT_API_KEY", **address, **fields}

    def bind_tools(
        self,
        tools: Sequence[Mapping[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | Mapping[str, Any] | bool | None = None,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Bind tools natively or as text, as `tool_calling` says.

        Args:
            tools: What LangChain takes as tools.
            tool_choice: "auto", "none", "any" (also True, "required"), or a tool by name. Where tools are text, a
                forced choice holds the reply to JSON of a call (`response_format`), on servers that can do that.
            strict: Whether OpenAI is told to hold arguments to their schema.
            **kwargs: Settings of the calls.

        Raises:
            ConfigurationError: Where tools are text, on a choice that names none of them, or a `response_format` of a
                schema beside them.
        """
        specifications = [convert_to_openai_tool(cast(Any, tool), strict=strict) for tool in tools]
        if self.tool_calling == "text":
            kwargs |= text_binding(specifications, tool_choice, kwargs.get("response_format"))
            return cast(Any, self.bind(**kwargs))
        if tool_choice:
            kwargs["tool_choice"] = native_tool_choice(tool_choice)
        return cast(Any, self.bind(tools=specifications, **kwargs))

    def with_structured_output(
        self,
        schema: Schema,
        *,
        include_raw: bool = False,
        method: Method = "function_calling",
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, Any]:
        """A runnable that answers in the schema; log-probabilities are captured as of any call.

        Args:
            schema: Pydantic class, TypedDict, JSON schema with a title, or OpenAI function.
            include_raw: Whether to give `{"raw": message, "parsed": ..., "parsing_error": ...}`.
            method: "function_calling" (a forced call, as `tool_calling` binds it: in text the tokens are covered on
                any server), "json_schema" (`response_format`; the prompt says nothing of the schema), or "json_mode"
                (any JSON; the prompt has to describe it).
            strict: Whether OpenAI is told to hold to the schema; other servers do so anyhow.
            **kwargs: None others are known.

        Raises:
            ConfigurationError: On settings that are not known.
        """
        if kwargs:
            raise ConfigurationError(f"with_structured_output knows nothing of {', '.join(kwargs)}")
        return structured_output(self, schema, method=method, include_raw=include_raw, strict=strict)

    async def acheck(self) -> None:
        """Ask for one token, to find out whether the server answers, knows the model and gives log-probabilities.

        Raises:
            ModelServerError: Where the server cannot be reached or answers with an error.
            LogprobsMissingError: Where it gives no log-probabilities; the message says what to change.
        """
        payload = chat_payload(self, [], None, {}) | {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
        completion = (await CompletionRequest(self.client(), payload).completions())[0]
        logprobs = completion.logprobs
        if logprobs is None or not logprobs.scored_tokens:
            raise LogprobsMissingError(
                f"{self.model} at {shown(self.base_url)} gives no log-probabilities, and rollouts cannot be compared "
                "without: choose a model or a server that gives them (llama.cpp, vLLM and SGLang do; at OpenAI the "
                "models that do not reason)"
            )

    async def agenerate_n(
        self,
        messages: LanguageModelInput,
        n: int,
        *,
        tools: Sequence[Mapping[str, Any] | type | Callable[..., Any] | BaseTool] = (),
        stop: list[str] | None = None,
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> list[LogprobsGeneration]:
        """Several answers to one prompt, in one request where the server takes so many, else in as few as it takes.

        Args:
            messages: The prompt.
            n: How many.
            tools: To bind, as by `bind_tools`; what is bound already does not reach this method.
            stop: Strings that end an answer.
            config: Callbacks, tags and metadata.
            **kwargs: As for `bind_tools` and `bind`: `tool_choice`, `temperature`, `max_tokens`.

        Returns:
            `n` generations, each with its own log-probabilities, and its share of the prompt in its usage.

        Raises:
            ConfigurationError: Where `n` is below 1.
            ModelServerError: Where the server cannot be reached, or one of the answers failed.
            LogprobsMalformedError: On log-probabilities that cannot be.
        """
        if n < 1:
            raise ConfigurationError(f"n={n}: ask for one answer at least")
        config = ensure_config(config)
        result = await self.agenerate_prompt(
            [self._convert_input(messages)],
            stop=stop,
            callbacks=config.get("callbacks"),
            tags=config.get("tags"),
            metadata=config.get("metadata"),
            run_name=config.get("run_name"),
            n=n,
            stream=False,
            **self._bound(tools, kwargs),
        )
        return cast(list[LogprobsGeneration], result.generations[0])

    async def acontinue(
        self,
        messages: LanguageModelInput,
        prefix: str | TokenLogprobs,
        *,
        tools: Sequence[Mapping[str, Any] | type | Callable[..., Any] | BaseTool] = (),
        stop: list[str] | None = None,
        method: ContinuationMethod | None = None,
        **kwargs: Any,
    ) -> Continuation:
        """Go on from the beginning of an answer, which is not generated again.

        Args:
            messages: The prompt that the answer is to.
            prefix: How it begins: tokens of an earlier answer (`token_logprobs.head(12)`), or a text.
            tools: As for `agenerate_n`.
            stop: Strings that end the answer.
            method: How the server is to be made to go on. Default: the best of those found to work, which is measured
                at the first call to a server.
            **kwargs: As for `agenerate_n`; `max_tokens` counts the prefix too, where its tokens are known.

        Raises:
            ConfigurationError: Where the server cannot go on from a text, or this one cannot be gone on from.
            ContinuationError: Where it did something else than go on.
            ModelServerError: Where it cannot be reached or answers with an error.
            LogprobsMalformedError: On log-probabilities that cannot be.
        """
        start = Prefix.of(prefix)
        kwargs = self._bound(tools, kwargs)
        payload = chat_payload(self, self._convert_input(messages).to_messages(), stop, kwargs)
        method = method or await self.continuation_method()
        pool = current_pool()
        own_seed = kwargs.get("seed", self.seed)
        seed = own_seed if pool is None else pool.seed_of(prompt_digest(payload, start.text), own_seed)
        found = await continued(self.client(), payload if seed is None else {**payload, "seed": seed}, start, method)
        whole = replace(found.completion, text=found.text)
        tool_names = _names(kwargs) or [tool["function"]["name"] for tool in kwargs.get("tools") or ()]
        return Continuation(
            generation=generation(whole, tool_names),
            method=method,
            joint=found.joint,
            reused_tokens=found.reused_tokens,
        )

    async def abranch(
        self,
        messages: LanguageModelInput,
        turn: TokenLogprobs,
        point: BranchPoint,
        *,
        tools: Sequence[Mapping[str, Any] | type | Callable[..., Any] | BaseTool] = (),
        stop: list[str] | None = None,
        allowed: Collection[BranchMethod] = BRANCH_METHODS,
        **kwargs: Any,
    ) -> Branched:
        """Answer once more from a token of an earlier answer on, with another token there.

        Args:
            messages: The prompt that the earlier answer is to.
            turn: Its tokens.
            point: Where to branch, and what the branch takes instead.
            tools: As for `agenerate_n`, and as they were bound for the earlier answer.
            stop: As for the earlier answer.
            allowed: Which ways there may be, tried in the order of `BRANCH_METHODS`: to go on from the prefix with the
                alternative, to force the tool that it begins to name, to make the turn anew.
            **kwargs: As for `agenerate_n`; `max_tokens` counts the whole turn.

        Raises:
            ContinuationError: Where none of the allowed ways worked; it says why.
            ModelServerError: Where the server cannot be reached, or fails otherwise than by refusing a way.
            LogprobsMalformedError: On log-probabilities that cannot be.
        """
        kwargs = self._bound(tools, kwargs)
        payload = chat_payload(self, self._convert_input(messages).to_messages(), stop, kwargs)
        asks = self._asks(kwargs.get("seed", self.seed))
        text_tools = kwargs.get("text_tools") or ()
        with known_calls():
            found = await branched(asks, payload, turn, point, text_tools=text_tools, allowed=allowed)
        return Branched(
            generation=generation(found.completion, _names(kwargs)),
            method=found.method,
            reused_tokens=found.reused_tokens,
            joint=found.joint,
            passed_over=found.passed_over,
        )

    async def continuation_method(self) -> ContinuationMethod:
        """The best way to make the server go on from a prefix, measured at the first call to a server.

        Raises:
            ConfigurationError: Where none works.
            ModelServerError: Where the server cannot be reached or answers with an error.
        """
        probe = {"temperature": 0.0, "max_tokens": PROBE_TOKENS}
        payload = chat_payload(self, [HumanMessage(PROBE_QUESTION)], None, probe)
        return await known_method(self.client(), payload, server=digest((self.base_url, self._key())))

    def _asks(self, own_seed: int | None) -> Asks:
        """How branches ask this model."""
        return Asks(client=self.client(), method=self.continuation_method, send=self._sampled_alone, own_seed=own_seed)

    def _bound(
        self, tools: Sequence[Mapping[str, Any] | type | Callable[..., Any] | BaseTool], kwargs: dict[str, Any]
    ) -> dict[str, Any]:
        """What `bind_tools` would bind."""
        return dict(cast(RunnableBinding[Any, Any], self.bind_tools(tools, **kwargs)).kwargs) if tools else kwargs

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        n = int(kwargs.pop("n", self.n))
        payload = chat_payload(self, messages, stop, kwargs)
        if n == 1:
            return ChatResult(generations=[await self._answer(messages, payload, stop, kwargs, run_manager)])
        completions = await self._sample(payload, n, kwargs.get("seed", self.seed))
        known = _names(kwargs)
        return ChatResult(generations=[generation(completion, known) for completion in completions])

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        work = self._agenerate(messages, stop, cast(Any, run_manager), **kwargs)
        return run_sync(as_sampled(work) if blocks_a_loop() else work)

    def _should_stream(self, *, async_api: bool, run_manager: Any = None, **kwargs: Any) -> bool:
        """Not where several choices are asked for and somebody listens: of a stream, LangChain keeps one message."""
        if run_manager is not None and kwargs.get("n", self.n) > 1:
            return False
        return super()._should_stream(async_api=async_api, run_manager=run_manager, **kwargs)

    def _should_use_protocol_streaming(self, *, async_api: bool, run_manager: Any = None, **kwargs: Any) -> bool:
        """As `_should_stream`, for those who listen to events."""
        if kwargs.get("n", self.n) > 1:
            return False
        return super()._should_use_protocol_streaming(async_api=async_api, run_manager=run_manager, **kwargs)

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        """One choice, as it comes; whole inside rollouts: nobody sees them, and only whole calls share a request."""
        kwargs.pop("n", None)
        pooled, seed, names = current_pool() is not None, kwargs.get("seed", self.seed), _names(kwargs)
        payload = chat_payload(self, messages, stop, kwargs, watched=not pooled)
        streamed = payload["stream"] and not pooled
        if pooled:
            answer = await self._answer(messages, payload, stop, kwargs, run_manager)
        else:
            request = CompletionRequest(self.client(), payload if seed is None else {**payload, "seed": seed})
            async for delta in request.events():
                if streamed and delta.index == 0 and (delta.text or delta.reasoning):
                    yield piece_chunk(delta)
            answer = generation((await request.result())[0], names)
        hand_over(answer.token_logprobs, run_manager)
        for chunk in last_chunks(answer, streamed=streamed):
            yield chunk

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        chunks = self._astream(messages, stop, cast(Any, run_manager), **kwargs)
        return iterate_sync(each_as_sampled(chunks) if blocks_a_loop() else chunks)

    async def _answer(
        self,
        messages: list[BaseMessage],
        payload: Mapping[str, Any],
        stop: list[str] | None,
        kwargs: Mapping[str, Any],
        run_manager: AsyncCallbackManagerForLLMRun | None,
    ) -> LogprobsGeneration:
        """One answer; a rollout may go on from another one's."""

        async def sample() -> LogprobsGeneration:
            (completion,) = await self._sample(payload, 1, kwargs.get("seed", self.seed))
            return generation(completion, _names(kwargs))

        run_id = run_manager.run_id if run_manager else None
        return await answered(payload, kwargs, sample, partial(self.abranch, messages, stop=stop, **kwargs), run_id)

    async def _sample(self, payload: Mapping[str, Any], n: int, seed: int | None) -> list[Completion]:
        pool = current_pool()
        with known_calls():
            if pool is None:
                return await self._sampled_alone(payload, n, seed)
            prompt = prompt_digest(payload)
            if self.coalesce and n == 1:
                return [await pool.sample(self._caller(), prompt, partial(self._send, payload), seed)]
            return await self._sampled_alone(payload, n, pool.seed_of(prompt, seed))

    async def _sampled_alone(self, payload: Mapping[str, Any], n: int, seed: int | None) -> list[Completion]:
        listener = token_listener.get()
        completions: list[Completion] = []
        for outcome in await self._send(payload, n, seed, [listener] * n if listener else []):
            if isinstance(outcome, Exception):
                raise outcome
            completions.append(outcome)
        return completions

    async def _send(
        self, payload: Mapping[str, Any], n: int, seed: int | None, listeners: Sequence[TokenListener]
    ) -> list[Outcome]:
        request = partial(self._request, payload)
        return await choices(request, n, seed, listeners, server=f"{self.base_url} {payload['model']}")

    async def _request(
        self, payload: Mapping[str, Any], n: int, seed: int | None, listeners: Sequence[TokenListener]
    ) -> Sequence[Outcome]:
        """One request, its listeners told of each token."""
        request = CompletionRequest(self.client(), payload if seed is None else {**payload, "seed": seed}, n)
        async for delta in request.events():
            if delta.tokens and delta.index < len(listeners):
                listeners[delta.index](delta.tokens)
        return await request.outcomes()

    def client(self) -> AsyncOpenAI:
        """The SDK's client of the running event loop, shared by all models with these settings."""
        check_address(self.base_url)
        return client_of_loop(
            base_url=self.base_url,
            api_key=self._key(),
            timeout_seconds=self.timeout_seconds,
            max_retries=0 if makes_one_attempt() else self.max_retries,
            max_connections=self.max_connections,
        )

    def _caller(self) -> str:
        """Digest of who asks whom, and how patiently: only those who agree on all of it may share a request."""
        patience = (self.timeout_seconds, self.max_retries, self.max_connections)
        return digest((self.base_url, self._key(), *patience))

    def _key(self) -> str:
        key = self.api_key.get_secret_value().strip() if self.api_key else ""
        if not key.isprintable() or not key.isascii():
            raise ConfigurationError("the API key has characters that no key has: check where it is read from")
        return key


def _names(kwargs: Mapping[str, Any]) -> list[str]:
    return [tool["function"]["name"] for tool in kwargs.get("text_tools") or ()]
