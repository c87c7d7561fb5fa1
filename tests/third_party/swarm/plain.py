"""A swarm of a front desk and a refunds agent, who go on talking where they were."""

from langchain.agents import create_agent
from langgraph.checkpoint.memory import InMemorySaver
from langgraph_swarm import create_handoff_tool, create_swarm

from tests.third_party.swarm import scripted

refunded = []


def find_order(text: str) -> str:
    """Find an order."""
    return f"Order 7 is {text}."


def refund(order: str, kroner: int) -> str:
    """Give money back."""
    refunded.append((order, kroner))
    return f"Gave back {kroner}."


desk = create_agent(scripted.desk, [create_handoff_tool(agent_name="refunds")], name="desk")
refunds = create_agent(scripted.refunds, [find_order, refund, create_handoff_tool(agent_name="desk")], name="refunds")
workflow = create_swarm([desk, refunds], default_active_agent="desk")
app = workflow.compile(checkpointer=InMemorySaver())

if __name__ == "__main__":
    thread = {"configurable": {"thread_id": "customer"}}
    result = app.invoke({"messages": [("user", "It came broken.")]}, thread)
    print(result["messages"][-1].text, refunded)
