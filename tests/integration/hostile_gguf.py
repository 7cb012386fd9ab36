"""GGUF files that nobody should serve, made from the demo model (hostile_models.py has the folders)."""
from __future__ import annotations

import pathlib
import struct
from collections.abc import Callable, Iterator
from typing import Any

import gguf_file
import harness
from gguf_file import BOOL, F32, I32, STRING, U32
from hostile_models import Case, Make

FILE = "hostile.gguf"
Keys = dict[str, tuple[int, Any]]
Tensors = dict[str, tuple[list[int], bytes]]


def gguf(change: Callable[[Keys, Tensors], Any]) -> Make:
    """A file whose metadata and tensors `change` changes in place."""
    def make(folder: pathlib.Path) -> pathlib.Path:
        keys, tensors = gguf_file.contents(harness.MODEL)
        change(keys, tensors)
        gguf_file.write_file(folder / FILE, keys, tensors)
        return folder / FILE
    return make


def raw(change: Callable[[bytearray], Any]) -> Make:
    """A file whose bytes `change` changes in place, or replaces."""
    def make(folder: pathlib.Path) -> pathlib.Path:
        content = bytearray(gguf_file.write(harness.MODEL, folder, "good").read_bytes())
        (folder / FILE).write_bytes(change(content) or content)
        return folder / FILE
    return make


def at(place: int, layout: str, *values: int) -> Make:
    def change(content: bytearray) -> None:
        struct.pack_into(layout, content, place, *values)
    return raw(change)


SIZES = ("llama.block_count", "llama.context_length", "llama.embedding_length", "llama.feed_forward_length", "llama.attention.head_count",
         "llama.attention.head_count_kv")
NUMBERS = ("llama.attention.layer_norm_rms_epsilon", "llama.rope.freq_base")
TOKENS = ("tokenizer.ggml.model", "tokenizer.ggml.tokens", "tokenizer.ggml.scores", "tokenizer.ggml.token_type")


def files() -> Iterator[Case]:
    yield Case("the file itself", raw(lambda content: None), served=True)
    for name, make in {"another magic": at(0, "<I", 0x12345678), "version 0": at(4, "<I", 0), "version 1": at(4, "<I", 1), "version 99": at(4, "<I", 99),
                       "big-endian": at(4, ">I", 3), "no tensors": at(8, "<Q", 0), "2^40 tensors": at(8, "<Q", 1 << 40), "2^63 tensors": at(8, "<Q", 1 << 63),
                       "no keys": at(16, "<Q", 0), "2^40 keys": at(16, "<Q", 1 << 40), "2^64-1 keys": at(16, "<Q", (1 << 64) - 1),
                       "a key of 2^40 bytes": at(24, "<Q", 1 << 40), "a key of 2^64-1 bytes": at(24, "<Q", (1 << 64) - 1), "a key of no bytes": at(24, "<Q", 0),
                       "a kind of value that is none": at(24 + 8 + len("general.architecture"), "<I", 77)}.items():
        yield Case(f"header: {name}", make, (FILE,))
    for keep in (0, 3, 4, 8, 23, 24, 30, 100, 1000, 10_000, 20_000, 40_000, 100_000, 1_000_000):
        yield Case(f"cut to {keep}", raw(lambda content, keep=keep: bytes(content[:keep]) or b"\0"), (FILE,))
    yield Case("a byte too few", raw(lambda content: content[:-40]), (FILE,))
    yield Case("zeros", raw(lambda content: bytes(100_000)), (FILE,))
    yield Case("text", raw(lambda content: b"GGUF" + b"{}" * 5000), (FILE,))


