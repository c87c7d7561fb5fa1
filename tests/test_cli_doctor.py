"""`entcent doctor` as a user meets it: in a process of its own."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest

from entcent_agents.chat.capabilities import PROBES
from tests.behaving import Habits
from tests.chat_server import Reply, Token
from tests.test_cli import ROOT, entcent, refused

KEY = "sk-very-secret-4711"


def doctor(server, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return entcent("doctor", "--model", f"{server.base_url}#scripted", *arguments, **variables)


@pytest.mark.parametrize("columns", [80, 120])
def test_it_shows_every_capability_what_it_cost_and_last_what_to_write(serve, columns: int):
    server = serve(Habits(max_k=5, tempered=True, scores_calls=False), models=[{"id": "scripted", "owned_by": "tests"}])
    ran = doctor(server, COLUMNS=str(columns))
    assert ran.returncode == 0, ran.stderr
    lines = ran.stdout.splitlines()
    assert lines[0] == f"scripted at {server.base_url}"
    assert lines[1] == "calls itself scripted (owner: tests)"
    *table, cost, recommended = lines[2:]
    for name in PROBES:
        assert any(line.startswith(name.replace("_", " ")) for line in table), name
    assert max(map(len, table)) <= columns
    words = " ".join(" ".join(table).split())
    assert "tempered (ratio 2.00)" in words and "0.00 of 20 tokens" in words
    assert cost.startswith(f"cost: {len(server.answered) + 1} requests, ")
    where = f"model='scripted', base_url='{server.base_url}'"
    assert recommended == f"recommended: ChatLogprobs({where}, tool_calling='text', top_logprobs=5)"


def test_progress_goes_to_standard_error_and_the_record_alone_to_standard_output(serve):
    server = serve(Habits())
    ran = doctor(server, "--json")
    assert ran.returncode == 0, ran.stderr
    record = json.loads(ran.stdout)
    assert record["usable"] and list(record["measured"]) == list(PROBES)
    assert record["measured"]["n"]["value"] == 64
    assert record["recommended"] == {"tool_calling": "native", "top_logprobs": 10}
    for name in ("server", *PROBES):
        assert f"measuring {name.replace('_', ' ')}\n" in ran.stderr


def test_a_server_without_log_probabilities_is_exit_code_1(serve):
    server = serve(Habits(logprobs=False))
    ran = doctor(server)
    assert ran.returncode == 1 and "Traceback" not in ran.stderr
    assert ran.stderr.splitlines()[-1].startswith("unusable: scripted at ")
    assert ran.stdout == ""
    ran = doctor(server, "--json")
    assert ran.returncode == 1
    assert json.loads(ran.stdout)["usable"] is False and "no log-probabilities" in json.loads(ran.stdout)["reason"]


def test_log_probabilities_that_cannot_be_are_exit_code_1_too(serve):
    ran = doctor(serve([Reply(tokens=[Token(says="x", logprobs=(0.5, -1.0))])]))
    assert ran.returncode == 1 and "a natural-log probability is at most 0" in ran.stderr


def test_no_server_no_name_and_no_such_model_are_one_line_and_exit_code_2(serve):
    refused(entcent("doctor", "--model", "http://127.0.0.1:9/v1#m"), "no model server answers", "127.0.0.1:9")
    refused(entcent("doctor", "--model", "http://127.0.0.1:9/v1"), "#NAME")
    refused(entcent("doctor", "--model", "gpt-17"), "gpt-17", "qwen2.5-coder-1.5b")
    refused(doctor(serve([Reply(status=404, error="no model 'scripted'")])), "answered 404: no model 'scripted'")


def test_a_silent_server_is_given_the_time_that_the_option_says_which_the_error_names(serve):
    ran = doctor(serve([Reply(delay_seconds=math.inf)]), "--timeout-seconds", "0.1")
    refused(ran, "did not answer in time: raise timeout_seconds")


def test_the_key_is_sent_and_never_shown(serve):
    def telling(request):
        if request.body.get("response_format"):
            return [Reply(status=403, error=f"key {KEY} may not")]
        return Habits()(request)

    server = serve(telling)
    for arguments in ([], ["--json"]):
        ran = doctor(server, *arguments, ENTCENT_API_KEY=KEY)
        assert ran.returncode == 0, ran.stderr
        assert KEY not in ran.stdout + ran.stderr
        assert "key *** may not" in " ".join(ran.stdout.split())
    assert {request.headers["authorization"] for request in server.requests} == {f"Bearer {KEY}"}


def test_interrupting_ends_it_in_one_line(serve):
    server = serve(lambda request: [replace(reply, delay_seconds=0.2) for reply in Habits()(request)])
    running = subprocess.Popen(
        [
            *(sys.executable, "-u", "-c", "from entcent_agents.cli import main; main()"),
            *("doctor", "--model", f"{server.base_url}#scripted"),
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    assert running.stderr is not None
    with running.stderr as lines:
        for line in lines:
            if "measuring text" in line:
                running.send_signal(signal.SIGINT)
                break
        said = lines.read()
    assert running.wait(30) == 130
    assert "interrupted" in said and "Traceback" not in said
