"""Files: lines and documents, groups across lines and files, what cannot be read at all."""

from __future__ import annotations

import gzip
import json
import os
import re
from typing import Any

import pytest

from entcent_agents.errors import RecordingError
from entcent_agents.recordings import read_recordings
from tests.recordings.samples import BATCH, CHAT, DATA, ENTROPY_RESULTS, encoded, one, read, read_all, written


def summary(paths, **options) -> dict[str, list[str]]:
    """Where the candidates of each task come from, by file name and line."""
    return {
        found[0].task: [candidate.source.rpartition("/")[2] for candidate in found]
        for found in read_recordings(paths, **options)
    }


def test_candidates_of_a_task_need_not_be_neighbours_nor_in_one_file(tmp_path):
    first = written(tmp_path / "1", one("chat", task="a"), one("chat", task="b"), one("chat", task="a"))
    second = written(tmp_path / "2", one("llama", task="b"), one("chat", task="c"), one("rollout", task="a"))
    assert summary([first, second]) == {"a": ["1:1", "1:3", "2:3"], "b": ["1:2", "2:1"], "c": ["2:2"]}
    recordings = read_recordings([str(first), second])
    assert len(recordings) == 3
    assert [[candidate.rollout.index for candidate in found] for found in recordings] == [[0, 1, 2], [0, 1], [0]]
    assert len(list(recordings)) == 3  # again


def test_a_file_may_be_a_task(tmp_path):
    paths = [written(tmp_path / name, one("chat", task="x"), one("llama", task=None)) for name in "ab"]
    assert summary(paths, group_by="file") == {str(path): [f"{path.name}:1", f"{path.name}:2"] for path in paths}


def test_the_task_may_be_a_part_of_the_id(tmp_path):
    path = written(
        tmp_path / "f", *(BATCH[1] | {"custom_id": name} for name in ("a-0", "b-0", "a-1")), one("chat", task="a-7")
    )
    assert summary([path], task_pattern=re.compile(r"(\w)-\d")) == {"a": ["f:1", "f:3"], "b": ["f:2"], "a-7": ["f:4"]}
    assert set(summary([path], task_pattern=re.compile(r"^\w"))) == {"a", "b", "a-7"}
    with pytest.raises(
        RecordingError, match=r"3 bad lines.*(?s:.)*f:1: the task pattern 'x' finds nothing in .* 'a-0'"
    ):
        list(read_recordings([path], task_pattern=re.compile("x")))


def test_the_task_is_named_by_the_first_name_there_is(tmp_path):
    names = {"task": "t", "custom_id": "c", "original_id": "o", "id": "i"}
    response = {key: value for key, value in CHAT[1].items() if key not in names}
    lines, expected = [], {}
    for number, name in enumerate(names, 1):
        kept = dict(list(names.items())[number - 1 :])
        lines.append(response | kept)
        expected[kept[name]] = [f"f:{number}"]
    lines += [response, response | {"task": "", "id": 5}]
    path = written(tmp_path / "f", *lines)
    assert summary([path]) == expected | {f"{path}:5": ["f:5"], "5": ["f:6"]}


def test_a_trajectory_without_an_original_id_is_of_the_task_its_id_begins_with(tmp_path):
    def line(id_: str, **changes: Any) -> dict[str, Any]:
        return one("entropy_results", id=id_, original_id=None) | changes

    lines = [
        *(line("q1_traj_0"), line("q1_traj_12"), line("q2_traj_0_traj_1"), line("q3_traj_x"), line("_traj_0")),
        *(line("q4_traj_0", original_id="q4_traj_0"), one("llama", id="q5_traj_0", task=None)),
    ]
    path = written(tmp_path / "f", *lines)
    assert {task: len(found) for task, found in read(path).items()} == {
        **{"q1": 2, "q2_traj_0": 1, "q3_traj_x": 1, "_traj_0": 1, "q4_traj_0": 1, "q5_traj_0": 1}
    }
    whole = read(written(tmp_path / "g", *lines[:2]), task_pattern=re.compile(r"^(.+)_traj_\d+$"))
    assert {task: len(found) for task, found in whole.items()} == {"q1": 2}


