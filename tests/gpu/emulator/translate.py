#!/usr/bin/env python3
"""Rewrites the CUDA kernels for the emulator: translate.py KERNEL_FOLDER OUTPUT_FOLDER

Launches become calls of emulator::launch, dynamic shared memory a pointer; what device.cuh says in assembler is cut out
(emulator.h and emulator_hopper.h have it in C++). The rest of the language is a matter of macros.
"""

import pathlib
import re
import sys

# File: the header with the same in C++, and the functions.
IN_ASSEMBLER = {
    "device.cuh": (
        "emulator.h",
        "exp2_fast shared_address copy_async16 copy_async_commit copy_async_wait load_matrices load_matrices_transposed "
        "multiply_add multiply_add_fp8 load_streaming",
    ),
    "hopper.cuh": (
        "emulator_hopper.h",
        "barrier_init barrier_init_done barrier_arrive barrier_expect barrier_wait warpgroup_barrier give_registers "
        "take_registers publish_to_async copy_pool_tile products_begin products_commit products_wait "
        "multiply_add_shared multiply_add_rows keep",
    ),
}


def split_arguments(text):
    """At the commas outside of parentheses."""
    parts, depth, part = [], 0, ""
    for character in text:
        depth += {"(": 1, ")": -1}.get(character, 0)
        if character == "," and depth == 0:
            parts.append(part.strip())
            part = ""
        else:
            part += character
    return parts + [part.strip()]


def launch(match):
    kernel, configuration, arguments = match.groups()
    grid, block, shared, stream = split_arguments(configuration)
    return f"emulator::launch(dim3({grid}), dim3({block}), {shared}, {stream}, [=] {{ {kernel}({arguments}); }});"


def translate(name, text):
    if name in IN_ASSEMBLER:
        header, functions = IN_ASSEMBLER[name]
        for function in functions.split():
            pattern = rf"(template <[\w, ]+>\n)?__device__ __forceinline__ [\w ]+ {function}\(.*?\n}}\n"
            text, count = re.subn(pattern, "", text, count=1, flags=re.S)
            if count != 1:
                sys.exit(f"{name} has no {function}()")
        text = text.replace("#pragma once", f'#pragma once\n#include "{header}"', 1)
    text = re.sub(
        r"extern __shared__ __align__\(\d+\) unsigned char (\w+)\[\];",
        r"unsigned char* \1 = emulator::dynamic_shared();",
        text,
    )
    text = re.sub(r"(\w+(?:<[\w:, ]+>)?)\s*<<<(.*?)>>>\s*\((.*?)\);", launch, text, flags=re.S)
    if "<<<" in text or "asm(" in text or "asm volatile" in text:
        sys.exit(f"{name}: something is left that only nvcc understands")
    return text


def main():
    source, target = (pathlib.Path(argument) for argument in sys.argv[1:3])
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.iterdir()):
        if path.suffix in (".cu", ".cuh"):
            (target / path.name).write_text(translate(path.name, path.read_text()))


if __name__ == "__main__":
    main()
