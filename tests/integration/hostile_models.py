"""Model folders and files that nobody should serve, made from the demo model: several hundred, each with what has to be said about it.

A case breaks one thing. Its words must all stand in the output, of `any_of` at least one; `served` says whether the model may be served all the
same (what is wrong is repaired, with the words as a warning), must not be, or either (None).
"""
from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import shutil
import struct
from collections.abc import Callable, Iterator
from typing import Any

import harness

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
GENERATION, TOKENIZER, TOKENIZER_CONFIG = "generation_config.json", "tokenizer.json", "tokenizer_config.json"
Make = Callable[[pathlib.Path], Any]


@dataclasses.dataclass
class Case:
    name: str
    make: Make  # breaks the copy of the demo model in a folder; gives the path to serve where it is another one
    words: tuple[str, ...] = ()
    any_of: tuple[str, ...] = ()
    served: bool | None = False


class Literal(str):
    """What goes into a JSON text as it is, such as NaN."""


def dumps(value: Any) -> str:
    """JSON over several lines, with literals and with keys that stand twice (a list of pairs)."""
    if isinstance(value, Literal):
        return str(value)
    if isinstance(value, dict):
        return "{\n" + ",\n".join(f" {json.dumps(key)}: {dumps(item)}" for key, item in value.items()) + "\n}"
    if isinstance(value, list) and value and all(isinstance(item, tuple) for item in value):
        return "{" + ",\n".join(f"{json.dumps(key)}: {dumps(item)}" for key, item in value) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(dumps, value)) + "]"
    return json.dumps(value)


def edit(name: str, **fields: Any) -> Make:
    """Sets fields of a JSON file; Ellipsis takes one out."""
    def make(folder: pathlib.Path) -> None:
        document = json.loads((folder / name).read_text()) if (folder / name).exists() else {}
        document |= fields
        (folder / name).write_text(dumps({key: item for key, item in document.items() if item is not ...}))
    return make


def put(name: str, content: bytes | str) -> Make:
    return lambda folder: (folder / name).write_bytes(content.encode() if isinstance(content, str) else content) and None


# --- config.json ----------------------------------------------------------------------------------------------------------

SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size",
         "max_position_embeddings", "head_dim")
NOT_SIZES: dict[str, Any] = {"0": 0, "negative": -1, "fraction": 1.5, "huge": 1e300, "2^31": 2**31, "2^63": 2**63, "2^64-1": 2**64 - 1, "text": "64",
                             "true": True, "list": [64], "object": {}, "NaN": Literal("NaN")}


def config_sizes() -> Iterator[Case]:
    for field in SIZES:
        for name, value in NOT_SIZES.items():
            yield Case(f"{field} {name}", edit(CONFIG, **{field: value}), (CONFIG, field, "line "))
        is_optional = field in ("head_dim", "num_key_value_heads")
        for name, value in {"missing": ..., "null": None}.items():
            yield Case(f"{field} {name}", edit(CONFIG, **{field: value}), () if field == "head_dim" else (CONFIG,), () if is_optional else (field,),
                       served=field == "head_dim")
        for name, value in {"odd": 3, "one": 1, "not that of the weights": 6}.items():
            if (field, name) == ("max_position_embeddings", "not that of the weights"):
                continue
            yield Case(f"{field} {name}", edit(CONFIG, **{field: value}), (), (field, "config.json asks for", "has only", "context"), None)


