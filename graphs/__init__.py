"""LangGraph applications, named in langgraph.json."""
