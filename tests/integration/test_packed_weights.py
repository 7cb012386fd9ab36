"""The packed weights on disk, damaged between two starts."""
import random
import subprocess

import harness

CASE = harness.golden_cases()[0]
PAGE = 4096


def run(packed):
    """`sluice run` with the prompt of a golden case: (text, messages)."""
    done = subprocess.run([harness.BINARY, "run", "--model", harness.MODEL, CASE["prompt"], "--max-tokens", "24", "--set", f"engine.packed_dir={packed}"],
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip(), done.stderr


def test_damaged_weights_are_packed_again_and_never_served(tmp_path):
    text, messages = run(tmp_path)
    assert CASE["output_text"].startswith(text) and "damaged" not in messages
    path, = tmp_path.glob("*.weights")
    good = path.read_bytes()
    content = bytearray(good)
    chance = random.Random(3)
    for _ in range(4000):
        content[chance.randrange(PAGE, len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(content)
    again, messages = run(tmp_path)
    assert again == text
    assert f"{path}: the packed weights are damaged in embedding and " in messages, messages
    assert path.read_bytes() == good
    third, messages = run(tmp_path)
    assert third == text and "damaged" not in messages
