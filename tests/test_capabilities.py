"""What is measured of a server: each capability both ways, on servers whose habits are known."""

from __future__ import annotations

import asyncio
import gc
import json
import math
import weakref
from dataclasses import asdict, replace

import pytest

from entcent_agents.chat import capabilities as measuring
from entcent_agents.chat.capabilities import PROBES, Capabilities, capabilities_of, measure_capabilities
from entcent_agents.chat.model import ChatLogprobs
from entcent_agents.chat.probes.asking import Asking
from entcent_agents.chat.probes.bounds import largest
from entcent_agents.chat.probes.measured import Constraint, Measured, Seeding, Semantics
from entcent_agents.chat.probes.sampling import Ratio, ratio_of_differences, semantics, truncation
from entcent_agents.errors import ConfigurationError, LogprobsMissingError, ModelServerError
from tests.behaving import Habits
from tests.chat_server import ChatServer, Reply, Request, says
from tests.continuing_server import ContinuingServer

KEY = "sk-very-secret-4711"


def chat(server: ChatServer, **settings) -> ChatLogprobs:
    return ChatLogprobs(**{"model": "scripted", "base_url": server.base_url, "max_retries": 0, **settings})


async def measured(serve, name: str, *, server: dict | None = None, **habits) -> Measured:
    """One capability of a server with these habits; ten alternatives are known to work."""
    asking = Asking(chat(serve(Habits(**habits), **(server or {}))))
    asking.most_alternatives = min(10, habits.get("max_k", 10))
    return await PROBES[name](asking)


# The search for a maximum


@pytest.mark.parametrize("limit", [0, 1, 2, 5, 19, 20, 64, 127, 128, 500])
@pytest.mark.parametrize("refuses", [True, False])
async def test_the_search_finds_every_limit_in_few_questions(limit: int, refuses: bool):
    asked: list[int] = []

    async def given(number: int) -> int | None:
        asked.append(number)
        if number <= limit:
            return number
        return None if refuses else limit

    assert await largest(given, 128) == min(limit, 128)
    assert len(asked) == len(set(asked)) <= 9
    if not refuses and limit:
        assert len(asked) <= 2


async def test_a_server_that_gives_fewer_than_its_own_limit_is_not_believed():
    async def given(number: int) -> int | None:
        return {8: 5, 5: 4}.get(number, number if number <= 3 else 3)

    assert await largest(given, 8) == 3


# top_logprobs


@pytest.mark.parametrize("caps", [True, False])
async def test_the_most_alternatives_are_those_that_really_come(serve, caps: bool):
    found = await measured(serve, "top_logprobs", max_k=5, caps_k=caps)
    assert (found.value, found.shown) == (5, "5")
    assert "set top_logprobs=5" in found.means


async def test_no_limit_seen_is_at_least_the_most_that_was_asked_for(serve):
    found = await measured(serve, "top_logprobs")
    assert (found.value, found.shown) == (128, "at least 128")
    assert not found.details["more_than_asked"] and not found.details["repeated"]


async def test_a_sampled_token_beside_the_k_or_twice_among_them_is_told(serve):
    assert (await measured(serve, "top_logprobs", plus_one=True)).details["more_than_asked"]
    found = await measured(serve, "top_logprobs", repeats=True)
    assert found.details["repeated"] and "listed twice" in found.means


async def test_a_repeated_alternative_does_not_count_as_one_more(serve):
    assert (await measured(serve, "top_logprobs", max_k=5, caps_k=True, repeats=True)).value == 5


# n


async def test_the_most_choices_where_more_are_refused_and_where_fewer_come(serve):
    assert (await measured(serve, "n", server={"max_n": 6})).value == 6
    capped = serve(lambda request: Habits()(request)[:3])
    assert (await PROBES["n"](Asking(chat(capped)))).value == 3
    assert (await measured(serve, "n")).shown == "at least 64"


async def test_a_server_that_ignores_or_refuses_n_gives_one(serve):
    ignoring = serve(lambda request: Habits()(request)[:1])
    found = await PROBES["n"](Asking(chat(ignoring)))
    assert found.value == 1 and "each rollout is a request" in found.means
    assert (await measured(serve, "n", refuses=["n"])).value == 1


