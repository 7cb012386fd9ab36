"""The demo model with the two tokens of reasoning, and a chat template that opens it. The model knows nothing of either."""
import json
import pathlib

import tools_model

BEGIN = 510  # these two stand for letters that its stories do without
END = 511
NEVER_ENDS = {str(END): -100}


def name_tokens(folder: pathlib.Path, names: dict[int, str]) -> None:
    """Gives tokens of a model's folder another text, which stands for itself wherever it is."""
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    for token, text in names.items():
        [old] = [one for one, number in vocabulary.items() if number == token]
        del vocabulary[old]
        vocabulary[text] = token
        tokenizer["added_tokens"].append({"id": token, "content": text, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False})
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


def make(parent: pathlib.Path) -> pathlib.Path:
    folder = tools_model.make(parent)
    name_tokens(folder, {BEGIN: "<think>", END: "</think>"})
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["chat_template"] = tools_model.TEMPLATE + "{%- if enable_thinking is not defined or enable_thinking %}<think>\n{% endif %}"
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder
