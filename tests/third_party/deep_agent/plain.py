"""A deep agent that plans, searches, keeps notes as files and has a sub-agent send mail."""

from deepagents import create_deep_agent
from langchain.agents.middleware import TodoListMiddleware

from tests.third_party.deep_agent.scripted import model

sent = []


def search(query: str) -> str:
    """Search the archive."""
    return f"A fact about {query}."


def send_mail(to: str, text: str) -> str:
    """Send a mail."""
    sent.append(to)
    return f"Sent to {to}."


mailer = {"name": "mailer", "description": "Sends mail.", "system_prompt": "You send mail.", "tools": [send_mail]}
app = create_deep_agent(
    model,
    [search],
    system_prompt="You find facts, and tell people.",
    subagents=[mailer],
    middleware=[TodoListMiddleware()],
)

if __name__ == "__main__":
    result = app.invoke({"messages": [("user", "Find it out, and tell Ann.")]})
    print(result["messages"][-1].text, sorted(result["files"]), sent)
