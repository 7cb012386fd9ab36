"""A real Llama whose weights say fixed answers. Everything around it is as with any other model: tokenizer, template, engine, grammars, gateway.

Its residual stream is one place wide for each piece of the answers: the embedding of a piece is a one at its place, attention and MLP are zeros, and the output
row of the next piece reads that place. So each piece is followed by the next one, with a probability that no temperature changes; other tokens are followed by chance.
The chat template chooses the answer: its last token is the first piece of it.

An answer is chosen by its script and by how many messages of the assistant the conversation holds (the last one from then on). The script is the
`chat_template_kwargs` `script`; else that of the last words of `by_words` which a message of the user holds; else, where the request has tools, the one with the name of the
first of them that has one, or "tools"; else "".
"""
from __future__ import annotations

import array
import collections
import json
import pathlib
import re
import struct

import harness

END = "<|end|>"
# Its answers are made of tokens that its tokenizer never cuts a text into: what a grammar forces has to come as any tokens that spell it, or it loses its place.
SERVE_FLAGS = ("--set", "worker.forced_tokens_max=0")
OUTPUT_SCALE = 8.0  # logits of the next piece against all others: OUTPUT_SCALE * sqrt(hidden)
MERGED_WORDS = 600


def call(name: str, arguments: dict) -> str:
    """How the model writes a call (the form `hermes`)."""
    return f'<tool_call>\n{json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)}\n</tool_call>'


TEMPLATE = """{%- set sizes = SIZES -%}
{%- set by_words = WORDS -%}
{%- set seen = namespace(answers=0, script="") -%}
{%- if tools -%}
{%- set seen.script = "tools" -%}
{%- for tool in tools | reverse -%}{%- if tool.function.name in sizes -%}{%- set seen.script = tool.function.name -%}{%- endif -%}{%- endfor -%}
{%- for tool in tools -%}{{ tool | tojson }}
{% endfor -%}
{%- endif -%}
{%- for words, name in by_words.items() -%}{%- for message in messages -%}
{%- if message.role == "user" and message.content is string and words in message.content -%}{%- set seen.script = name -%}{%- endif -%}
{%- endfor -%}{%- endfor -%}
{%- if script is defined -%}{%- set seen.script = script -%}{%- endif -%}
{%- for message in messages -%}
{{ message.role }}: {{ message.content }}
{%- for call in message.tool_calls or [] %}<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{%- endfor %}
{% if message.role == "assistant" -%}{%- set seen.answers = seen.answers + 1 -%}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ "<|" ~ seen.script ~ "." ~ ([seen.answers, sizes[seen.script] - 1] | min) ~ "|>" }}{%- endif -%}"""


def byte_letters() -> list[str]:
    """The letter that stands for each byte in a byte-level vocabulary."""
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in plain else chr(next(others)) for byte in range(256)]


def merges_of(text: str) -> list[tuple[str, str]]:
    """Merges that make a token of each of the commonest words: prompts in bytes would be long."""
    letters = byte_letters()
    merges: dict[tuple[str, str], None] = {}
    for word, _ in collections.Counter(re.findall(r" ?[A-Za-z]{2,}", text)).most_common(MERGED_WORDS):
        spelled = [letters[byte] for byte in word.encode()]
        for i in range(1, len(spelled)):
            merges.setdefault(("".join(spelled[:i]), spelled[i]))
    return list(merges)


def pieces_of(text: str, used: set[str]) -> list[str]:
    """`text` cut into pieces that nobody has yet, since a vocabulary has each of its tokens once. A last one that cannot be is part of the one before it."""
    pieces: list[str] = []
    letters = byte_letters()
    spelled = "".join(letters[byte] for byte in text.encode())
    begin, length = 0, 4
    while begin < len(spelled):
        end = begin + length
        piece = spelled[begin:end]
        if end >= len(spelled) and piece in used and pieces:
            used.discard(pieces[-1])
            begin -= len(pieces.pop())
            length = len(spelled) - begin
            continue
        if piece in used:
            assert end < len(spelled), f"two answers end in the same way and are short: {text!r}"
            length += 1
            continue
        used.add(piece)
        pieces.append(piece)
        begin, length = end, 4
    return pieces


