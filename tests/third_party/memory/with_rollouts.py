"""An agent that writes what it learns of its user to a store, and looks there."""

from langgraph.prebuilt import create_react_agent
from langgraph.store.memory import InMemoryStore
from langmem import create_manage_memory_tool, create_search_memory_tool

from entcent_agents.prebuilt import entropy_centroid_graph
from tests.third_party.memory.scripted import model

store = InMemoryStore()
tools = [create_manage_memory_tool(namespace=("memories",)), create_search_memory_tool(namespace=("memories",))]
app = create_react_agent(model, tools, store=store)
app = entropy_centroid_graph(app, effects={"manage_memory": "READ", "search_memory": "READ"})

if __name__ == "__main__":
    app.invoke({"messages": [("user", "Remember that I like dark mode.")]})
    result = app.invoke({"messages": [("user", "Which mode do I like?")]})
    print(result["messages"][-1].text)
