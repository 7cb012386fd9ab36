"""What the scripts of this folder share: where the server is, and the tools whose calls the scripted model makes (table.py has its answers)."""
import os

URL = os.environ["SLUICE_URL"]  # without /v1
V1 = URL + "/v1"
MODEL = os.environ["SLUICE_MODEL"]
KEY = "none"
QUESTION = "What is the weather in Paris?"
ANSWER = "It is 18 degrees and sunny in Paris."
STORY = "Jason is 25 years old. Answer with the person as JSON."


class Weather:
    """The tool. `asked` are the cities that it was called with: a loop that did not call it has not been one."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, city: str) -> str:
        self.asked.append(city)
        return f"{city}: 18 degrees, sunny"


def check(weather: Weather, answer: str, calls: int = 1) -> None:
    assert weather.asked == ["Paris"] * calls, weather.asked
    assert answer == ANSWER, answer
