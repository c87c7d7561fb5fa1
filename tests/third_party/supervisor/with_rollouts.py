"""A supervisor that has one agent look for a hotel, and another book it."""

from langchain.agents import create_agent
from langgraph_supervisor import create_supervisor

from entcent_agents.prebuilt import entropy_centroid_graph
from tests.third_party.supervisor import scripted

booked = []


def search_hotels(city: str) -> str:
    """Search for hotels."""
    return f"There is one in {city}."


def book_hotel(name: str) -> str:
    """Book a room."""
    booked.append(name)
    return f"Booked {name}."


researcher = create_agent(scripted.researcher, [search_hotels], name="researcher", system_prompt="You find hotels.")
booker = create_agent(scripted.booker, [book_hotel], name="booker", system_prompt="You book hotels.")
workflow = create_supervisor(
    [researcher, booker], model=scripted.supervisor, prompt="Use the researcher, then the booker."
)
app = entropy_centroid_graph(workflow.compile(), effects={"search_hotels": "READ"})

if __name__ == "__main__":
    result = app.invoke({"messages": [("user", "A room in Oslo, please.")]})
    print(result["messages"][-1].text, booked)
