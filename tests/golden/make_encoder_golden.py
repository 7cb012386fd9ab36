#!/usr/bin/env python3
"""Makes tests/golden/data/bert_mean/ and bert_first/: small random sentence encoders, complete folders with a word list,
and the vectors that a plain float64 implementation in numpy gives for some texts (needs numpy, safetensors, tokenizers).

    make_encoder_golden.py            writes them
    make_encoder_golden.py --check    computes everything again and compares it with what is there

bert_mean: gelu, the mean of the states, length 1. bert_first: gelu_new, the state of [CLS], as it is; heads of 12.
golden.json: `texts`, of each its `text` (null: only ids) and `tokens`; their vectors in that order in vectors.bin
[texts, hidden], float32. The model is written down below as in Devlin et al., BERT (2019), and the paper's own code; one
text at a time. Weights come from numpy's PCG64.
"""

import argparse
import json
import pathlib
import string
import sys
import tempfile

FAMILIES = {
    "bert_mean": dict(
        config=dict(hidden_size=64, num_attention_heads=4, intermediate_size=112, hidden_act="gelu"),
        mean=True,
        normalize=True,
    ),
    "bert_first": dict(
        config=dict(hidden_size=48, num_attention_heads=4, intermediate_size=100, hidden_act="gelu_new"),
        mean=False,
        normalize=False,
    ),
}
COMMON = dict(num_hidden_layers=2, max_position_embeddings=300, type_vocab_size=2, layer_norm_eps=1e-12, pad_token_id=0)
LONGEST = 290
TEXTS = [
    "a",
    "The sea is calm tonight.",
    "Is the capital of France Paris?",
    "numbers: 1, 22, 333 and -4",
    "unbelievable words, and a word that is not there: ☃",
    "",
]
LENGTHS = [1, 2, 15, 16, 17, 63, 255, 256, 257, LONGEST]  # of texts that are only ids


def words():
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = list(string.ascii_lowercase + string.digits)
    whole = ["the", "sea", "is", "calm", "to", "capital", "of", "france", "paris", "numbers", "and", "word", "words"]
    parts = ["night", "able", "believ", "er", "ing", "ed", "s2"]
    return special + letters + list(".,:;?!-'\"()") + whole + ["##" + x for x in letters + parts]


def make_weights(config, generator):
    """Matrices at about unit gain, so that every sublayer matters; norms near 1; biases that can be seen."""
    import numpy

    hidden, inner = config["hidden_size"], config["intermediate_size"]
    weights = {}

    def matrix(name, rows, width, gain):
        noise = generator.standard_normal((rows, width), dtype=numpy.float32)
        weights[name + ".weight"] = noise * numpy.float32(gain)

    def linear(name, outputs, inputs):
        matrix(name, outputs, inputs, 1.5 / inputs**0.5)
        weights[name + ".bias"] = 0.3 * generator.standard_normal(outputs, dtype=numpy.float32)

    def norm(name):
        weights[name + ".weight"] = 1 + 0.2 * generator.standard_normal(hidden, dtype=numpy.float32)
        weights[name + ".bias"] = 0.3 * generator.standard_normal(hidden, dtype=numpy.float32)

    matrix("embeddings.word_embeddings", config["vocab_size"], hidden, 0.7)
    matrix("embeddings.position_embeddings", config["max_position_embeddings"], hidden, 0.7)
    matrix("embeddings.token_type_embeddings", config["type_vocab_size"], hidden, 0.7)
    norm("embeddings.LayerNorm")
    for i in range(config["num_hidden_layers"]):
        layer = f"encoder.layer.{i}."
        for part in ("query", "key", "value"):
            linear(layer + "attention.self." + part, hidden, hidden)
        linear(layer + "attention.output.dense", hidden, hidden)
        norm(layer + "attention.output.LayerNorm")
        linear(layer + "intermediate.dense", inner, hidden)
        linear(layer + "output.dense", hidden, inner)
        norm(layer + "output.LayerNorm")
    return {name: numpy.ascontiguousarray(value, dtype=numpy.float32) for name, value in weights.items()}