async def test_choices_that_are_copies_or_lack_log_probabilities_are_told(serve):
    copies = await measured(serve, "n", copies=True)
    assert copies.details["different"] == 1 and "coalesce=False" in copies.means
    unscored = await measured(serve, "n", scores_first_choice_only=True)
    assert unscored.details["with_logprobs"] == 1 and "1 of 4" in unscored.means


@pytest.mark.parametrize("counts, all_counted", [(True, True), ("first", False), (False, None)])
async def test_whether_usage_counts_all_choices(serve, counts, all_counted):
    found = await measured(serve, "n", server={"counts": counts})
    assert found.details["usage_counts_all"] is all_counted
    assert found.details["tokens_listed"] == 32


# Coverage


async def test_text_is_covered_in_one_piece_and_streamed(serve):
    found = await measured(serve, "text")
    assert (found.value, found.details["scored_tokens"], found.details["generated_tokens"]) == (1.0, 32, 32)
    streamed = await measured(serve, "streaming")
    assert (streamed.value, streamed.details["pieces"]) == (1.0, 32)


async def test_a_stream_in_name_only_is_told(serve):
    once = serve([Reply(raw=_event(says(" ".join(["word"] * 32))))])
    found = await PROBES["streaming"](Asking(chat(once)))
    assert found.details["pieces"] == 1 and "all at once" in found.means


def _event(reply: Reply) -> bytes:
    choice = {"delta": {"content": reply.text}, "logprobs": reply.content(), "finish_reason": "length"}
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\ndata: [DONE]\n\n"


async def test_another_question_is_asked_where_an_answer_ends_too_soon(serve):
    served = iter([says("no"), says("not so short"), says("no")])
    found = await PROBES["text"](Asking(chat(serve(lambda request: [next(served)]))))
    assert found.details["generated_tokens"] == 3


@pytest.mark.parametrize("name", ["text", "streaming", "text_tools"])
async def test_text_without_log_probabilities_is_below_the_floor(serve, name: str):
    found = await measured(serve, name, logprobs=False)
    assert found.value == 0.0 and "below the floor of 0.9" in found.means


async def test_tokens_skipped_inside_characters_lower_the_coverage_of_such_text_alone(serve):
    found = await measured(serve, "other_scripts", skips_in_characters=True)
    assert found.value == 0.5 and "such characters are missing" in found.means
    assert found.details["characters_beyond_ascii"] == 3
    assert (await measured(serve, "other_scripts")).value == 1.0
    assert (await measured(serve, "text", skips_in_characters=True)).value == 1.0


async def test_a_model_that_writes_no_such_characters_leaves_it_unmeasured(serve):
    found = await PROBES["other_scripts"](Asking(chat(serve([says("no emojis here")]))))
    assert found.value is None and "no character" in found.means


async def test_a_server_that_does_not_count_is_said_to_be_estimated(serve):
    found = await measured(serve, "text", server={"counts": False})
    assert not found.details["counted_by_server"] and "estimated" in found.means


async def test_an_end_of_turn_that_is_counted_and_not_listed_is_no_fault_of_a_short_answer(serve):
    found = await measured(serve, "text_tools", ends=3)
    assert found.value == pytest.approx(4 / 7)
    assert "a call was read" in found.means and "its end is counted" in found.means


# Tools


async def test_native_calls_that_are_made_scored_and_forced(serve):
    found = await measured(serve, "native_tools")
    assert (found.value, found.shown, found.means) == (1.0, "1.00 of 20 tokens", "calls are scored")
    assert found.details["called_by_itself"] and found.details["forcing"] == "honoured"


async def test_native_calls_without_log_probabilities_lead_to_tools_as_text(serve):
    found = await measured(serve, "native_tools", scores_calls=False)
    assert (found.value, found.shown) == (0.0, "0.00 of 20 tokens")
    assert "use tool_calling='text'" in found.means


