#!/usr/bin/env python3
"""Rewrites the CUDA kernels for the emulator: translate.py KERNEL_FOLDER OUTPUT_FOLDER

The launch becomes a call of emulator::launch, dynamic shared memory a pointer; what device.cuh says in assembler is cut out
(emulator.h and emulator_hopper.h have it in C++). The rest of the language is a matter of macros. Kernels that do not
keep to the rules of dependent_launch.cuh are refused.
"""

import pathlib
import re
import sys

# File: the header with the same in C++, and the functions.
IN_ASSEMBLER = {
    "device.cuh": (
        "emulator.h",
        "exp2_fast shared_address copy_async16 copy_async_commit copy_async_wait load_matrices load_matrices_transposed "
        "multiply_add multiply_add_fp8 load_streaming load_before_wait",
    ),
    "dependent_launch.cuh": ("emulator.h", "wait_for_previous let_next_start"),
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


# What a kernel must not name before it waits for the one before; the others wait first of all.
BEFORE_THE_WAIT = {"skinny_kernel": r"\bproduct\b(?!\.(w|outputs|units|rows)\b)|\by\b"}


def check_kernels(name, text):
    """That every kernel begins as dependent_launch.cuh says, and is launched by launch_kernel()."""
    text = re.sub(r"//.*", "", text)
    starts = list(re.finditer(r"__global__ void\b[^{;]*?\b(\w+_kernel)\((?:[^{;])*?\)\s*\{", text))
    if len(starts) != text.count("__global__"):
        sys.exit(f"{name}: a kernel that is not understood (their names end in _kernel)")
    for start in starts:
        kernel, body = start.group(1), text[start.end() :]
        parts = re.split(r"\bwait_for_previous\(\);\s*let_next_start\(\);", body, maxsplit=1)
        forbidden = BEFORE_THE_WAIT.get(kernel, r"\S") + "|__global__"
        if len(parts) == 1 or re.search(forbidden, parts[0]):
            sys.exit(f"{name}: {kernel} does not begin with wait_for_previous() and let_next_start()")
    if re.search(r"__ldg|__restrict__", text):
        sys.exit(f"{name}: a load that the compiler may move over wait_for_previous()")
    if "<<<" in text and name != "dependent_launch.cuh":
        sys.exit(f"{name}: a launch that is not launch_kernel()'s")


def translate(name, text):
    check_kernels(name, text)
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
