"""What evaluation harnesses ask for: the probabilities of a text that is there, several prompts at once, ids in and out."""
import pytest

import harness
import reasoning_model
import tools_model
from harness import assert_error, post

COMPLETIONS = "/v1/completions"


def ids_of(port, text):
    return post(port, "/tokenize", prompt=text).json()["tokens"]


def test_lm_eval_gets_the_probabilities_of_its_prompts(port):
    prompts = [ids_of(port, "Once upon a time there was a cat."), ids_of(port, "Tom had a red car.")]
    asked = {"prompt": prompts, "temperature": 0, "max_tokens": 1, "logprobs": 1, "seed": 1234, "echo": True}  # as its local-completions sends it
    choices = post(port, COMPLETIONS, **asked).json()["choices"]
    assert [choice["index"] for choice in choices] == [0, 1]
    for prompt, choice in zip(prompts, choices, strict=True):
        logprobs = choice["logprobs"]
        assert len(logprobs["token_logprobs"]) == len(logprobs["tokens"]) == len(logprobs["top_logprobs"]) == len(prompt) + 1
        assert logprobs["token_logprobs"][0] is None and all(value <= 0 for value in logprobs["token_logprobs"][1:])
        # It takes the likeliest token of each place from top_logprobs, and the sum of a continuation from token_logprobs[start:-1].
        assert all(max(top.values()) >= value for top, value in zip(logprobs["top_logprobs"][1:], logprobs["token_logprobs"][1:], strict=True))
    alone = post(port, COMPLETIONS, **{**asked, "prompt": prompts[1]}).json()["choices"][0]["logprobs"]
    assert alone["token_logprobs"] == choices[1]["logprobs"]["token_logprobs"]
    nothing_new = post(port, COMPLETIONS, **{**asked, "prompt": prompts[1], "max_tokens": 0}).json()["choices"][0]["logprobs"]
    assert nothing_new["token_logprobs"] == alone["token_logprobs"][:-1]


@pytest.mark.parametrize("path", [COMPLETIONS, "/completions"])
def test_lists_of_prompts_with_several_choices_each(port, path):
    answer = post(port, path, prompt=["Once upon", "Tom had"], n=2, best_of=2, max_tokens=4, temperature=1, seed=3, return_token_ids=True).json()
    choices = answer["choices"]
    assert [choice["index"] for choice in choices] == [0, 1, 2, 3]
    assert [choice["prompt_token_ids"] for choice in choices] == [ids_of(port, text) for text in ("Once upon", "Once upon", "Tom had", "Tom had")]
    assert all(0 < len(choice["token_ids"]) <= 4 for choice in choices)
    assert answer["usage"]["completion_tokens"] == sum(len(choice["token_ids"]) for choice in choices)
    assert_error(post(port, path, prompt="Once", n=1, best_of=2), 400, param="best_of")
    assert_error(post(port, path, prompt=["a"] * 65), 400, param="prompt")


def test_a_chat_s_last_message_goes_on(port):
    talk = [{"role": "user", "content": "Tell me."}, {"role": "assistant", "content": "Once upon a time"}]
    for path in ("/v1/chat/completions", "/chat/completions"):
        answer = post(port, path, messages=talk, continue_final_message=True, add_generation_prompt=False, max_tokens=8, temperature=0, return_token_ids=True).json()
        [choice] = answer["choices"]
        rendered = post(port, "/apply-template", messages=talk, continue_final_message=True, add_generation_prompt=False).json()
        assert rendered["prompt"].endswith("Once upon a time") and rendered["token_ids"] == choice["prompt_token_ids"]
        assert len(choice["token_ids"]) == answer["usage"]["completion_tokens"] == 8
    assert_error(post(port, "/v1/chat/completions", messages=talk, continue_final_message=True, add_generation_prompt=True), 400, param="continue_final_message")


def test_the_harness_of_the_model_itself_agrees(port):
    case = harness.golden_cases()[1]
    answer = post(port, COMPLETIONS, prompt=case["prompt"], max_tokens=len(case["output_ids"]), temperature=0, echo=True, return_token_ids=True).json()["choices"][0]
    assert answer["text"] == case["output_text"] and answer["token_ids"] == case["output_ids"]


def test_a_text_whose_middle_is_missing(port, tmp_path):
    """As editors ask for it: what stands before the cursor, and behind it."""
    asked = {"prompt": "Once upon", "suffix": " the end.", "max_tokens": 4, "temperature": 0, "return_token_ids": True}
    assert_error(post(port, COMPLETIONS, **asked), 400, param="suffix")  # the demo model has no marks for that
    model = tools_model.make(tmp_path)
    reasoning_model.name_tokens(model, {509: "<|fim_prefix|>", 510: "<|fim_suffix|>", 511: "<|fim_middle|>"})
    with harness.serve(model=model, prefill=0, decode=0, mixed=1) as server:
        other = server.wait_ready().port
        before, behind = (post(other, "/tokenize", prompt=text, add_special_tokens=special).json()["tokens"] for text, special in (("Once upon", True), (" the end.", False)))
        answer = post(other, COMPLETIONS, **asked)
        assert answer.status == 200, answer.body
        [choice] = answer.json()["choices"]
        assert choice["prompt_token_ids"] == [before[0], 509, *before[1:], 510, *behind, 511]
        assert answer.json()["usage"]["prompt_tokens"] == len(choice["prompt_token_ids"])
        assert not {509, 510, 511} & set(choice["token_ids"][:-1])  # a mark ends the middle
        assert_error(post(other, COMPLETIONS, **asked, echo=True), 400, param="suffix")