async def test_a_model_that_calls_when_forced_alone_and_one_that_never_calls(serve):
    forced = await measured(serve, "native_tools", calls=False)
    assert forced.value == 1.0 and "did not call by itself" in forced.means
    never = await measured(serve, "native_tools", calls=False, calls_when_forced=False)
    assert never.value is None and never.shown == "no call in 64 tokens"


async def test_a_choice_that_is_ignored_or_refused_is_told(serve):
    ignored = await measured(serve, "native_tools", calls_when_forced=False)
    assert ignored.details["forcing"] == "ignored" and "tool_choice is ignored" in ignored.means
    refused = await measured(serve, "native_tools", refuses=["tool_choice"])
    assert refused.details["forcing"] == "refused" and refused.value == 1.0


async def test_a_server_that_refuses_tools(serve):
    found = await measured(serve, "native_tools", refuses=["tools"])
    assert (found.value, found.shown) == (None, "refused")
    assert "answered 400" in found.details["said"]


async def test_tools_as_text_are_called_and_covered(serve):
    found = await measured(serve, "text_tools")
    assert found.value == 1.0 and found.details["called"]


@pytest.mark.parametrize(
    "habits, value", [({"streams_calls": False}, False), ({"scores_calls": False}, False), ({}, True)]
)
async def test_native_tools_in_a_stream(serve, habits, value):
    found = await measured(serve, "streamed_tools", **habits)
    assert found.value is value and "without a call" not in found.means


async def test_a_stream_in_which_nothing_was_called_does_not_pass_for_one_with_a_call(serve):
    found = await measured(serve, "streamed_tools", calls=False)
    assert found.value is True and found.means == "they go together in a turn without a call"


# Continuation


async def test_a_server_that_tells_tokens_only_where_it_is_asked_for_them_is_told_with_what_to_ask(serve):
    found = await PROBES["continuation"](Asking(chat(serve(ContinuingServer(("vllm",))))))
    assert found.value == "vllm-tokens" and found.details["vllm-tokens"] == "unchecked"
    assert found.means.endswith("does not tell its tokens; with extra_body={'return_token_ids': True} it may")


# Temperature


ONE = {(f"t{i}", ()): -0.7 * i for i in range(8)}


def scaled(power: float, shift: float = 0.0, noise: float = 0.0) -> dict:
    return {identity: power * value + shift + noise * (-1) ** i for i, (identity, value) in enumerate(ONE.items())}


@pytest.mark.parametrize("shift", [0.0, -0.9, 0.3])
@pytest.mark.parametrize("power, meaning", [(1.0, Semantics.RAW), (2.0, Semantics.TEMPERED), (1.5, Semantics.UNKNOWN)])
def test_the_ratio_of_differences_tells_raw_from_tempered_whatever_the_normalisation(power, shift, meaning):
    ratio = ratio_of_differences(ONE, scaled(power, shift, noise=0.02))
    assert ratio is not None
    assert ratio.median == pytest.approx(power, abs=0.06)
    assert ratio.alternatives == 7
    assert semantics(ratio, 0.5) is meaning


def test_one_wild_alternative_does_not_move_the_median():
    wild = scaled(2.0)
    wild["t3", ()] = -50.0
    ratio = ratio_of_differences(ONE, wild)
    assert ratio is not None and semantics(ratio, 0.5) is Semantics.TEMPERED


def test_ratios_all_over_the_place_are_unknown_though_their_median_fits():
    assert semantics(Ratio(1.0, 0.5, 9), 0.5) is Semantics.UNKNOWN
    assert semantics(Ratio(-1.0, 0.0, 9), 0.5) is Semantics.UNKNOWN


def test_too_few_or_too_close_alternatives_say_nothing():
    few = dict(list(ONE.items())[:3])
    assert ratio_of_differences(few, few) is None
    close = {identity: value / 100 for identity, value in ONE.items()}
    assert ratio_of_differences(close, close) is None
    assert ratio_of_differences(ONE, {}) is None