def config_numbers() -> Iterator[Case]:
    values = {"0": 0, "negative": -1, "huge": 1e300, "tiny": 1e-300, "text": "1e-5", "true": True, "list": [], "NaN": Literal("NaN"),
              "Infinity": Literal("Infinity"), "-Infinity": Literal("-Infinity"), "beyond double": Literal("1e999"), "2^64-1": 2**64 - 1}
    for field in ("rms_norm_eps", "rope_theta"):
        for name, value in values.items():
            yield Case(f"{field} {name}", edit(CONFIG, **{field: value}), (CONFIG, field, "line "))
    for name, scaling in {
            "a number": 3, "a list": [1], "an unknown kind": {"rope_type": "telepathic", "factor": 2.0}, "a kind of another type": {"rope_type": 7},
            "no factor": {"rope_type": "linear"}, "factor 0": {"rope_type": "linear", "factor": 0}, "factor huge": {"rope_type": "linear", "factor": 1e300},
            "factor NaN": {"rope_type": "linear", "factor": Literal("NaN")}, "llama3 without fields": {"rope_type": "llama3", "factor": 2.0},
            "llama3 upside down": {"rope_type": "llama3", "factor": 2.0, "low_freq_factor": 4.0, "high_freq_factor": 1.0,
                                   "original_max_position_embeddings": 64},
            "llama3 of no tokens": {"rope_type": "llama3", "factor": 2.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                                    "original_max_position_embeddings": 0}}.items():
        yield Case(f"rope_scaling {name}", edit(CONFIG, rope_scaling=scaling), (CONFIG, "line "), ("rope_scaling", '"factor"'))
    wrong: dict[str, list[Any]] = {
        "architectures": [..., None, "LlamaForCausalLM", [], [7], ["MambaForCausalLM"], {}, ["LlamaForCausalLM" * 100_000]],
        "hidden_act": ["gelu", 7, []], "tie_word_embeddings": [1, "yes"], "attention_bias": ["no", 2], "mlp_bias": [True],
        "sliding_window": [16, "wide", -1], "partial_rotary_factor": [0.5], "quantization_config": [{"quant_method": "gptq"}, 7, "fp8", []],
        "compression_config": [{}]}
    for field, values_of_field in wrong.items():
        for value in values_of_field:
            yield Case(f"{field} {str(value)[:40]}", edit(CONFIG, **{field: value}), (CONFIG, field))
    yield Case("architectures of an encoder", edit(CONFIG, architectures=["BertModel"]), ("sentence encoder",))
    yield Case("untied without a head", edit(CONFIG, tie_word_embeddings=False), ("lm_head.weight",))
    yield Case("biases that nobody has", edit(CONFIG, attention_bias=True), ("q_proj.bias",))
    yield Case("Qwen's biases that nobody has", edit(CONFIG, architectures=["Qwen2ForCausalLM"]), ("q_proj.bias",))
    yield Case("Qwen's norms that nobody has", edit(CONFIG, architectures=["Qwen3ForCausalLM"]), ("q_norm",))


# --- JSON that is none, in every file -------------------------------------------------------------------------------------

def broken_json() -> Iterator[Case]:
    for file in (CONFIG, GENERATION, TOKENIZER, TOKENIZER_CONFIG, INDEX):
        def place(content: bytes, file: str = file) -> Make:
            def make(folder: pathlib.Path) -> None:
                if file == INDEX:
                    (folder / WEIGHTS).rename(folder / "part.safetensors")
                (folder / file).write_bytes(content)
            return make
        stem = file.split(".")[0] if file == TOKENIZER else file
        texts = {"empty": b"", "a brace": b"{", "a list": b"[]", "a number": b"7", "null": b"null", "text behind it": b"{} x", "bytes": b"\xff\xfe\x00{",
                 "a key alone": b'{"eos_token_id"', "NaN": b'{"x": [NaN]}', "a deep list": b"[" * 200_000, "deep objects": b'{"a":' * 100_000,
                 "NUL": b'{"a": "\x00"}', "a lone escape": b'{"a": "\\', "half a surrogate": b'{"a": "\\ud800"}', "commas": b'{"a": [' + b"1," * 2_000_000 + b"1]}"}
        for name, content in texts.items():
            is_odd_but_read = name in ("half a surrogate", "commas") and file in (GENERATION, TOKENIZER_CONFIG)
            yield Case(f"{file}: {name}", place(content), () if is_odd_but_read else (stem,), served=None if is_odd_but_read else False)


