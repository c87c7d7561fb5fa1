"""Reads people out of a text, and corrects what does not fit the schema."""

from pydantic import BaseModel
from trustcall import create_extractor

from tests.third_party.extraction.scripted import model


class Person(BaseModel):
    """Somebody."""

    name: str
    age: int


app = create_extractor(model, tools=[Person], tool_choice="Person")

if __name__ == "__main__":
    result = app.invoke("Ann will be 33 in May.")
    print(result["responses"])