def test_truncation_is_seen_by_what_is_left_and_how_it_is_scaled():
    left = dict(list(ONE.items())[:3])
    assert truncation(ONE, ONE) == "ignored"
    assert truncation(ONE, left) == "cut"
    assert truncation(ONE, {identity: value + 0.5 for identity, value in left.items()}) == "cut and renormalised"
    assert truncation(ONE, scaled(1.0, shift=0.5)) == "renormalised"


def test_alternatives_that_changed_places_at_the_end_are_not_cut():
    swapped = {**dict(list(ONE.items())[:7]), ("t8", ()): -5.0}
    assert truncation(ONE, swapped) == "ignored"


@pytest.mark.parametrize("noise", [0.0, 0.03])
@pytest.mark.parametrize(
    "habits, meaning",
    [({}, Semantics.RAW), ({"tempered": True}, Semantics.TEMPERED), ({"power": 0.5}, Semantics.UNKNOWN)],
)
async def test_the_temperature_of_log_probabilities_is_measured(serve, habits, meaning, noise):
    found = await measured(serve, "temperature", noise=noise, **habits)
    assert found.value is meaning
    expected = {Semantics.RAW: 1.0, Semantics.TEMPERED: 2.0, Semantics.UNKNOWN: math.sqrt(2)}[meaning]
    assert found.details["ratio"] == pytest.approx(expected, abs=0.1)
    assert f"ratio {found.details['ratio']:.2f}" in found.shown


async def test_cuts_of_the_sampler_in_the_log_probabilities_are_told(serve):
    cut = await measured(serve, "temperature", cuts_top_p=True)
    assert cut.details["top_p"] == "cut and renormalised" and "top_p change" in cut.means
    assert (await measured(serve, "temperature", cuts_top_p=True, renormalises=False)).details["top_p"] == "cut"
    refused = await measured(serve, "temperature", refuses=["top_k"])
    assert (refused.details["top_p"], refused.details["top_k"]) == ("ignored", "refused")


async def test_further_fields_of_the_user_s_reach_the_server_with_every_question(serve):
    server = serve(Habits())
    asking = Asking(chat(server, extra_body={"route": "here"}))
    asking.most_alternatives = 10
    assert (await PROBES["temperature"](asking)).details["top_k"] == "ignored"
    assert [request.body.get("route") for request in server.requests] == ["here"] * 4
    assert server.requests[-1].body["top_k"] == 3


async def test_too_few_alternatives_leave_the_temperature_unmeasured(serve):
    found = await measured(serve, "temperature", max_k=3)
    assert found.value is None and "too few alternatives" in found.means


# Seeds and schemas


@pytest.mark.parametrize(
    "habits, value",
    [({}, Seeding.REPEATABLE), ({"follows_seed": False}, Seeding.UNREPEATABLE), ({"one_text": True}, Seeding.FIXED)],
)
async def test_what_a_seed_does(serve, habits, value):
    assert (await measured(serve, "seed", **habits)).value is value


async def test_a_first_run_that_differs_is_put_down_to_the_cold_prompt(serve):
    served = iter(["cold", "warm", "warm", "other", "third"])
    found = await PROBES["seed"](Asking(chat(serve(lambda request: [says(next(served))]))))
    assert (found.value, found.shown) == (Seeding.REPEATABLE, "repeatable when warm")
    assert found.details["cold_differs"]


@pytest.mark.parametrize(
    "habits, value",
    [
        ({}, Constraint.ENFORCED),
        ({"follows_schema": False}, Constraint.IGNORED),
        ({"refuses": ["response_format"]}, Constraint.REFUSED),
        ({"refuses": ["response_format"], "refusal": 500}, Constraint.REFUSED),
    ],
)
async def test_what_a_schema_does(serve, habits, value):
    assert (await measured(serve, "json_schema", **habits)).value is value


async def test_an_answer_cut_off_before_it_could_tell_leaves_the_schema_unmeasured(serve):
    found = await PROBES["json_schema"](Asking(chat(serve([says("{ ", finish_reason="length")]))))
    assert found.value is None and "cut off" in found.means


# All of them


