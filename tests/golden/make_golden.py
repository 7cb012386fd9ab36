#!/usr/bin/env python3
"""Makes tests/golden/data/: one small random checkpoint per model family, with that family's real features, and the
logits that Hugging Face transformers computes for it (needs torch, transformers, safetensors, numpy).

    make_golden.py            writes tests/golden/data/
    make_golden.py --check    computes everything again and compares it with what is there

Per family: config.json and model.safetensors (F32) as transformers saves them, and golden.json:
  tokens        64 tokens: 8 random ones, then drawn from the reference's own logits
  logits_f32    reference logits of every position [64, vocabulary], float32 in logits_f32.bin
  logits_bf16   the same with every matrix rounded to BF16 (the vectors stay F32): what a BF16 engine approximates
  bf16_error    max |difference| / max |logit| of transformers' own BF16 run against logits_bf16
The reference runs in float64 where transformers does not force float32 (norms, softmax, rotary angles).
Weights come from numpy's PCG64, so they do not depend on the version of torch.
"""

import argparse
import json
import pathlib
import sys
import tempfile

FAMILIES = {
    "llama2": (
        "LlamaConfig",
        dict(num_attention_heads=4, num_key_value_heads=4, rope_theta=10000.0, tie_word_embeddings=False),
    ),
    "llama3": (
        "LlamaConfig",
        dict(
            num_attention_heads=8,
            num_key_value_heads=2,
            rope_theta=500.0,
            tie_word_embeddings=True,
            rope_scaling=dict(
                rope_type="llama3",
                factor=8.0,
                low_freq_factor=1.0,
                high_freq_factor=4.0,
                original_max_position_embeddings=64,
            ),
        ),
    ),
    "mistral": (
        "MistralConfig",
        dict(num_attention_heads=4, num_key_value_heads=2, head_dim=24, sliding_window=None, tie_word_embeddings=False),
    ),
    "qwen2": (
        "Qwen2Config",
        dict(num_attention_heads=4, num_key_value_heads=2, rope_theta=1000000.0, tie_word_embeddings=True),
    ),
    "qwen3": (
        "Qwen3Config",
        dict(
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=32,
            rope_theta=1000000.0,
            rms_norm_eps=1e-6,
            tie_word_embeddings=True,
        ),
    ),
}
COMMON = dict(
    vocab_size=256,
    hidden_size=64,
    intermediate_size=112,
    num_hidden_layers=2,
    max_position_embeddings=256,
    rms_norm_eps=1e-5,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=None,
)
POSITIONS = 64
FIRST_TOKENS = 8


def fill_weights(model, generator, tied):
    """Matrices at about unit gain, so that every sublayer matters; norms near 1; biases that can be seen. A tied
    embedding is small: else the residual stream is mostly the last token itself and the model repeats it."""
    import numpy
    import torch

    for name, parameter in sorted(model.named_parameters()):
        shape = tuple(parameter.shape)
        noise = generator.standard_normal(shape, dtype=numpy.float32)
        if "embed_tokens" in name:
            value = (0.2 if tied else 0.7) * noise
        elif len(shape) == 2:
            value = noise * numpy.float32(1.5 / shape[1] ** 0.5)
        elif name.endswith("bias"):
            value = 0.3 * noise
        else:
            value = 1 + 0.2 * noise
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(numpy.ascontiguousarray(value, dtype=numpy.float32)))


def reference_logits(model, tokens):
    import torch

    with torch.no_grad():
        return model(torch.tensor([tokens])).logits[0].double().numpy()


def rounded_matrices(model):
    import copy

    import torch

    rounded = copy.deepcopy(model)
    for parameter in rounded.parameters():
        if parameter.dim() == 2:
            with torch.no_grad():
                parameter.copy_(parameter.to(torch.bfloat16).to(parameter.dtype))
    return rounded


def make_family(name, seed, folder):
    import numpy
    import torch
    import transformers

    config_name, fields = FAMILIES[name]
    config = getattr(transformers, config_name)(**{**COMMON, **fields})
    config._attn_implementation = "eager"
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    generator = numpy.random.Generator(numpy.random.PCG64(seed))
    fill_weights(model, generator, fields["tie_word_embeddings"])
    model.save_pretrained(folder, safe_serialization=True)

    exact = model.double()
    tokens = [int(token) for token in generator.integers(3, COMMON["vocab_size"], FIRST_TOKENS)]
    while len(tokens) < POSITIONS:
        logits = reference_logits(exact, tokens)[-1]
        weights = numpy.exp(logits - logits.max())
        tokens.append(int(generator.choice(len(weights), p=weights / weights.sum())))
    logits_f32 = reference_logits(exact, tokens)
    rounded = rounded_matrices(exact)
    logits_bf16 = reference_logits(rounded, tokens)
    own_bf16 = reference_logits(rounded.to(torch.bfloat16), tokens)
    (folder / "logits_f32.bin").write_bytes(logits_f32.astype("<f4").tobytes())
    (folder / "logits_bf16.bin").write_bytes(logits_bf16.astype("<f4").tobytes())
    error = float(numpy.abs(own_bf16 - logits_bf16).max() / numpy.abs(logits_bf16).max())
    golden = dict(tokens=tokens, vocabulary=COMMON["vocab_size"], bf16_error=round(error, 6))
    (folder / "golden.json").write_text(json.dumps(golden) + "\n")
    (folder / "model.safetensors").chmod(0o644)
    unused = folder / "generation_config.json"
    if unused.exists():
        unused.unlink()
    top = numpy.sort(logits_f32, axis=1)
    margin = float(numpy.median((top[:, -1] - top[:, -2])) / numpy.abs(logits_f32).max())
    print(f"{name}: max |logit| {numpy.abs(logits_f32).max():.2f}, median margin {margin:.3f}, own bf16 error {error:.4f}")


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
    if golden["tokens"] != golden_again["tokens"]:
        return f"{name}: tokens differ"
    for logits in ("logits_f32.bin", "logits_bf16.bin"):
        a, b = (numpy.frombuffer((f / logits).read_bytes(), "<f4") for f in (folder, fresh))
        error = float(numpy.abs(a - b).max() / numpy.abs(a).max())
        if not error <= 1e-5:
            return f"{name}: {logits} differs by {error:.2e} of the largest logit"
    return None


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    try:
        import numpy  # noqa: F401
        import safetensors  # noqa: F401
        import torch
        import transformers
    except ImportError as error:
        print(f"SKIPPED: golden values are not computed again: {error}")
        return 0
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    data = pathlib.Path(__file__).resolve().parent / "data"
    problems = []
    for index, name in enumerate(FAMILIES):
        if not arguments.check:
            (data / name).mkdir(parents=True, exist_ok=True)
            make_family(name, 1000 + index, data / name)
            continue
        with tempfile.TemporaryDirectory() as fresh:
            make_family(name, 1000 + index, pathlib.Path(fresh))
            problems.append(compare_family(name, data / name, pathlib.Path(fresh)))
    for problem in filter(None, problems):
        print(problem)
    return 1 if any(problems) else 0


if __name__ == "__main__":
    sys.exit(main())