def states_of(weights, config, tokens):
    """The states of all tokens after the last layer, in float64."""
    import math

    import numpy

    w = {name: value.astype(numpy.float64) for name, value in weights.items()}
    heads = config["num_attention_heads"]

    def linear(name, x):
        return x @ w[name + ".weight"].T + w[name + ".bias"]

    def norm(name, x):
        middle = x - x.mean(axis=-1, keepdims=True)
        variance = (middle**2).mean(axis=-1, keepdims=True)
        return middle / numpy.sqrt(variance + config["layer_norm_eps"]) * w[name + ".weight"] + w[name + ".bias"]

    def gelu(x):
        if config["hidden_act"] == "gelu":
            return 0.5 * x * (1 + numpy.vectorize(math.erf)(x / math.sqrt(2)))
        return 0.5 * x * (1 + numpy.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

    x = w["embeddings.word_embeddings.weight"][tokens]
    x = x + w["embeddings.position_embeddings.weight"][: len(tokens)] + w["embeddings.token_type_embeddings.weight"][0]
    x = norm("embeddings.LayerNorm", x)
    for i in range(config["num_hidden_layers"]):
        layer = f"encoder.layer.{i}."
        q, k, v = (
            numpy.stack(numpy.split(linear(layer + "attention.self." + part, x), heads, axis=-1))
            for part in ("query", "key", "value")
        )
        scores = q @ k.transpose(0, 2, 1) / math.sqrt(q.shape[-1])
        scores = numpy.exp(scores - scores.max(axis=-1, keepdims=True))
        attended = numpy.concatenate(list(scores / scores.sum(axis=-1, keepdims=True) @ v), axis=-1)
        x = norm(layer + "attention.output.LayerNorm", x + linear(layer + "attention.output.dense", attended))
        inner = gelu(linear(layer + "intermediate.dense", x))
        x = norm(layer + "output.LayerNorm", x + linear(layer + "output.dense", inner))
    return x


def write_json(path, document):
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n")


def make_family(name, seed, folder):
    import numpy
    import safetensors.numpy
    import tokenizers

    family = FAMILIES[name]
    vocabulary = words()
    config = dict(architectures=["BertModel"], model_type="bert", position_embedding_type="absolute")
    config.update(**COMMON, **family["config"], vocab_size=len(vocabulary))
    generator = numpy.random.Generator(numpy.random.PCG64(seed))
    weights = make_weights(config, generator)
    write_json(folder / "config.json", config)
    safetensors.numpy.save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    write_json(folder / "tokenizer_config.json", dict(do_lower_case=True, tokenizer_class="BertTokenizer"))
    steps = ["Transformer", "Pooling"] + ["Normalize"] * family["normalize"]
    write_json(
        folder / "modules.json",
        [
            dict(idx=i, name=str(i), path="" if i == 0 else f"{i}_{step}", type="sentence_transformers.models." + step)
            for i, step in enumerate(steps)
        ],
    )
    write_json(
        folder / "1_Pooling" / "config.json",
        dict(
            word_embedding_dimension=config["hidden_size"],
            pooling_mode_cls_token=not family["mean"],
            pooling_mode_mean_tokens=family["mean"],
            pooling_mode_max_tokens=False,
            pooling_mode_mean_sqrt_len_tokens=False,
        ),
    )
    write_json(folder / "sentence_bert_config.json", dict(max_seq_length=LONGEST, do_lower_case=False))

    tokenizer = tokenizers.BertWordPieceTokenizer(str(folder / "vocab.txt"), lowercase=True)
    texts = [dict(text=text, tokens=tokenizer.encode(text).ids) for text in TEXTS]
    for length in LENGTHS:
        ids = generator.integers(5, len(vocabulary), length)
        texts.append(dict(text=None, tokens=[int(token) for token in ids]))
    vectors = []
    for entry in texts:
        states = states_of(weights, config, entry["tokens"])
        vector = states.mean(axis=0) if family["mean"] else states[0]
        vectors.append(vector / numpy.linalg.norm(vector) if family["normalize"] else vector)
    (folder / "vectors.bin").write_bytes(numpy.stack(vectors).astype("<f4").tobytes())
    (folder / "golden.json").write_text(json.dumps(dict(texts=texts)) + "\n")
    across = numpy.stack(vectors) / numpy.linalg.norm(numpy.stack(vectors), axis=1, keepdims=True)
    print(f"{name}: {len(texts)} texts, cosine of the first two {float(across[0] @ across[1]):.3f}")


def compare_family(name, folder, fresh):
    import numpy
    import safetensors.numpy

    stored = safetensors.numpy.load_file(folder / "model.safetensors")
    again = safetensors.numpy.load_file(fresh / "model.safetensors")
    if stored.keys() != again.keys():
        return f"{name}: tensors {sorted(stored.keys() ^ again.keys())} differ"
    for tensor in stored:
        if not numpy.array_equal(stored[tensor], again[tensor]):
            return f"{name}: tensor {tensor} differs"
    golden, golden_again = (json.loads((f / "golden.json").read_text()) for f in (folder, fresh))
    if golden != golden_again:
        return f"{name}: tokens differ"
    a, b = (numpy.frombuffer((f / "vectors.bin").read_bytes(), "<f4") for f in (folder, fresh))
    error = float(numpy.abs(a - b).max() / numpy.abs(a).max())
    return None if error <= 1e-5 else f"{name}: vectors differ by {error:.2e} of the largest element"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    try:
        import numpy  # noqa: F401
        import safetensors  # noqa: F401
        import tokenizers  # noqa: F401
    except ImportError as error:
        print(f"SKIPPED: golden values are not computed again: {error}")
        return 0
    data = pathlib.Path(__file__).resolve().parent / "data"
    problems = []
    for index, name in enumerate(FAMILIES):
        if not arguments.check:
            (data / name).mkdir(parents=True, exist_ok=True)
            make_family(name, 2000 + index, data / name)
            continue
        with tempfile.TemporaryDirectory() as fresh:
            make_family(name, 2000 + index, pathlib.Path(fresh))
            problems.append(compare_family(name, data / name, pathlib.Path(fresh)))
    for problem in filter(None, problems):
        print(problem)
    return 1 if any(problems) else 0


if __name__ == "__main__":
    sys.exit(main())