async def test_a_whole_measurement_is_json_and_counts_what_it_cost(serve):
    server = serve(Habits(), models=[{"id": "other"}, {"id": "scripted", "owned_by": "the tests"}])
    heard: list[str] = []
    found = await measure_capabilities(chat(server), heard.append)
    assert heard == ["server", *PROBES] and list(found.measured) == list(PROBES)
    assert (found.model, found.served_model, found.owner) == ("scripted", "scripted", "the tests")
    assert all(one.value is not None for one in found.measured.values())
    assert found.cost.requests == len(server.answered) + 1  # the list of models
    assert found.cost.generated_tokens > 0 and found.cost.prompt_tokens > 0
    record = json.loads(json.dumps(found.to_dict()))
    assert record["measured"]["temperature"]["value"] == "raw"
    assert record["cost"] == asdict(found.cost)
    assert found.recommended() == {"tool_calling": "native", "top_logprobs": 10}


async def test_settings_follow_from_what_was_measured(serve):
    found = await measure_capabilities(chat(serve(Habits(max_k=5, scores_calls=False, copies=True))))
    assert found.recommended() == {"tool_calling": "text", "top_logprobs": 5, "coalesce": False}
    refusing = await measure_capabilities(chat(serve(Habits(refuses=["tools"]))))
    assert refusing.recommended()["tool_calling"] == "text"
    ignoring = await measure_capabilities(chat(serve(Habits(calls_when_forced=False))))
    assert ignoring.recommended(20) == {"tool_calling": "text", "top_logprobs": 20}


async def test_rollouts_share_no_request_whose_choices_lack_log_probabilities(serve):
    found = await measure_capabilities(chat(serve(Habits(scores_first_choice_only=True))))
    assert found.recommended()["coalesce"] is False


async def test_a_probe_that_the_user_s_settings_rule_out_is_said_and_ends_nothing_else(serve):
    server = serve(Habits())
    found = await measure_capabilities(chat(server, extra_body={"grammar": "root ::= [a-z]+"}))
    assert found["continuation"].shown == "not measured" and "grammar" in found["continuation"].means
    assert all(one.value is not None for name, one in found.measured.items() if name != "continuation")
    with pytest.raises(ConfigurationError):
        await measure_capabilities(chat(server, base_url=server.base_url.replace("//", "//user:word@")))


async def test_a_name_that_promises_other_things_changes_nothing(serve):
    boastful = [{"id": "scripted", "owned_by": "vllm", "max_logprobs": 20}]
    found = await measure_capabilities(chat(serve(Habits(tempered=True, max_k=5), models=boastful)))
    assert found["top_logprobs"].value == 5 and found["temperature"].value is Semantics.TEMPERED


async def test_the_user_s_own_sampling_settings_do_not_matter(serve):
    model = chat(serve(Habits(cuts_top_p=True)), top_p=0.5, seed=4, n=3, stop=["x"], tool_calling="text")
    found = await measure_capabilities(model)
    assert found["temperature"].value is Semantics.RAW
    assert found["native_tools"].value == 1.0


async def test_a_probe_that_fails_is_said_and_ends_nothing_else(serve):
    def moody(request: Request) -> list[Reply]:
        if request.body.get("response_format"):
            return [Reply(status=403, error=f"not with {KEY}")]
        if request.body.get("tools"):
            return [Reply(breaks_after=0, breaks_how="reset")]
        return Habits()(request)

    found = await measure_capabilities(chat(serve(moody), api_key=KEY))
    assert found["json_schema"].shown == found["native_tools"].shown == "not measured"
    assert "answered 403: not with ***" in found["json_schema"].means
    assert found["text_tools"].value == 1.0 and found["seed"].value is Seeding.REPEATABLE
    assert KEY not in json.dumps(found.to_dict()) + repr(found)
    assert found.recommended()["tool_calling"] == "text"


async def test_too_many_requests_are_asked_again(serve):
    answered = 0

    def limited(request: Request) -> list[Reply]:
        nonlocal answered
        answered += 1
        if answered % 3 == 0:
            return [Reply(status=429, error="slow down", headers={"Retry-After": "0.01"})]
        return Habits()(request)

    found = await measure_capabilities(chat(serve(limited), max_retries=2))
    assert all(one.value is not None for one in found.measured.values())