def make(folder: pathlib.Path, scripts: dict[str, list[str]], context: int = 65536, by_words: dict[str, str] | None = None) -> pathlib.Path:
    """Writes the model into `folder` (made here). `scripts`: the answers of each script, at least one each; "" and "tools" have some if need be. `by_words`: words -> a script."""
    scripts = {"": ["Yes, that is so."], "tools": ["I need none of them."], **scripts}
    folder.mkdir(parents=True)
    letters = byte_letters()
    merges = merges_of((harness.ROOT / "README.md").read_text() + (harness.ROOT / "docs" / "architecture.md").read_text())
    vocabulary = {letter: number for number, letter in enumerate(letters)}
    for left, right in merges:
        vocabulary.setdefault(left + right, len(vocabulary))
    used = set(vocabulary)
    specials = [END]
    following: list[tuple[str, str]] = []  # a token, and the one that comes after it
    for name, answers in scripts.items():
        for number, answer in enumerate(answers):
            specials.append(f"<|{name}.{number}|>")
            steps = [specials[-1], *pieces_of(answer, used), END]
            following += list(zip(steps, steps[1:]))
    for token in [*(after for _, after in following if after != END), *specials]:  # special tokens are numbered after all others, or the tokenizer does it itself
        vocabulary.setdefault(token, len(vocabulary))
    hidden = 64 * -(-len(following) // 64)
    shapes = {"model.embed_tokens": [len(vocabulary), hidden], "lm_head": [len(vocabulary), hidden], "model.norm": [hidden],
              **{f"model.layers.0.{name}": shape for name, shape in {
                  "input_layernorm": [hidden], "post_attention_layernorm": [hidden], "self_attn.q_proj": [64, hidden], "self_attn.k_proj": [64, hidden],
                  "self_attn.v_proj": [64, hidden], "self_attn.o_proj": [hidden, 64], "mlp.gate_proj": [64, hidden], "mlp.up_proj": [64, hidden],
                  "mlp.down_proj": [hidden, 64]}.items()}}
    weights = {name: array.array("f", [1.0] * shape[0] if len(shape) == 1 else bytes(4 * shape[0] * shape[1])) for name, shape in shapes.items()}
    for place, (token, after) in enumerate(following):
        weights["model.embed_tokens"][vocabulary[token] * hidden + place] = 1.0
        weights["lm_head"][vocabulary[after] * hidden + place] = OUTPUT_SCALE
    header, offset = {}, 0
    for name, values in weights.items():
        header[name + ".weight"] = {"dtype": "F32", "shape": shapes[name], "data_offsets": [offset, offset + 4 * len(values)]}
        offset += 4 * len(values)
    head = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(head)) + head)
        for values in weights.values():
            values.tofile(file)

    end = vocabulary[END]
    (folder / "config.json").write_text(json.dumps({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": hidden, "head_dim": 64, "intermediate_size": 64, "num_hidden_layers": 1,
        "num_attention_heads": 1, "num_key_value_heads": 1, "vocab_size": len(vocabulary), "max_position_embeddings": context, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": False, "bos_token_id": end, "eos_token_id": end, "torch_dtype": "float32"}))
    (folder / "tokenizer.json").write_text(json.dumps({
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None, "post_processor": None,
        "added_tokens": [{"id": vocabulary[token], "content": token, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
                         for token in specials],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": False,
                  "byte_fallback": False, "ignore_merges": False, "vocab": {token: number for token, number in vocabulary.items() if token not in specials},
                  "merges": [f"{left} {right}" for left, right in merges]}}))
    (folder / "tokenizer_config.json").write_text(json.dumps({
        "tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END, "clean_up_tokenization_spaces": False, "model_max_length": context,
        "chat_template": TEMPLATE.replace("SIZES", json.dumps({name: len(answers) for name, answers in scripts.items()})).replace("WORDS", json.dumps(by_words or {}))}))
    return folder
