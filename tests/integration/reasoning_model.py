"""The demo model with the two tokens of reasoning, and a chat template that opens it. The model knows nothing of either."""
import json
import pathlib

import tools_model

BEGIN = 510  # these two stand for letters that its stories do without
END = 511
NEVER_ENDS = {str(END): -100}


def make(parent: pathlib.Path) -> pathlib.Path:
    folder = tools_model.make(parent)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    for token, text in ((BEGIN, "<think>"), (END, "</think>")):
        [old] = [one for one, number in vocabulary.items() if number == token]
        del vocabulary[old]
        vocabulary[text] = token
        tokenizer["added_tokens"].append({"id": token, "content": text, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False})
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["chat_template"] = tools_model.TEMPLATE + "{%- if enable_thinking is not defined or enable_thinking %}<think>\n{% endif %}"
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder
