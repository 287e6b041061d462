"""Truncated, foreign and damaged backbone files, each kind made by hand: a one-line error."""

import struct
from argparse import Namespace
from collections import defaultdict
from datetime import date

import numpy as np
import pytest
import torch
from backbone_files import TRACING, WRITERS
from safetensors.torch import save_file

from clip import load_model
from clip.weights.loading import load_state_dict
from common.errors import UsageError

pytestmark = [pytest.mark.usefixtures("cache"), *TRACING]


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.999])
def test_truncated_files_are_named(name, share, weights, tmp_path):
    path = tmp_path / name
    WRITERS[name](weights, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ValueError, match=f"{name}: ") as error:
        load_state_dict(str(path))
    assert "\n" not in str(error.value)
    assert path.read_bytes() == whole[: int(len(whole) * share)]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"a": torch.ones(1)}, "no CLIP in a layout known here: 1 tensors, none named 'token_emb"),
        ({"epoch": 3}, "not a state dict, it holds no tensors by name"),
        ({3: torch.ones(1)}, "not a state dict, it holds no tensors by name"),
        ([1], "holds a list, not a state dict"),
        ({}, "holds a dict, not a state dict"),
        ({"text_model.embeddings.weight": torch.ones(1)}, "no CLIP in a layout known here"),
        (torch.nn.Linear(1, 1), "holds a Linear, not a state dict; save its state_dict() alone"),
    ],
)
def test_foreign_content_is_named(content, says, tmp_path):
    torch.save(content, tmp_path / "foreign.pt")
    with pytest.raises(ValueError, match="foreign.pt: ") as error:
        load_state_dict(str(tmp_path / "foreign.pt"))
    assert says in str(error.value) and "\n" not in str(error.value)


def test_objects_beside_the_tensors_are_passed_over(weights, tmp_path):
    """As trainings save them; their classes are not built, whatever they are."""
    path = tmp_path / "training.pt"
    extra = {"best": np.float64(0.5), "args": Namespace(lr=0.1), "when": date(2025, 1, 1)}
    extra["history"] = defaultdict(list, {"loss": [1.0]})
    for content in ({"state_dict": weights} | extra, {"model": weights} | extra, weights | extra):
        torch.save(content, path)
        found = load_state_dict(str(path))
        assert set(found) == set(weights)
        assert all(torch.equal(found[key], value) for key, value in weights.items())
    torch.save({"state_dict": weights} | extra, path, _use_new_zipfile_serialization=False)
    with pytest.raises(UsageError, match=r"it holds [\w.]+ beside tensors; save its state_dict"):
        load_state_dict(str(path))


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("text_projection", float("nan"), "text_projection holds NaN"),
        ("visual.proj", float("inf"), "visual.proj holds values up to inf"),
        ("ln_final.bias", -1e30, "ln_final.bias holds values up to 1e[+]30"),
        ("logit_scale", 50.0, r"logit_scale is \[50.0\]"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_values_that_cannot_be_are_refused(name, value, says, dtype, weights, tmp_path):
    path = tmp_path / "damaged.pt"
    damaged = {key: tensor.to(dtype) for key, tensor in weights.items()}
    damaged[name] = damaged[name].clone()
    damaged[name].view(-1)[-1] = value
    torch.save(damaged, path)
    says = says.replace("1e[+]30", "inf") if dtype == torch.float16 else says
    with pytest.raises(UsageError, match=f"damaged.pt: damaged, {says}"):
        load_state_dict(str(path))


def test_flipped_bits_of_zip_files_are_noticed(weights, tmp_path):
    """PyTorch itself does not compare the checksums that are in the file."""
    path = tmp_path / "weights.pt"
    torch.save(weights, path)
    content = bytearray(path.read_bytes())
    at = content.find(weights["visual.proj"].numpy().tobytes()[:64])
    content[at + 8] ^= 1
    path.write_bytes(content)
    assert not torch.equal(torch.load(path)["visual.proj"], weights["visual.proj"])
    with pytest.raises(UsageError, match="weights.pt: .*Bad CRC-32"):
        load_state_dict(str(path))


def test_safetensors_headers(weights, tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file(weights, path)
    whole = path.read_bytes()
    for length in (2**63, 2**64 - 1, len(whole), 10**8):
        path.write_bytes(struct.pack("<Q", length) + whole[8:])
        with pytest.raises(UsageError, match="its header would be [0-9,]+ bytes long"):
            load_state_dict(str(path))
    deep = b'{"a":' * 100_000
    path.write_bytes(struct.pack("<Q", len(deep)) + deep)
    with pytest.raises(UsageError, match="weights.safetensors: truncated, or not a checkpoint"):
        load_state_dict(str(path))


def test_siglip_and_misshapen_clip_are_refused(weights, tmp_path):
    path = tmp_path / "other.pt"
    torch.save(weights | {"logit_bias": torch.zeros(())}, path)
    with pytest.raises(ValueError, match="other.pt: a SigLIP"):
        load_state_dict(str(path))
    torch.save(weights | {"visual.ln_pre.weight": torch.ones(3)}, path)
    with pytest.raises(ValueError, match="other.pt: .*visual.ln_pre.weight") as error:
        load_model(str(path))
    assert "\n" not in str(error.value)
