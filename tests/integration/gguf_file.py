"""The demo model as GGUF files, written from its folder: metadata, the tokenizer of the SentencePiece kind, and its weights in F32.

q and k get the order of rows that `llama` files have: those of a head as pairs, one of the first half and one of the second.
"""
from __future__ import annotations

import json
import math
import pathlib
import struct

U16, U32, I32, F32, BOOL, STRING, ARRAY = 2, 4, 5, 6, 7, 8, 9
FORMATS = {U16: "<H", U32: "<I", I32: "<i", F32: "<f", BOOL: "<?"}
ALIGNMENT = 32
NAMES = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
LAYER_NAMES = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
               "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
               "mlp.down_proj": "ffn_down"}


def _text(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack("<Q", len(encoded)) + encoded


def _value(kind: int, value) -> bytes:
    if isinstance(value, list):
        return struct.pack("<IIQ", ARRAY, kind, len(value)) + b"".join(_text(item) if kind == STRING else struct.pack(FORMATS[kind], item) for item in value)
    return struct.pack("<I", kind) + (_text(value) if kind == STRING else struct.pack(FORMATS[kind], value))


def write_file(path: pathlib.Path, keys: dict[str, tuple[int, object]], tensors: dict[str, tuple[list[int], bytes]]) -> None:
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys))
    head += b"".join(_text(key) + _value(*value) for key, value in keys.items())
    data = b""
    for name, (shape, content) in tensors.items():
        head += _text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *reversed(shape), 0, len(data))
        data += content + bytes(-len(content) % ALIGNMENT)
    path.write_bytes(head + bytes(-len(head) % ALIGNMENT) + data)


def _tokenizer(folder: pathlib.Path) -> dict[str, tuple[int, object]]:
    """A token that a merge makes is the better the earlier the merge comes: the same pairs are joined in the same order."""
    document = json.loads((folder / "tokenizer.json").read_text())
    config = json.loads((folder / "tokenizer_config.json").read_text())
    vocabulary, merges = document["model"]["vocab"], document["model"]["merges"]
    tokens = sorted(vocabulary, key=vocabulary.get)
    scores = [-1e6] * len(tokens)
    for rank, merge in reversed(list(enumerate(merges))):
        joined = "".join(merge.split(" ") if isinstance(merge, str) else merge)
        scores[vocabulary[joined]] = -float(rank)
    kinds = [2, 3, 3] + [6 if token.startswith("<0x") else 1 for token in tokens[3:]]
    return {"tokenizer.ggml.model": (STRING, "llama"), "tokenizer.ggml.tokens": (STRING, tokens), "tokenizer.ggml.scores": (F32, scores),
            "tokenizer.ggml.token_type": (I32, kinds), "tokenizer.ggml.bos_token_id": (U32, 1), "tokenizer.ggml.eos_token_id": (U32, 2),
            "tokenizer.ggml.unknown_token_id": (U32, 0), "tokenizer.chat_template": (STRING, config["chat_template"])}


def _weights(folder: pathlib.Path, heads: dict[str, int]) -> dict[str, tuple[list[int], bytes]]:
    content = (folder / "model.safetensors").read_bytes()
    size, = struct.unpack_from("<Q", content)
    tensors = {}
    for name, entry in json.loads(content[8:8 + size]).items():
        if name == "__metadata__":
            continue
        assert entry["dtype"] == "F32", name
        begin, end = entry["data_offsets"]
        data = content[8 + size + begin:8 + size + end]
        target = NAMES.get(name)
        if target is None:
            _, _, layer, rest = name.split(".", 3)
            module, kind = rest.rsplit(".", 1)
            target = f"blk.{layer}.{LAYER_NAMES[module]}.{kind}"
            if module in heads:
                data = _as_pairs(data, entry["shape"][0], heads[module])
        tensors[target] = (entry["shape"], data)
    return tensors