# --- safetensors ----------------------------------------------------------------------------------------------------------

def read_weights(path: pathlib.Path) -> tuple[dict[str, Any], bytes]:
    content = path.read_bytes()
    size, = struct.unpack("<Q", content[:8])
    return json.loads(content[8:8 + size]), content[8 + size:]


def write_weights(path: pathlib.Path, header: Any, data: bytes) -> None:
    text = header if isinstance(header, bytes) else dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def header(change: Callable[[dict[str, Any], bytes], Any]) -> Make:
    """`change(header, data)` changes the header in place, or gives another (header, data)."""
    def make(folder: pathlib.Path) -> None:
        entries, data = read_weights(folder / WEIGHTS)
        write_weights(folder / WEIGHTS, *(change(entries, data) or (entries, data)))
    return make


NORM, UP = "model.norm.weight", "model.layers.2.mlp.up_proj.weight"
KINDS = ("model.embed_tokens.weight", NORM, *(f"model.layers.3.{name}.weight" for name in (
    "input_layernorm", "post_attention_layernorm", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj",
    "mlp.up_proj", "mlp.down_proj")))


def safetensors_headers() -> Iterator[Case]:
    def entry(name: str, *words: str, **fields: Any) -> Case:
        def change(entries: dict[str, Any], _: bytes) -> None:
            entries[NORM] = {key: value for key, value in (entries[NORM] | fields).items() if value is not ...}
        return Case(f"entry: {name}", header(change), (WEIGHTS, *words))

    for name, value in {"missing": ..., "null": None, "unknown": "F7", "a number": 7, "another": "F64", "long": "F" * 100_000}.items():
        yield entry(f"dtype {name}", NORM, dtype=value)
    for name, value in {"missing": ..., "text": "64", "negative": [-64], "fraction": [64.5], "none": [], "too many": [1] * 9 + [64], "overflow": [2**40, 2**40],
                        "zero": [0], "other": [63], "2^64-1": [2**64 - 1], "nested": [[64]], "million": [1] * 1_000_000}.items():
        yield entry(f"shape {name}", NORM, shape=value)
    for name, value in {"missing": ..., "one": [0], "three": [0, 1, 2], "swapped": [131328, 131072], "negative": [-4, 252], "beyond": [2**40, 2**40 + 256],
                        "text": ["0", "256"], "fraction": [0.5, 256.5], "overlap": [0, 256], "2^64-1": [2**64 - 257, 2**64 - 1]}.items():
        yield entry(f"data_offsets {name}", data_offsets=value)
    for tensor in KINDS:
        def without(entries: dict[str, Any], data: bytes, tensor: str = tensor) -> Any:
            begin, end = entries.pop(tensor)["data_offsets"]
            for other in entries.values():
                if other.get("data_offsets", [0])[0] >= end:
                    other["data_offsets"] = [offset - end + begin for offset in other["data_offsets"]]
            return entries, data[:begin] + data[end:]
        yield Case(f"without {tensor}", header(without), (f"lacks tensor {tensor}", CONFIG))

        def transposed(entries: dict[str, Any], _: bytes, tensor: str = tensor) -> None:
            shape = entries[tensor]["shape"]
            entries[tensor]["shape"] = [shape[1], shape[0]] if len(shape) == 2 and shape[0] != shape[1] else [1, *shape]
        yield Case(f"another shape of {tensor}", header(transposed), (f"tensor {tensor} has shape", CONFIG))

    def added(name: str, count: int = 64) -> Make:
        def change(entries: dict[str, Any], data: bytes) -> Any:
            entries[name] = {"dtype": "F32", "shape": [count], "data_offsets": [len(data), len(data) + 4 * count]}
            return entries, data + struct.pack("<f", 1.5) * count
        return header(change)
    yield Case("a layer too many", added("model.layers.5.mlp.up_proj.weight"), ("model.layers.5.mlp.up_proj.weight", "5 layers"))
    yield Case("a layer far beyond", added("model.layers.4294967296.mlp.up_proj.weight"), ("model.layers.4294967296",))
    yield Case("a bias that config.json does not know", added("model.layers.0.self_attn.q_proj.bias"), ("q_proj.bias",))
    yield Case("a head beside a tied embedding", added("lm_head.weight"), ("lm_head.weight",))
    yield Case("a tensor of something else", added("vision.weight"), ("vision.weight",), served=True)
    yield Case("a tensor without a name", added(""), served=None)
    yield Case("a tensor with a long name", added("x" * 1_000_000), served=None)
    yield Case("a tensor twice", header(lambda entries, data: ([*entries.items(), (NORM, entries[NORM])], data)), (WEIGHTS, NORM, "twice"))
    yield Case("no tensors", header(lambda _, __: ({}, b"")), ("lacks tensor",))
    yield Case("no data", header(lambda entries, _: (entries, b"")), (WEIGHTS,))
    yield Case("data too short", header(lambda entries, data: (entries, data[:-1])), (WEIGHTS,))
    yield Case("data too long", header(lambda entries, data: (entries, data + b"x")), (WEIGHTS,))
    yield Case("metadata that is none", header(lambda entries, data: (entries | {"__metadata__": 7}, data)), served=None)
    yield Case("tensors by the ten thousand", header(lambda entries, data: (
        entries | {f"x{i}": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for i in range(50_000)}, data)), served=None)
    for name, text in {"a brace": b"{", "a list": b"[]", "empty": b"", "blanks": b" " * 100, "NaN": b'{"a": NaN}', "deep": b'{"a":' * 50_000,
                       "commas": b'{"a": [' + b"1," * 20_000_000 + b"1]}", "lists": b'{"a": [' + b"[]," * 10_000_000 + b"1]}", "bytes": bytes(range(256)),
                       "entries that are no objects": b'{"a": 7}'}.items():
        yield Case(f"header: {name}", header(lambda _, data, text=text: (text, data)), (WEIGHTS,))


