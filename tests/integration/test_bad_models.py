"""Model folders that cannot be served: an exit status that is no signal, and a message that names the file or the field."""
import json
import shutil
import struct

import pytest

import harness


@pytest.fixture
def model(tmp_path):
    """A copy of the demo model to break."""
    folder = tmp_path / "model"
    shutil.copytree(harness.MODEL, folder)
    return folder


def refusal(model):
    """What `sluice serve` says before it gives up."""
    with harness.serve(model=model) as server:
        status = server.wait()
        output = server.output()
    assert status > 0, f"status {status}\n{output}"
    assert "Sanitizer" not in output and "terminate called" not in output, output
    return output


def edit_config(model, **fields):
    path = model / "config.json"
    config = json.loads(path.read_text())
    for name, value in fields.items():
        if value is None:
            config.pop(name, None)
        else:
            config[name] = value
    path.write_text(json.dumps(config))


def test_no_such_folder(tmp_path):
    assert "nowhere" in refusal(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_missing_file_is_named(model, name):
    (model / name).unlink()
    output = refusal(model)
    assert name.split(".")[0] in output


@pytest.mark.parametrize("keep", [0, 4, 8, 100, 5000, 500000, -1])
def test_truncated_weights_are_named(model, keep):
    path = model / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:keep])
    assert "model.safetensors" in refusal(model)


def test_weights_whose_header_lies_are_refused(model):
    path = model / "model.safetensors"
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8:8 + length])
    name = next(key for key in header if key != "__metadata__")
    good = header[name]["data_offsets"]
    for offsets in ([good[0], good[1] + (1 << 40)], [good[1], good[0]], [-4, good[1]], [good[0], good[1] + 4]):
        header[name]["data_offsets"] = offsets
        text = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length:])
        assert "model.safetensors" in refusal(model)


def test_a_header_longer_than_the_file_is_refused(model):
    path = model / "model.safetensors"
    path.write_bytes(struct.pack("<Q", 1 << 62) + path.read_bytes()[8:])
    assert "model.safetensors" in refusal(model)


@pytest.mark.parametrize(("field", "value"), [
    ("hidden_size", None), ("hidden_size", "wide"), ("hidden_size", 0), ("hidden_size", 1 << 40), ("num_attention_heads", 7), ("num_key_value_heads", 3),
    ("num_hidden_layers", 6), ("vocab_size", 511), ("architectures", ["MambaForCausalLM"]), ("hidden_act", "swishish"),
    ("rope_scaling", {"rope_type": "telepathic", "factor": 2.0}),
])
def test_a_config_that_cannot_be_run_names_the_field_or_the_weights(model, field, value):
    edit_config(model, **{field: value})
    output = refusal(model)
    assert field in output or ("tensor model." in output and "config.json asks for" in output), output


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"version": "1.0"}', b"\xff\xfe"])
def test_a_broken_tokenizer_is_named(model, content):
    (model / "tokenizer.json").write_bytes(content)
    assert "tokenizer" in refusal(model)