async def test_nothing_is_left_to_measure_where_the_server_goes_away(serve):
    gone = False

    def leaving(request: Request) -> list[Reply]:
        return [Reply(breaks_after=0, breaks_how="reset")] if gone else Habits()(request)

    def on_progress(name: str) -> None:
        nonlocal gone
        gone = name == "text"

    server = serve(leaving)
    with pytest.raises(ModelServerError, match="broke off"):
        await measure_capabilities(chat(server), on_progress)
    assert gone


async def test_no_server_is_an_error_and_so_is_an_unknown_model(serve):
    with pytest.raises(ModelServerError, match="no model server answers"):
        await measure_capabilities(ChatLogprobs(model="m", base_url="http://127.0.0.1:9/v1", max_retries=0))
    unknown = serve(lambda request: [Reply(status=404, error="no such model")])
    with pytest.raises(ModelServerError, match="answered 404: no such model"):
        await measure_capabilities(chat(unknown))
    failing = serve(lambda request: [Reply(status=400, error="always wrong")])
    with pytest.raises(ModelServerError, match="answered 400: always wrong"):
        await measure_capabilities(chat(failing))


@pytest.mark.parametrize("habits", [Habits(logprobs=False), Habits(refuses=["logprobs"])])
async def test_a_server_without_log_probabilities_is_of_no_use(serve, habits):
    with pytest.raises(LogprobsMissingError):
        await measure_capabilities(chat(serve(habits)))


# Once a process


async def test_a_server_is_measured_once_and_concurrent_askers_share_it(serve):
    server = serve(Habits())
    first, second = await asyncio.gather(capabilities_of(chat(server)), capabilities_of(chat(server, temperature=0.1)))
    asked = len(server.answered)
    assert first is second is await capabilities_of(chat(server))
    assert len(server.answered) == asked
    await capabilities_of(chat(server, model="other"))
    await capabilities_of(chat(server, api_key=KEY))
    assert len(server.answered) == 3 * asked
    assert KEY not in repr(vars(measuring))


async def test_a_failed_measurement_is_not_remembered(serve):
    working = False
    server = serve(lambda request: Habits()(request) if working else [Reply(status=404, error="loading")])
    with pytest.raises(ModelServerError):
        await capabilities_of(chat(server))
    working = True
    assert isinstance(await capabilities_of(chat(server)), Capabilities)


async def test_a_cancelled_asker_leaves_the_others_theirs_and_the_last_ends_the_measurement(serve):
    server = serve(lambda request: [reply_late(reply) for reply in Habits()(request)])
    leaving, staying = (asyncio.create_task(capabilities_of(chat(server))) for _ in range(2))
    await asyncio.to_thread(server.asked.wait, 60)
    leaving.cancel()
    await asyncio.wait([leaving])
    assert leaving.cancelled() and not staying.done()
    staying.cancel()
    await asyncio.wait([staying])
    await asyncio.sleep(0.05)
    asked = len(server.answered)
    await asyncio.sleep(0.1)
    assert len(server.answered) == asked < 5


def test_a_loop_that_is_abandoned_while_it_measures_is_not_kept_alive_for_that(monkeypatch):
    begun: list[str] = []

    async def endless(model: ChatLogprobs) -> Capabilities:  # in no request: what the HTTP client keeps is its own
        begun.append(model.model)
        return await asyncio.Future()

    monkeypatch.setattr(measuring, "measure_capabilities", endless)

    def abandon() -> weakref.ref[asyncio.AbstractEventLoop]:
        loop = asyncio.new_event_loop()
        task = loop.create_task(capabilities_of(ChatLogprobs(model="m")))
        while not begun:
            loop.run_until_complete(asyncio.sleep(0.001))
        assert not task.done()
        loop.close()
        return weakref.ref(loop)

    reference = abandon()
    gc.collect()
    assert begun == ["m"] and reference() is None


def reply_late(reply: Reply) -> Reply:
    return replace(reply, delay_seconds=0.02)
