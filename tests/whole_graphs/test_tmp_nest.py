from tests.whole_graphs.test_in_a_larger_graph import *
from entcent_agents.effects import READ
from langgraph_supervisor import create_supervisor

@ROLLOUTS
async def test_nested_external(n):
    sent=[]
    inner = entropy_centroid_graph(mailing(sent), n=2, selector=Chosen(1), effects=EFFECTS, name="inner")
    builder = StateGraph(MessagesState)
    builder.add_node("inner", inner)
    builder.add_edge(START, "inner")
    g = entropy_centroid_graph(builder.compile(), n=n, selector=Chosen(winner_of(n)))
    state = await g.ainvoke({"messages":[HumanMessage("ann")]})
    print([m.text for m in state["messages"]], sent, state["selection"])
    assert len(sent)==1
