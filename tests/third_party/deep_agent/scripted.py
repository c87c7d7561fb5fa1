"""The model of this deep agent and of its sub-agent: rollout i plans, takes note i and has i mailed."""

from __future__ import annotations

from tests.third_party.saying import model_of, said_since_asked, says

ERRAND = "Mail what is in /notes.md."


def _turn(index, messages):
    asked = next(message for message in reversed(messages) if message.type == "human").text
    turn = said_since_asked(messages)
    if asked == ERRAND:
        turns = [
            says(index, f"Reading for {index}.", ("read_file", {"file_path": "/notes.md"})),
            says(index, f"Mailing for {index}.", ("send_mail", {"to": f"ann{index}", "text": "the note"})),
            says(index, f"Mailed to ann{index}."),
        ]
        return turns[turn]
    plan = {"todos": [{"content": f"note, then mail {index}", "status": "in_progress"}]}
    turns = [
        says(index, f"A plan of {index}.", ("write_todos", plan), ("search", {"query": f"query {index}"}), first=True),
        says(index, f"A note of {index}.", ("write_file", {"file_path": "/notes.md", "content": f"fact {index}"})),
        says(index, f"An errand of {index}.", ("task", {"description": ERRAND, "subagent_type": "mailer"})),
        says(index, f"Fact {index} is on its way."),
    ]
    return turns[turn]


model = model_of(_turn)
