"""DSPy: Predict with its own markers, JSONAdapter with a schema, ReAct's loop."""
import dspy
from common import ANSWER, KEY, MODEL, QUESTION, V1, Weather


def lm(script: str) -> dspy.LM:
    return dspy.LM(f"openai/{MODEL}", api_base=V1, api_key=KEY, cache=False, num_retries=0, max_tokens=500, extra_body={"chat_template_kwargs": {"script": script}})


weather = Weather()


def get_weather(city: str) -> str:
    """The weather of a city."""
    return weather(city)


with dspy.context(lm=lm("dspy")):
    assert dspy.Predict("question -> answer")(question=QUESTION).answer == ANSWER
with dspy.context(lm=lm("dspy_json"), adapter=dspy.JSONAdapter()):
    typed = dspy.Predict("story -> name: str, age: int")(story="Jason is 25 years old.")
    assert (typed.name, typed.age) == ("Jason", 25)
lms = iter([lm("dspy_react.0"), lm("dspy_react.1"), lm("dspy_react.2")])


class Steps(dspy.LM):
    """ReAct sends one user message each time: the script of a step is chosen by counting."""

    def forward(self, *arguments, **fields):
        return next(lms).forward(*arguments, **fields)


with dspy.context(lm=Steps(f"openai/{MODEL}", api_base=V1, api_key=KEY, cache=False)):
    answer = dspy.ReAct("question -> answer", tools=[get_weather])(question=QUESTION)
assert answer.answer == ANSWER and weather.asked == ["Paris"], (answer, weather.asked)
print("Predict, JSONAdapter with a schema, ReAct")