def test_blank_lines_marks_and_line_ends_of_other_systems(tmp_path):
    lines = [b"", CHAT[1], b"  ", b"\t", CHAT[2], b""]
    plain = written(tmp_path / "plain", *lines)
    windows = written(tmp_path / "windows", *lines, end=b"\r\n")
    marked = tmp_path / "marked"
    marked.write_bytes(b"\xef\xbb\xbf" + encoded(CHAT[1]) + b"\n" + encoded(CHAT[2]))  # no line end either
    assert summary([plain])["apples"] == ["plain:2", "plain:5"]
    assert summary([windows])["apples"] == ["windows:2", "windows:5"]
    assert summary([marked])["apples"] == ["marked:1", "marked:2"]


def test_line_separators_of_unicode_end_no_line(tmp_path):
    line = one("llama", content="one\u2028two\u0085three")
    assert summary([written(tmp_path / "f", line, line)]) == {"largest": ["f:1", "f:2"]}


@pytest.mark.parametrize("indent", [None, 2])
def test_a_document_of_one_response(indent, tmp_path):
    path = tmp_path / "f"
    path.write_text("\n" + json.dumps(CHAT[0], indent=indent))
    (pears,) = read(path).values()
    assert [candidate.source for candidate in pears] == [f"{path}:2"] * 3


def test_a_document_that_begins_with_more_than_a_bracket(tmp_path):
    path = tmp_path / "f"
    path.write_text(json.dumps(CHAT[0], indent=1).replace("{\n", "{", 1))
    assert list(read(path)) == ["pears"]


def test_an_array_over_many_lines_names_the_line_of_each_response():
    path = DATA / "responses.json"
    text = path.read_text().splitlines()
    recordings, candidates = read_all(path)
    assert [candidate.task for candidate in candidates] == ["chatcmpl-made-up-1"] * 2 + ["chatcmpl-made-up-2"]
    assert recordings.bad_lines == ()
    for candidate in candidates:
        line = int(candidate.source.rpartition(":")[2])
        assert text[line - 1] == "  {"
    assert [candidate.rollout.thread_id.rpartition(":")[2] for candidate in candidates] == [
        "2[0]#0",
        "2[0]#1",
        "565[1]",
    ]


def test_arrays_on_one_line_are_told_apart(tmp_path):
    path = written(tmp_path / "f", [CHAT[1], CHAT[2]], [CHAT[1], {"task": "none"}, CHAT[2]])
    recordings, candidates = read_all(path, skip_bad=True)
    assert [candidate.rollout.thread_id.rpartition(":")[2] for candidate in candidates] == [
        "1[0]",
        "1[1]",
        "2[0]",
        "2[2]",
    ]
    (bad,) = recordings.bad_lines
    assert bad.source == f"{path}:2" and bad.reason.startswith("item 1 of an array: none of the known shapes")


def test_an_error_deep_in_an_array_names_its_item(tmp_path):
    broken = one("chat")
    broken["choices"] = 5
    path = tmp_path / "f"
    path.write_text(json.dumps([CHAT[1], broken, CHAT[2]], indent=1))
    recordings, candidates = read_all(path, skip_bad=True)
    assert len(candidates) == 2
    (bad,) = recordings.bad_lines
    line = int(bad.source.rpartition(":")[2])
    assert path.read_text().splitlines()[line - 1] == " {"
    assert bad.reason.startswith("item 1 of an array: Expected `array`, got `int`")