def _as_pairs(data: bytes, rows: int, heads: int) -> bytes:
    width, per_head = len(data) // rows, rows // heads
    order = [head * per_head + half * (per_head // 2) + pair for head in range(heads) for pair in range(per_head // 2) for half in (0, 1)]
    return b"".join(data[row * width:(row + 1) * width] for row in order)


def contents(folder: pathlib.Path) -> tuple[dict[str, tuple[int, object]], dict[str, tuple[list[int], bytes]]]:
    """Metadata (kind, value) and tensors (shape, bytes in F32) of the model of `folder`."""
    config = json.loads((folder / "config.json").read_text())
    keys: dict[str, tuple[int, object]] = {
        "general.architecture": (STRING, "llama"), "llama.block_count": (U32, config["num_hidden_layers"]),
        "llama.context_length": (U32, config["max_position_embeddings"]), "llama.embedding_length": (U32, config["hidden_size"]),
        "llama.feed_forward_length": (U32, config["intermediate_size"]), "llama.attention.head_count": (U32, config["num_attention_heads"]),
        "llama.attention.head_count_kv": (U32, config["num_key_value_heads"]),
        "llama.attention.layer_norm_rms_epsilon": (F32, config["rms_norm_eps"]), "llama.rope.freq_base": (F32, config["rope_theta"]),
        **_tokenizer(folder)}
    return keys, _weights(folder, {"self_attn.q_proj": config["num_attention_heads"], "self_attn.k_proj": config["num_key_value_heads"]})


def write(folder: pathlib.Path, target: pathlib.Path, name: str, parts: int = 1) -> pathlib.Path:
    """Writes the model of `folder` into the folder `target`; gives the path of the file, of the last one where there are several."""
    keys, weights = contents(folder)
    tensors = list(weights.items())
    path = target / f"{name}.gguf"
    for part in range(parts):
        if parts > 1:
            path = target / f"{name}-{part + 1:05}-of-{parts:05}.gguf"
            keys |= {"split.no": (U16, part), "split.count": (U16, parts), "split.tensors.count": (I32, len(tensors))}
        write_file(path, keys, dict(tensors[part::parts]))
        keys = {}
    return path


def write_large(path: pathlib.Path, folder: pathlib.Path, layers: int, width: int, intermediate: int) -> int:
    """A model of that shape with the tokenizer of `folder` whose matrices are Q8_0 blocks of zeros: a file with holes, which takes no time and no room.
    Gives the bytes of its matrices in BF16."""
    vocabulary, heads, q8_0 = len(json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]), width // 64, 8
    keys: dict[str, tuple[int, object]] = {
        "general.architecture": (STRING, "llama"), "llama.block_count": (U32, layers), "llama.context_length": (U32, 512),
        "llama.embedding_length": (U32, width), "llama.feed_forward_length": (U32, intermediate), "llama.attention.head_count": (U32, heads),
        "llama.attention.layer_norm_rms_epsilon": (F32, 1e-5), "llama.rope.freq_base": (F32, 10000.0), **_tokenizer(folder)}
    shapes = {"token_embd.weight": [vocabulary, width], "output_norm.weight": [width]}
    for layer in range(layers):
        shapes |= {f"blk.{layer}.{name}.weight": shape for name, shape in {
            "attn_norm": [width], "ffn_norm": [width], "attn_q": [width, width], "attn_k": [width, width], "attn_v": [width, width],
            "attn_output": [width, width], "ffn_gate": [intermediate, width], "ffn_up": [intermediate, width], "ffn_down": [width, intermediate]}.items()}
    head = b"GGUF" + struct.pack("<IQQ", 3, len(shapes), len(keys)) + b"".join(_text(key) + _value(*value) for key, value in keys.items())
    offset = elements = 0
    for name, shape in shapes.items():
        count = math.prod(shape)
        is_matrix = len(shape) == 2
        head += _text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *reversed(shape), q8_0 if is_matrix else 0, offset)
        offset += -(-(count // 32 * 34 if is_matrix else 4 * count) // ALIGNMENT) * ALIGNMENT
        elements += count if is_matrix else 0
    with path.open("wb") as file:
        file.write(head + bytes(-len(head) % ALIGNMENT))
        file.truncate(file.tell() + offset)
    return 2 * elements