def safetensors_files() -> Iterator[Case]:
    for keep in (0, 1, 7, 8, 9, 100, 4863, 4864, 5000, 500_000, -1, -4):
        yield Case(f"cut to {keep}", lambda folder, keep=keep: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:keep]) and None, (WEIGHTS,))
    for length in (0, 1, 4855, 4857, 1_044_984, 1_044_985, 100_000_001, 1 << 62, (1 << 64) - 1):
        yield Case(f"header of {length}", lambda folder, length=length: (folder / WEIGHTS).write_bytes(
            struct.pack("<Q", length) + (folder / WEIGHTS).read_bytes()[8:]) and None, (WEIGHTS,))
    yield Case("a pickle", put(WEIGHTS, b"\x80\x02}q\x00." * 100), (WEIGHTS,))
    yield Case("zeros", put(WEIGHTS, bytes(100_000)), (WEIGHTS,))


def weight_values() -> Iterator[Case]:
    for tensor in KINDS:
        for name, value in {"NaN": float("nan"), "Inf": float("inf"), "-Inf": float("-inf"), "absurd": -1e30}.items():
            def change(entries: dict[str, Any], data: bytes, tensor: str = tensor, value: float = value) -> Any:
                place = entries[tensor]["data_offsets"][1] - 4
                return entries, data[:place] + struct.pack("<f", value) + data[place + 4:]
            yield Case(f"{name} in {tensor}", header(change), (WEIGHTS, f"tensor {tensor}: element ["))
    yield Case("zeros for weights", header(lambda entries, data: (entries, bytes(len(data)))), served=True)
    yield Case("large weights everywhere", header(lambda entries, data: (entries, struct.pack("<f", 9e7) * (len(data) // 4))), served=None)


# --- shards ---------------------------------------------------------------------------------------------------------------

def shards() -> Iterator[Case]:
    def index(weight_map: Any, parts: dict[str, int] | None = None, **fields: Any) -> Make:
        def make(folder: pathlib.Path) -> None:
            for part in parts or {"a.safetensors": 0}:
                shutil.copy(folder / WEIGHTS, folder / part)
            names = [name for name in read_weights(folder / WEIGHTS)[0] if name != "__metadata__"]
            (folder / WEIGHTS).unlink()
            content = weight_map(names) if callable(weight_map) else weight_map
            (folder / INDEX).write_text(dumps({"weight_map": content} | fields))
        return make
    good = lambda names: {name: "a.safetensors" for name in names}
    yield Case("an index that is right", index(good), served=True)
    for name, value in {"missing": ..., "a list": [], "empty": {}, "text": "a.safetensors", "of numbers": {NORM: 7}, "null": None}.items():
        yield Case(f"weight_map {name}", index({} if value is ... else value), (INDEX, "weight_map") if name != "of numbers" else (INDEX, NORM))
    for name, file in {"above": "../a.safetensors", "absolute": "/etc/passwd", "hidden": ".a", "with NUL": "a\0b", "the folder": "", "a folder below": "x/a",
                       "that is not there": "b.safetensors", "of another kind": CONFIG}.items():
        yield Case(f"a shard {name}", index(lambda names, file=file: good(names) | {NORM: file}), (), (INDEX, "b.safetensors", CONFIG))
    yield Case("a tensor that its shard lacks", index(lambda names: good(names) | {"model.layers.9.x": "a.safetensors"}), (INDEX, "model.layers.9.x"))
    yield Case("a tensor twice in the map", index(lambda names: [*good(names).items(), (NORM, "b.safetensors")]), (INDEX, NORM, "twice"))
    yield Case("a tensor in two shards", index(lambda names: {name: "b.safetensors" if name == UP else "a.safetensors" for name in names if name != NORM},
                                               {"a.safetensors": 0, "b.safetensors": 0}), (INDEX, NORM, "both"))
    yield Case("neither weights nor index", lambda folder: (folder / WEIGHTS).unlink(), (WEIGHTS, INDEX))


# --- files of another kind ------------------------------------------------------------------------------------------------

def file_kinds() -> Iterator[Case]:
    def instead(file: str, kind: str) -> Make:
        def make(folder: pathlib.Path) -> None:
            (folder / file).unlink(missing_ok=True)
            {"a folder": lambda path: path.mkdir(), "a pipe": os.mkfifo, "a link to itself": lambda path: path.symlink_to(path.name),
             "a link to nothing": lambda path: path.symlink_to("nothing"), "endless": lambda path: path.symlink_to("/dev/zero"),
             "huge": lambda path: (path.touch(), os.truncate(path, 1 << 36))}[kind](folder / file)
        return make
    for file in (CONFIG, WEIGHTS, TOKENIZER, GENERATION, TOKENIZER_CONFIG):
        is_optional = file in (GENERATION, TOKENIZER_CONFIG)
        for kind in ("a folder", "a pipe", "a link to itself", "a link to nothing", "endless", "huge"):
            is_missing = kind.startswith("a link")  # which an optional file may be
            yield Case(f"{file} is {kind}", instead(file, kind), () if is_optional and is_missing else (file.split(".")[0],),
                       served=None if is_optional and is_missing else False)
    for file in (CONFIG, WEIGHTS, TOKENIZER):
        yield Case(f"{file} is missing", lambda folder, file=file: (folder / file).unlink(), (file.split(".")[0],))
    yield Case("a folder that is not there", lambda folder: folder / "nowhere", ("nowhere",))
    yield Case("an empty folder", lambda folder: (folder / "inner").mkdir() or folder / "inner", ("inner",))


# --- sampling defaults, ids, tokenizers that are plainly broken ------------------------------------------------------------

def text_files() -> Iterator[Case]:
    bad = {"text": "hot", "negative": -1.5, "huge": 1e300, "list": [], "object": {"a": 1}, "true": True}
    for field in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty"):
        for name, value in bad.items():
            yield Case(f"{field} {name}", edit(GENERATION, **{field: value}), (GENERATION, field), served=True)
        yield Case(f"{field} NaN", edit(GENERATION, **{field: Literal("NaN")}), (GENERATION,), served=None)
    for field in ("eos_token_id", "bos_token_id"):
        for name, value in {"beyond": 512, "far beyond": 2**40, "negative": -1, "text": "</s>", "fraction": 2.5, "a list of all": [2, 512, -5, "x"],
                            "object": {}, "2^64-1": 2**64 - 1}.items():
            for file in (GENERATION, CONFIG):  # -1 is how some say that there is none
                yield Case(f"{file}: {field} {name}", edit(file, **{field: value}), () if value == -1 else (file, field), served=True)
    def model(**fields: Any) -> Make:
        def make(folder: pathlib.Path) -> None:
            document = json.loads((folder / TOKENIZER).read_text())
            document["model"] |= fields
            (folder / TOKENIZER).write_text(dumps(document))
        return make
    for name, fields in {"empty": {"vocab": {}}, "empty of all": {"vocab": {}, "merges": []}, "a list": {"vocab": []}, "negative": {"vocab": {"a": -1}},
                         "fraction": {"vocab": {"a": 1.5}}, "2^40": {"vocab": {"a": 2**40}}, "text": {"vocab": {"a": "b"}}}.items():
        yield Case(f"vocabulary {name}", model(**fields), ("tokenizer",))
    for name, fields in {"of another kind": {"type": "Telepathy"}, "merges of nothing": {"merges": [["zz", "qq"]]}, "merges that are numbers": {"merges": [7]}}.items():
        yield Case(f"model {name}", model(**fields), ("tokenizer",))
    def adding(token_id: int, name: str) -> Make:
        def make(folder: pathlib.Path) -> None:
            document = json.loads((folder / TOKENIZER).read_text())
            document["post_processor"] = {"type": "TemplateProcessing", "pair": [], "special_tokens": {"<s>": {"id": "<s>", "ids": [token_id], "tokens": ["<s>"]}},
                                          "single": [{"SpecialToken": {"id": name, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]}
            (folder / TOKENIZER).write_text(dumps(document))
        return make
    yield Case("a post-processor that adds an unknown token", adding(600, "<s>"), (TOKENIZER, "post_processor", "600"))
    yield Case("a post-processor that adds a token without a definition", adding(1, "<t>"), (TOKENIZER, "post_processor", "<t>"))
    def shifted(folder: pathlib.Path) -> None:
        document = json.loads((folder / TOKENIZER).read_text())
        document["model"]["vocab"] = {token: token_id + 1000 * (token_id > 300) for token, token_id in document["model"]["vocab"].items()}
        (folder / TOKENIZER).write_text(dumps(document))
    yield Case("ids beyond the model's vocabulary", shifted, (CONFIG, "vocab_size"), served=None)
    for name, value in {"a number": 7, "a list of numbers": [7], "broken": "{% if %}", "endless": "{% for i in range(10**12) %}{{ i }}{% endfor %}"}.items():
        yield Case(f"chat_template {name}", edit(TOKENIZER_CONFIG, chat_template=value), served=None)


GROUPS: dict[str, Callable[[], Iterator[Case]]] = {
    function.__name__: function for function in (config_sizes, config_numbers, broken_json, safetensors_headers, safetensors_files, weight_values, shards,
                                                 file_kinds, text_files)}


def prepare(case: Case, folder: pathlib.Path) -> pathlib.Path:
    """Makes the model of a case in a new folder; gives the path to serve."""
    shutil.copytree(harness.MODEL, folder)
    return case.make(folder) or folder