def metadata() -> Iterator[Case]:
    def key(name: str, kind: int, value: Any, label: str, *words: str, served: bool | None = False) -> Case:
        return Case(f"{name} {label}", gguf(lambda keys, _: keys.update({name: (kind, value)})), words or ((FILE,) if served is None else (name,)), served=served)

    for name in (*SIZES, *NUMBERS, *TOKENS, "general.architecture"):
        is_optional = name in ("llama.attention.head_count_kv", "llama.rope.freq_base", *TOKENS[2:])
        yield Case(f"{name} missing", gguf(lambda keys, _, name=name: keys.pop(name)), (FILE,) if is_optional else (name.rpartition(".")[0],),
                   served=None if is_optional else False)
    for name in SIZES:
        for label, value in {"0": 0, "2^31": 1 << 31, "2^32-1": (1 << 32) - 1}.items():
            yield key(name, U32, value, label, name)
        yield key(name, STRING, "64", "text")
        yield key(name, F32, 1.5, "fraction")
        yield key(name, U32, 7, "not that of the weights", FILE, served=None if name == "llama.context_length" else False)
        yield key(name, U32, [5, 6], "from layer to layer")
    for name in NUMBERS:
        for label, value in {"0": 0.0, "negative": -1.0, "NaN": float("nan"), "Inf": float("inf"), "huge": 3e38}.items():
            yield key(name, F32, value, label)
        yield key(name, STRING, "x", "text")
    yield key("general.architecture", STRING, "mamba", "another", FILE, "mamba")
    yield key("general.architecture", U32, 7, "a number")
    for value in (0, 3, 1 << 31):
        yield key("general.alignment", U32, value, str(value), FILE)
    yield key("llama.rope.scaling.type", STRING, "telepathic", "unknown")
    yield key("llama.unheard_of", U32, 1, "a field that nobody knows")
    yield key("split.count", gguf_file.U16, 3, "more parts than there are", FILE)
    yield key("tokenizer.ggml.model", STRING, "telepathy", "unknown", "telepathy")
    yield key("tokenizer.ggml.model", U32, 7, "a number", "tokenizer")
    yield key("tokenizer.ggml.tokens", STRING, [], "empty", FILE)
    yield key("tokenizer.ggml.tokens", U32, [1, 2, 3], "numbers", "tokenizer")
    yield key("tokenizer.ggml.tokens", STRING, ["a"] * 512, "all the same", served=None)
    yield key("tokenizer.ggml.scores", F32, [1.0], "too few", "scores")
    yield key("tokenizer.ggml.scores", F32, [float("nan")] * 512, "NaN", served=None)
    yield key("tokenizer.ggml.token_type", I32, [99] * 512, "unknown", served=None)
    for name in ("bos", "eos", "unknown"):
        yield key(f"tokenizer.ggml.{name}_token_id", U32, 1 << 31, "beyond", served=None)
        yield key(f"tokenizer.ggml.{name}_token_id", STRING, "x", "text", served=None)
    yield key("tokenizer.ggml.add_bos_token", BOOL, [True], "a list", served=None)
    for name, value in {"temp": float("nan"), "top_p": -1.0, "min_p": 7.0}.items():
        yield key(f"general.sampling.{name}", F32, value, "out of range", f"general.sampling.{name}", served=True)
    yield key("tokenizer.chat_template", STRING, "{% if %}", "broken", served=None)


def tensors() -> Iterator[Case]:
    for name in ("token_embd.weight", "output_norm.weight", "blk.3.attn_q.weight", "blk.4.ffn_down.weight", "blk.0.attn_norm.weight"):
        def without(_: Keys, held: Tensors, name: str = name) -> None:
            held.pop(name)
        yield Case(f"without {name}", gguf(without), (FILE,))

        def not_finite(_: Keys, held: Tensors, name: str = name) -> None:
            shape, content = held[name]
            held[name] = (shape, content[:-4] + struct.pack("<f", float("inf")))
        yield Case(f"Inf in {name}", gguf(not_finite), (FILE, "element ["))

        def flat(_: Keys, held: Tensors, name: str = name) -> None:
            shape, content = held[name]
            held[name] = ([1, len(content) // 4], content)
        yield Case(f"another shape of {name}", gguf(flat), (FILE, "shape"))
    for label, shape in {"of no dimension": [], "of many": [1] * 9, "of 2^63": [1 << 63], "that overflow": [1 << 40, 1 << 40], "of nothing": [0]}.items():
        def reshaped(_: Keys, held: Tensors, shape: list[int] = shape) -> None:
            held["output_norm.weight"] = (shape, held["output_norm.weight"][1])
        yield Case(f"dimensions {label}", gguf(reshaped), (FILE,))
    for label, name in {"of a layer too many": "blk.5.ffn_up.weight", "that nobody knows": "blk.0.telepathy.weight", "without a name": ""}.items():
        yield Case(f"a tensor {label}", gguf(lambda _, held, name=name: held.update({name: ([4], bytes(16))})), (FILE,))


GROUPS = {f"gguf_{function.__name__}": function for function in (files, metadata, tensors)}
