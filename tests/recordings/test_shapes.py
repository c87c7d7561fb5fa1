"""Every accepted shape, field by field, from hand-made files."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from entcent_agents import recordings
from entcent_agents.logprobs import token_offsets
from entcent_agents.outcomes import outcome_key
from entcent_agents.recordings import Recorded, read_recordings, recorded_line
from entcent_agents.testing import scripted_logprobs
from entcent_agents.trajectory import Rollout, Trajectory, Turn, Usage
from tests.recordings.samples import (
    BATCH,
    CHAT,
    COMPLETIONS,
    DATA,
    ENTROPY_RESULTS,
    LLAMA,
    ROLLOUTS,
    one,
    read,
    written,
)

PAGE = DATA.parent.parent.parent / "docs" / "recordings.md"
SURE, TORN, SO = [0.97, 0.02, 0.005], [0.4, 0.35, 0.2], [0.8, 0.1, 0.05]


def entropy(*rows: list[float]) -> list[float]:
    """Of the renormalised probabilities, nats."""
    return [-sum(p / sum(row) * math.log(p / sum(row)) for p in row) for row in rows]


def arrays(candidate: Recorded):
    (turn,) = candidate.rollout.trajectory.turns
    assert turn.logprobs is not None
    return turn.logprobs


def facts(candidate: Recorded) -> tuple:
    rollout = candidate.rollout
    trajectory = rollout.trajectory
    return (rollout.index, rollout.status, trajectory.generated_tokens, trajectory.coverage, candidate.reward)


def test_choices_of_a_chat_response_are_candidates_of_one_task():
    pears = read(DATA / "chat.jsonl")["pears"]
    source = f"{DATA / 'chat.jsonl'}:1"
    assert [candidate.source for candidate in pears] == [source] * 3
    assert [candidate.rollout.thread_id for candidate in pears] == [f"{source}#{number}" for number in range(3)]
    assert [facts(candidate) for candidate in pears] == [
        (0, "finished", 5, 1.0, 1.0),
        (1, "finished", 6, 1.0, 1.0),
        (2, "finished", 4, 0.0, 0.0),  # no log-probabilities: what the server counts beyond the others' tokens
    ]
    assert [candidate.rollout.usage.prompt_tokens for candidate in pears] == [7, 7, 6]
    assert sum(candidate.rollout.usage.generated_tokens for candidate in pears) == CHAT[0]["usage"]["completion_tokens"]
    first = arrays(pears[0])
    np.testing.assert_allclose(first.entropy, entropy(TORN, SO, SURE, TORN, SURE), atol=1e-4)
    np.testing.assert_allclose(first.logprob, np.log([0.4, 0.8, 0.97, 0.4, 0.97]), atol=1e-5)
    np.testing.assert_allclose(first.residual, [0.05, 0.05, 0.005, 0.05, 0.005], atol=1e-4)
    assert (first.text, first.token(1), first.top_k) == (b"The answer is 12.", b" answer", 3)
    assert pears[2].rollout.trajectory.turns[0].logprobs is None


def test_equal_tool_calls_vote_together_whoever_wrote_them():
    vllm, llama = read(DATA / "chat.jsonl")["apples"]
    assert vllm.rollout.vote_key == llama.rollout.vote_key == outcome_key([("add", {"a": 3, "b": 4})], "")
    assert [facts(vllm)[2:], facts(llama)[2:]] == [(4, 0.75, 1.0), (3, 1.0, 0.5)]
    assert arrays(vllm).entropy[2] == pytest.approx(entropy([0.8, 0.1])[0], abs=1e-4)  # -9999 is absent
    assert arrays(llama).token(2) == b" \xe2\x98"


def test_a_response_without_a_task_is_a_task_of_its_own_id():
    (plums,) = read(DATA / "chat.jsonl")["chatcmpl-made-up-4"]
    assert facts(plums) == (0, "finished", 2, 0.0, None)
    assert plums.rollout.vote_key == outcome_key([], "Plums")


@pytest.mark.parametrize("content", [None, []])
def test_no_logprobs_in_any_spelling_is_a_candidate(content, tmp_path):
    response = one("chat")
    response["choices"][0]["logprobs"] = {"content": content, "refusal": None}
    (candidate,) = read(written(tmp_path / "f", response))["apples"]
    assert facts(candidate) == (0, "finished", 4, 0.0, 1.0)


def test_arrays_of_nothing_are_no_logprobs(tmp_path):
    response = one("completion")
    response["choices"][0]["logprobs"] = {"tokens": None, "token_logprobs": None, "top_logprobs": None}
    (candidate,) = read(written(tmp_path / "f", response))["story"]
    assert facts(candidate) == (0, "finished", 3, 0.0, 0.0)


def test_a_call_of_a_custom_tool_counts(tmp_path):
    custom, plain = one("chat", id="1"), one("chat", id="2")
    custom["choices"][0]["message"]["tool_calls"] = [{"type": "custom", "custom": {"name": "sql", "input": "SELECT 1"}}]
    plain["choices"][0]["message"]["tool_calls"] = [{"function": {"name": "sql", "arguments": {"a": 1}}}]
    first, second = read(written(tmp_path / "f", custom, plain))["apples"]
    assert first.rollout.vote_key == outcome_key([("sql", "SELECT 1")], "")
    assert second.rollout.vote_key == outcome_key([("sql", '{"a": 1}')], "")


def test_batch_output_is_grouped_by_its_custom_ids():
    found = read(DATA / "batch.jsonl")
    assert {task: len(candidates) for task, candidates in found.items()} == {"pears": 3, "apples": 1, "story": 1}
    assert [candidate.rollout.index for candidate in found["pears"]] == [0, 1, 2]
    assert found["pears"][2].source == f"{DATA / 'batch.jsonl'}:3"
    assert found["story"][0].reward == 1.0
    whole = read(DATA / "chat.jsonl")["pears"]
    for mine, theirs in zip(found["pears"], whole, strict=False):
        np.testing.assert_array_equal(mine.rollout.trajectory.entropy, theirs.rollout.trajectory.entropy)


def test_legacy_completions():
    openai, vllm, together, arrays_in_chat = read(DATA / "completions.jsonl")["story"]
    first = arrays(openai)
    np.testing.assert_allclose(first.entropy, entropy(SO, TORN, SURE, SURE), atol=1e-4)
    assert first.text.decode() == " Once upon☃" == COMPLETIONS[0]["choices"][0]["text"]
    assert facts(openai) == (0, "finished", 4, 1.0, 1.0)
    second = arrays(vllm)
    np.testing.assert_allclose(second.entropy[:2], entropy(TORN, [0.5, 0.3, 0.15]), atol=1e-4)
    assert np.isnan(second.entropy[2]) and np.isnan(second.logprob[2])
    assert (second.top_k, facts(vllm)) == (3, (1, "finished", 3, pytest.approx(2 / 3), 0.0))
    for candidate in (together, arrays_in_chat):
        assert facts(candidate)[2:] == (2, 0.0, None)
    np.testing.assert_allclose(arrays(together).logprob, np.log([0.97, 0.8]), atol=1e-5)
    np.testing.assert_allclose(arrays(arrays_in_chat).logprob, np.log([0.9, 0.6]), atol=1e-5)
    assert together.rollout.vote_key == arrays_in_chat.rollout.vote_key


def test_a_sampled_token_outside_the_top_k_does_not_raise_k(tmp_path):
    response = one("completion")
    rows = [{"a": -0.5, "b": -2.0}, {"c": -6.0, "d": -0.4, "e": -3.0}, {"f": -0.1, "g": -5.0}]
    response["choices"][0]["logprobs"] = {"tokens": ["a", "c", "f"], "token_logprobs": [-0.5, -6.0, -0.1]}
    response["choices"][0]["logprobs"]["top_logprobs"] = rows
    found = arrays(read(written(tmp_path / "f", response))["story"][0])
    expected = entropy(*[[math.exp(value) for value in row] for row in ([-0.5, -2.0], [-0.4, -3.0], [-0.1, -5.0])])
    np.testing.assert_allclose(found.entropy, expected, atol=1e-6)
    assert found.top_k == 2
    assert found.logprob[1] == -6.0


def test_rows_of_different_lengths_stay_where_the_longest_are_no_extra_entry(tmp_path):
    response = one("completion")
    response["choices"][0]["logprobs"] = {"tokens": ["a", "c"], "token_logprobs": [-0.5, -0.4]}
    response["choices"][0]["logprobs"]["top_logprobs"] = [{"a": -0.5, "b": -2.0}, {"c": -0.4, "d": -3.0, "e": -4.0}]
    found = arrays(read(written(tmp_path / "f", response))["story"][0])
    assert found.top_k == 3
    assert found.entropy[1] == pytest.approx(entropy([math.exp(value) for value in (-0.4, -3.0, -4.0)])[0], abs=1e-6)


def legacy(*rows: dict[str, float]) -> dict:
    """A choice that samples the first entry of each row."""
    return {
        "text": "x",
        "logprobs": {
            "tokens": [next(iter(row)) for row in rows],
            "token_logprobs": [next(iter(row.values())) for row in rows],
            "top_logprobs": list(rows),
        },
    }


def row_of(k: int, *, outside: bool = False) -> dict[str, float]:
    """k alternatives; where the sampled token is none of them, it comes first and in addition."""
    return ({"rare": -9.0} if outside else {}) | {f"t{i}": -1.0 - i / 8 for i in range(k)}


@pytest.mark.parametrize("k", [1, 2, 4, 5, 20])
@pytest.mark.parametrize("first", [True, False])
def test_a_choice_that_samples_none_of_the_top_k_has_the_k_of_its_response(k, first, tmp_path):
    choices = [legacy(row_of(k, outside=True)), legacy(row_of(k), row_of(k), row_of(k, outside=True))]
    response = {"task": "t", "choices": choices if first else choices[::-1]}
    found = read(written(tmp_path / "f", response))["t"]
    assert [arrays(candidate).top_k for candidate in found] == [k, k]
    for candidate in found:
        (expected,) = entropy([math.exp(value) for value in row_of(k).values()])
        if k == 1:  # a single alternative that leaves most of the probability says nothing
            expected = math.nan
        np.testing.assert_allclose(arrays(candidate).entropy, expected, atol=1e-6)


@pytest.mark.parametrize(("rows", "k"), [(6, 5), (11, 10), (21, 20), (5, 5), (2, 2), (1, 1)])
def test_a_token_on_its_own_tells_k_by_what_is_asked_for(rows, k, tmp_path):
    response = {"task": "t", "choices": [legacy(row_of(rows - 1, outside=True))]}
    (found,) = read(written(tmp_path / "f", response))["t"]
    assert arrays(found).top_k == k


def test_a_row_of_nothing_tells_nothing_of_k(tmp_path):
    choice = legacy({"a": -0.005}, {"b": -0.002}, {"c": -0.001})
    choice["logprobs"]["top_logprobs"][2] = None
    (found,) = read(written(tmp_path / "f", {"task": "t", "choices": [choice]}))["t"]
    assert arrays(found).top_k == 1
    assert arrays(found).scored.tolist() == [True, True, False]


def test_the_k_of_a_chat_response_is_that_of_its_longest_row(tmp_path):
    response = one("choices")
    for entry in response["choices"][0]["logprobs"]["content"]:
        del entry["top_logprobs"][-1]
    cut = one("choices", task="cut")
    cut["choices"] = [response["choices"][0]]
    cut["reward"] = None
    found = read(written(tmp_path / "f", response, cut))
    assert [candidate.rollout.trajectory.top_k for candidate in found["pears"]] == [3, 3, None]
    (alone,) = found["cut"]
    assert arrays(alone).top_k == 2
    np.testing.assert_array_equal(arrays(found["pears"][0]).entropy, arrays(alone).entropy)


def test_the_own_shape_of_llama_cpp():
    found = read(DATA / "llama.jsonl")
    before, after, old = found["largest"]
    np.testing.assert_allclose(arrays(before).entropy, entropy(TORN, [0.97, 0.02]), atol=1e-4)  # float-lowest is absent
    np.testing.assert_allclose(arrays(after).entropy, entropy([0.5, 0.25, 0.25], [1.0]), atol=1e-6)
    np.testing.assert_allclose(arrays(after).logprob, [math.log(0.5), 0.0], atol=1e-6)
    assert arrays(after).text.decode() == LLAMA[1]["content"]
    assert arrays(old).entropy[0] == pytest.approx(math.log(2))
    assert np.isnan(arrays(old).logprob[0])
    assert [facts(candidate) for candidate in (before, after, old)] == [
        (0, "finished", 2, 1.0, 1.0),
        (1, "finished", 2, 1.0, 0.0),
        (2, "finished", 1, 1.0, None),
    ]
    assert before.rollout.usage == Usage(prompt_tokens=6, generated_tokens=2, model_calls=1)
    (unscored,) = found[f"{DATA / 'llama.jsonl'}:4"]  # it has neither a task nor an id
    assert facts(unscored) == (0, "finished", 3, 0.0, None)


def test_entropy_results_keep_the_recorded_entropies():
    found = read(DATA / "entropy_results.jsonl", answer=re.compile(r"\d+"))
    assert list(found) == ["made_up_1", "made_up_2"]
    assert [[candidate.reward for candidate in found[task]] for task in found] == [[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]
    for task, candidates in found.items():
        lines = [line for line in ENTROPY_RESULTS if line["original_id"] == task]
        for candidate, line in zip(candidates, lines, strict=True):
            recorded = [np.nan if row["entropy"] is None else row["entropy"] for row in line["entropy_sequence"]]
            np.testing.assert_array_equal(arrays(candidate).entropy, np.float32(recorded))
            assert arrays(candidate).text.decode() == line["generated_text"]
            for unknown in (arrays(candidate).logprob, arrays(candidate).residual, arrays(candidate).confidence):
                assert np.isnan(unknown).all()
    assert [facts(candidate)[2:4] for candidate in found["made_up_1"]] == [(7, pytest.approx(6 / 7)), (7, 1), (5, 1)]
    assert [arrays(candidate).top_k for candidate in found["made_up_2"]] == [20, 3, 20]
    first, second, third = (candidate.rollout.vote_key for candidate in found["made_up_1"])
    assert first == third == outcome_key([], "16") != second
    assert found["made_up_2"][2].rollout.vote_key is None  # the answer is not there


def test_own_records_keep_their_turns_and_what_they_came_to():
    found = read(DATA / "rollouts.jsonl", answer=re.compile("other"))
    first, second, failed = found["rename"]
    assert [candidate.reward for candidate in found["rename"]] == [1.0, 1.0, 0.0]
    assert [candidate.rollout.status for candidate in found["rename"]] == ["finished", "finished", "failed"]
    assert failed.rollout.error == "ValueError"
    assert first.rollout.vote_key == second.rollout.vote_key == "5f2c"
    assert [turn.generated_tokens for turn in first.rollout.trajectory.turns] == [2, 2]
    np.testing.assert_allclose(first.rollout.trajectory.entropy, [1.1, 0.2, 0.3, 0.0], atol=1e-6)
    assert first.rollout.trajectory.turns[0].logprobs.text == b"listfiles"
    assert second.rollout.trajectory.turns[0].logprobs.text == b""
    assert second.rollout.forks == {"files": "fork-1"}
    assert (found["count"][0].reward, found["count"][0].rollout.index) == (None, 0)


def rollout() -> Rollout:
    said = [b"sec", b"ret"]
    logprobs = replace(scripted_logprobs([1.0, 0.5]), text=b"".join(said), offsets=token_offsets(said))
    turns = (Turn(message_id="m", generated_tokens=2, logprobs=logprobs), Turn(message_id="n", generated_tokens=3))
    return Rollout(
        index=4,
        thread_id="t:4",
        status="finished",
        trajectory=Trajectory(turns=turns),
        usage=Usage(prompt_tokens=5, generated_tokens=5, model_calls=2),
        seconds=0.5,
        vote_key="k",
        output="packed",
        forks={"files": "/home/someone/fork"},
    )


@pytest.mark.parametrize("text", [False, True])
def test_what_is_recorded_is_what_is_read(text, tmp_path):
    line = recorded_line("a task", rollout(), True, text=text)
    assert "\n" not in line
    (found,) = read(written(tmp_path / "f", line.encode()))["a task"]
    read_back = found.rollout
    assert read_back.forks == ({"files": "/home/someone/fork"} if text else {})
    assert (found.reward, read_back.thread_id, read_back.index) == (1.0, found.source, 0)
    assert (read_back.usage, read_back.vote_key, read_back.seconds) == (rollout().usage, "k", 0.5)
    np.testing.assert_array_equal(read_back.trajectory.entropy, rollout().trajectory.entropy)
    assert read_back.trajectory.coverage == rollout().trajectory.coverage
    assert read_back.trajectory.turns[0].logprobs.text == (b"secret" if text else b"")
    assert read_back.output == ("packed" if text else None)


def test_without_text_a_recorded_line_says_nothing_of_what_was_generated():
    line = recorded_line("a task", rollout())
    assert all(word not in line for word in ("secret", "c2Vj", "packed", '"text"'))
    assert '"reward":null' in line


@pytest.mark.parametrize(
    ("error", "kept"),
    [
        ("ValueError: secret", "ValueError"),
        ("EnvironmentMissingError: no folder /home/someone", "EnvironmentMissingError"),
        ("NoteMissingError", "NoteMissingError"),
        ("stopped before secret", None),
        ("stopped: secret", "stopped"),
        (None, None),
    ],
)
def test_without_text_a_recorded_line_says_nothing_of_paths_and_errors(error, kept):
    line = recorded_line("a task", replace(rollout(), status="failed", error=error))
    record = json.loads(line)["rollout"]
    assert (record["forks"], record["error"]) == ({}, kept)
    assert "secret" not in line and "someone" not in line


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("status", ["finished", "unfinished", "failed"])
def test_a_recorded_status_is_read_back(status, text, tmp_path):
    recorded = replace(rollout(), status=status, error=None if status == "finished" else "ValueError: no")
    (found,) = read(written(tmp_path / "f", recorded_line("t", recorded, text=text).encode()))["t"]
    assert found.rollout.status == status
    assert found.rollout.error == (None if status == "finished" else "ValueError")


@pytest.mark.parametrize("reward", [0.25, 1, True, False, None])
@pytest.mark.parametrize(
    "lines", [CHAT[1:2], BATCH[1:2], COMPLETIONS[:1], LLAMA[:1], ENTROPY_RESULTS[:1], ROLLOUTS[:1]]
)
def test_task_and_reward_are_honoured_on_every_shape(lines, reward, tmp_path):
    path = written(tmp_path / "f", *(line | {"task": 17, "reward": reward} for line in lines))
    (candidate,) = read(path)["17"]
    assert candidate.reward == reward
    assert candidate.reward is None or type(candidate.reward) is float


def test_one_reward_for_all_choices_or_one_each(tmp_path):
    each, all_ = one("choices", reward=[1, None, False]), one("choices", reward=0.5)
    candidates = read(written(tmp_path / "f", each, all_))["pears"]
    assert [candidate.reward for candidate in candidates] == [1.0, None, 0.0, 0.5, 0.5, 0.5]
    assert [candidate.rollout.index for candidate in candidates] == list(range(6))


def test_fields_that_nobody_knows_change_nothing(tmp_path):
    lines = [
        line | {"extra": {"deep": [1, None, "☃"]}} for line in (CHAT[1], LLAMA[0], ENTROPY_RESULTS[0], ROLLOUTS[0])
    ]
    assert sum(map(len, read_recordings([written(tmp_path / "f", *lines)]))) == 4


@pytest.mark.parametrize("example", re.findall(r"```json\n(.*?)```", PAGE.read_text(), re.DOTALL))
def test_the_page_shows_what_is_accepted(example, tmp_path):
    assert len(read(written(tmp_path / "f", example.encode()))) == 1


def test_the_public_names_are_sorted_and_there():
    assert recordings.__all__ == sorted(recordings.__all__)
    assert [name for name in recordings.__all__ if not hasattr(recordings, name)] == []


def test_reading_loads_nothing_heavy():
    code = "import sys, entcent_agents.recordings; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {"langchain_core", "langgraph", "openai", "pydantic", "rich", "tiktoken"}.isdisjoint(loaded)