@pytest.mark.parametrize(
    ("broken", "line", "reason"),
    [
        (lambda text: text[: len(text) // 2], None, "cut off"),
        (lambda text: text.replace('"stop"', "NaN"), '"finish_reason": NaN', "NaN"),
        (lambda text: text + "}", "}}", "more after the end"),
    ],
    ids=["cut off", "no JSON", "more"],
)
def test_a_broken_document_is_one_bad_line(broken, line, reason, tmp_path):
    path = tmp_path / "f"
    path.write_text(broken(json.dumps(CHAT[0], indent=1)))
    lines = path.read_text().rstrip().splitlines()
    number = len(lines) if line is None else next(i for i, text in enumerate(lines, 1) if line in text)
    recordings, candidates = read_all(path, skip_bad=True)
    assert candidates == []
    (bad,) = recordings.bad_lines
    assert bad.source == f"{path}:{number}" and reason in bad.reason
    with pytest.raises(RecordingError, match=f"f:{number}: "):
        list(read_recordings([path]))


def test_a_document_that_is_too_large_says_so(tmp_path):
    path = tmp_path / "f"
    path.write_text(json.dumps(CHAT[0], indent=1))
    with pytest.raises(RecordingError, match="f:1: one JSON document of more than 1,000 bytes; expected JSON Lines"):
        list(read_recordings([path], max_line_bytes=1000))


def test_a_broken_first_line_does_not_make_a_document(tmp_path):
    for start in (b"{", b"[", encoded(CHAT[1])[:100], encoded(CHAT[1])[:-1]):
        recordings, candidates = read_all(written(tmp_path / "f", start, CHAT[1], CHAT[2]), skip_bad=True)
        assert [candidate.source[-2:] for candidate in candidates] == [":2", ":3"]
        assert [bad.source[-2:] for bad in recordings.bad_lines] == [":1"]


def test_files_that_cannot_be_read(tmp_path):
    empty, blank, packed = written(tmp_path / "empty"), written(tmp_path / "blank", b"", b" "), tmp_path / "f.jsonl.gz"
    packed.write_bytes(gzip.compress(encoded(CHAT[1])))
    os.mkfifo(tmp_path / "pipe")
    refused = {
        tmp_path: "a directory; expected files",
        tmp_path / "absent": "no such file",
        empty: "empty; expected recorded generations",
        blank: "empty; expected recorded generations",
        packed: "compressed; expected plain text: run  gunzip",
        tmp_path / "pipe": "a pipe or a device; expected a file",
        tmp_path / "a\0b": "cannot be read",
        empty / "below": "cannot be read",
        tmp_path / ("a" * 300): "cannot be read",
    }
    good = written(tmp_path / "good", CHAT[1])
    for path, reason in refused.items():
        for skip_bad in (False, True):
            with pytest.raises(RecordingError, match=reason) as refusal:
                read_recordings([good, path], skip_bad=skip_bad)
            assert str(refusal.value).startswith(f"{path}: ") and "\n" not in str(refusal.value)
    with pytest.raises(RecordingError, match="no files"):
        read_recordings([])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_refused(tmp_path):
    path = written(tmp_path / "f", CHAT[1])
    path.chmod(0)
    with pytest.raises(RecordingError, match="cannot be read \\(Permission denied\\)"):
        read_recordings([path])


def test_a_file_that_goes_away_between_the_passes_is_an_error_of_ours(tmp_path):
    path = written(tmp_path / "f", CHAT[1])
    recordings = read_recordings([path])
    path.unlink()
    with pytest.raises(RecordingError, match="f: no such file"):
        list(recordings)


def test_a_file_that_changes_between_the_passes_is_bad(tmp_path):
    path = written(tmp_path / "f", CHAT[1], CHAT[2])
    recordings = read_recordings([path], skip_bad=True)
    path.write_bytes(b"x" * 10)
    assert list(recordings) == []
    assert len(recordings.bad_lines) == 2


def test_a_file_of_something_else_is_given_up(tmp_path):
    path = written(tmp_path / "table.csv", *[b"1,2,3"] * 1500)
    with pytest.raises(
        RecordingError, match="table.csv: its first 1,000 lines are bad, the first one: Expected `object`"
    ):
        read_recordings([path], skip_bad=True)


def test_duplicates_are_candidates(tmp_path):
    path = written(tmp_path / "f", *[ENTROPY_RESULTS[0]] * 3)
    assert [candidate.rollout.index for candidate in read(path)["made_up_1"]] == [0, 1, 2]
    assert len(read(path)["made_up_1"]) == len({candidate.rollout.thread_id for candidate in read(path)["made_up_1"]})
