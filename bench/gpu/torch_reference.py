#!/usr/bin/env python3
"""Times PyTorch's scaled-dot-product attention and matmul at the shapes of gpu_bench (Llama-3.1-8B, bf16).

    torch_reference.py [--json FILE]

Run it beside gpu_bench on the same machine: the ratio of the two runs is what counts. Inputs rotate so that no cache
holds them; times are medians of CUDA graph replays, as gpu_bench takes them.
"""

import argparse
import json
import statistics

import torch
import torch.nn.functional as functional

HIDDEN, INTERMEDIATE, HEADS_Q, HEADS_KV, HEAD_DIM, VOCABULARY = 4096, 14336, 32, 8, 128, 128256
LAYERS = 8  # different inputs per graph


def median_ms(work, repeats=10):
    """Median milliseconds of one replay of `work` captured as a graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        work()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    times = []
    for i in range(repeats + 2):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        if i >= 2:
            times.append(begin.elapsed_time(end))
    return statistics.median(times)


def random(*shape):
    return torch.randn(*shape, device="cuda", dtype=torch.bfloat16)


def products(rows, results):
    shapes = {
        "qkv": ((HEADS_Q + 2 * HEADS_KV) * HEAD_DIM, HIDDEN),
        "output": (HIDDEN, HEADS_Q * HEAD_DIM),
        "gate_up": (2 * INTERMEDIATE, HIDDEN),
        "down": (HIDDEN, INTERMEDIATE),
    }
    for name, (outputs, inputs) in shapes.items():
        weights = [random(outputs, inputs) for _ in range(LAYERS)]
        x = random(rows, inputs)

        def work():
            for weight in weights:
                functional.linear(x, weight)

        us = median_ms(work) * 1e3 / LAYERS
        results[f"{name}.{rows}.us"] = us
        print(f"  matmul {name:8} rows {rows:5}: {us:9.2f} us", flush=True)


def attention(batch, queries, keys, causal, results):
    q = random(batch, HEADS_Q, queries, HEAD_DIM)
    pairs = [(random(batch, HEADS_KV, keys, HEAD_DIM), random(batch, HEADS_KV, keys, HEAD_DIM)) for _ in range(LAYERS)]

    def work():
        for k, v in pairs:
            functional.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True)

    us = median_ms(work) * 1e3 / LAYERS
    kind = "prefill" if causal else "decode"
    results[f"attention.{kind}.{batch}.{keys}.us"] = us
    print(f"  attention {kind} batch {batch:3} keys {keys:5}: {us:9.2f} us", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--json")
    arguments = parser.parse_args()
    results = {"torch": torch.__version__, "device": torch.cuda.get_device_name(0)}
    print(f"torch {torch.__version__} on {results['device']}")
    with torch.inference_mode():
        for rows in (1, 8, 32, 128, 256, 512, 1024, 2048, 4096):
            products(rows, results)
        for tokens in (128, 256, 512, 1024, 2048, 4096):
            attention(1, tokens, tokens, True, results)
        for keys in (1024, 4096):
            for batch in (1, 8, 32, 128):
                try:
                    attention(batch, 1, keys, False, results)
                except torch.OutOfMemoryError:
                    print(f"  attention decode batch {batch} keys {keys}: not enough memory")
                    torch.cuda.empty_cache()
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(results, file, indent=2)


if __name__ == "__main__":
    main()
