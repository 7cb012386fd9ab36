#!/usr/bin/env python3
"""Writes dequantized.json: what the `gguf` package makes of pseudo-random blocks of every tensor type that we read.

Needs: pip install gguf==0.19.0 numpy. The bytes of a type are those of test_gguf::some_bytes(blocks * block_bytes, seed)
(tests/support/gguf_writer.h) with every half-precision number kept finite: its second byte loses bit 6 where all five
bits of the exponent are set. For each type: a CRC-32C over all values as little-endian float32, and the bits of the
first eight of block 1, to begin a search with.
"""
import json
import pathlib

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

BLOCKS = 512
# Where half-precision numbers stand in a block.
HALVES = {
    "F32": [], "F16": [0], "BF16": [], "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0],
    "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "IQ4_NL": [0], "IQ4_XS": [0],
}


def some_bytes(count, seed):
    state = (seed * 2654435761 + 1) & 0xFFFFFFFF
    out = np.empty(count, np.uint8)
    for i in range(count):
        state = (state * 1664525 + 1013904223) & 0xFFFFFFFF
        out[i] = state >> 24
    return out


def crc32c(data):
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    crc = 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


rows = {}
for seed, (name, halves) in enumerate(HALVES.items(), start=1):
    kind = GGMLQuantizationType[name]
    elements, size = GGML_QUANT_SIZES[kind]
    blocks = some_bytes(BLOCKS * size, seed).reshape(BLOCKS, size)
    for at in halves:
        full = (blocks[:, at + 1] & 0x7C) == 0x7C
        blocks[full, at + 1] &= 0xBF
    if name in ("F32", "BF16"):  # the last byte holds the sign and most of the exponent: keep it finite, too
        blocks[:, size - 1] &= 0xBF
    values = np.asarray(dequantize(blocks.reshape(1, -1), kind), np.float32).reshape(-1)
    assert values.size == BLOCKS * elements and np.isfinite(values).all(), name
    first = values[elements:elements + 8].view(np.uint32)
    rows[name] = {"number": int(kind), "seed": seed, "crc32c": crc32c(values.tobytes()),
                  "block_1": [f"{int(bits):08x}" for bits in first]}
target = pathlib.Path(__file__).with_name("dequantized.json")
lines = ",\n".join(f'  "{name}": {json.dumps(row)}' for name, row in rows.items())
target.write_text(f'{{"gguf": "0.19.0", "blocks": {BLOCKS}, "types": {{\n{lines}\n}}}}\n')
