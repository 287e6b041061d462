"""Seeded test inputs for the oracle: random-weight CLIP in OpenAI's ViT layout, and a fake EuroSAT.

Regenerates bit-identically from plain torch.Generator / integer arithmetic (CPU float32 randn).
    python make_inputs.py clip  OUT.pt [--size tiny|true512|vitb16]
    python make_inputs.py data  ROOT   [--ext png|jpg]
"""

import argparse
import hashlib
import json
import os
from collections import OrderedDict

import torch

SIZES = {
    # vision width, vision layers, patch, image, text width, text layers, embed
    "tiny": dict(vw=128, vl=12, patch=16, image=64, tw=128, tl=12, embed=64),
    "true512": dict(
        vw=768, vl=12, patch=16, image=64, tw=512, tl=12, embed=512
    ),  # real widths, 64px input
    "vitb16": dict(vw=768, vl=12, patch=16, image=224, tw=512, tl=12, embed=512),
}
VOCAB, CTX = 49408, 77


def _randn(gen, *shape, std=1.0):
    return torch.randn(*shape, generator=gen, dtype=torch.float32) * std


def random_clip_state_dict(size="tiny", seed=0, fp16_exact=True):
    """Keys, in this order of drawing (one generator, one draw per tensor, float32):
    visual.class_embedding, visual.positional_embedding, visual.proj, visual.conv1.weight,
    visual.ln_pre.{weight,bias}, vision blocks 0..L-1, visual.ln_post.{weight,bias},
    token_embedding.weight, positional_embedding, text blocks 0..L-1, ln_final.{weight,bias},
    text_projection, logit_scale (no draw).
    Block draw order: in_proj_weight, in_proj_bias, out_proj.weight, out_proj.bias, ln_1.weight,
    ln_1.bias, c_fc.weight, c_fc.bias, c_proj.weight, c_proj.bias, ln_2.weight, ln_2.bias.

    fp16_exact: round to fp16 and back those tensors that upstream convert_weights() puts through
    fp16 (conv/linear/attention weights and biases, proj, text_projection), as in OpenAI's own
    files, so that loading through upstream build_model() (which halves, then .float()s) loses
    nothing.
    """
    s = SIZES[size]
    g = torch.Generator().manual_seed(seed)
    sd = OrderedDict()

    def q(t):
        return t.half().float() if fp16_exact else t

    def block(prefix, w, layers):
        proj_std = (w**-0.5) * ((2 * layers) ** -0.5)
        attn_std, fc_std = w**-0.5, (2 * w) ** -0.5
        sd[prefix + "attn.in_proj_weight"] = q(_randn(g, 3 * w, w, std=attn_std))
        sd[prefix + "attn.in_proj_bias"] = q(_randn(g, 3 * w, std=0.02))
        sd[prefix + "attn.out_proj.weight"] = q(_randn(g, w, w, std=proj_std))
        sd[prefix + "attn.out_proj.bias"] = q(_randn(g, w, std=0.02))
        sd[prefix + "ln_1.weight"] = 1 + _randn(g, w, std=0.02)
        sd[prefix + "ln_1.bias"] = _randn(g, w, std=0.02)
        sd[prefix + "mlp.c_fc.weight"] = q(_randn(g, 4 * w, w, std=fc_std))
        sd[prefix + "mlp.c_fc.bias"] = q(_randn(g, 4 * w, std=0.02))
        sd[prefix + "mlp.c_proj.weight"] = q(_randn(g, w, 4 * w, std=proj_std))
        sd[prefix + "mlp.c_proj.bias"] = q(_randn(g, w, std=0.02))
        sd[prefix + "ln_2.weight"] = 1 + _randn(g, w, std=0.02)
        sd[prefix + "ln_2.bias"] = _randn(g, w, std=0.02)

    vw, tw, e, p = s["vw"], s["tw"], s["embed"], s["patch"]
    grid = s["image"] // p
    sc = vw**-0.5
    sd["visual.class_embedding"] = _randn(g, vw, std=sc)
    sd["visual.positional_embedding"] = _randn(g, grid * grid + 1, vw, std=sc)
    sd["visual.proj"] = q(_randn(g, vw, e, std=sc))
    sd["visual.conv1.weight"] = q(_randn(g, vw, 3, p, p, std=(3 * p * p) ** -0.5))
    sd["visual.ln_pre.weight"] = 1 + _randn(g, vw, std=0.02)
    sd["visual.ln_pre.bias"] = _randn(g, vw, std=0.02)
    for i in range(s["vl"]):
        block(f"visual.transformer.resblocks.{i}.", vw, s["vl"])
    sd["visual.ln_post.weight"] = 1 + _randn(g, vw, std=0.02)
    sd["visual.ln_post.bias"] = _randn(g, vw, std=0.02)
    sd["token_embedding.weight"] = _randn(g, VOCAB, tw, std=0.02)
    sd["positional_embedding"] = _randn(g, CTX, tw, std=0.01)
    for i in range(s["tl"]):
        block(f"transformer.resblocks.{i}.", tw, s["tl"])
    sd["ln_final.weight"] = 1 + _randn(g, tw, std=0.02)
    sd["ln_final.bias"] = _randn(g, tw, std=0.02)
    sd["text_projection"] = q(_randn(g, tw, e, std=tw**-0.5))
    sd["logit_scale"] = torch.tensor(4.6052, dtype=torch.float32)  # ~ln(100)
    return sd


def state_dict_digest(sd):
    h = hashlib.sha256()
    for k, v in sd.items():
        h.update(k.encode())
        h.update(str(tuple(v.shape)).encode())
        h.update(v.contiguous().numpy().tobytes())
    return h.hexdigest()


# folder name -> class name, as upstream's EuroSAT; label = position in this sorted list
EUROSAT = [
    ("AnnualCrop", "Annual Crop Land"),
    ("Forest", "Forest"),
    ("HerbaceousVegetation", "Herbaceous Vegetation Land"),
    ("Highway", "Highway or Road"),
    ("Industrial", "Industrial Buildings"),
    ("Pasture", "Pasture Land"),
    ("PermanentCrop", "Permanent Crop Land"),
    ("Residential", "Residential Buildings"),
    ("River", "River"),
    ("SeaLake", "Sea or Lake"),
]


def _image(label, index, width=80, height=72):
    """uint8 H x W x 3: a class pattern (integers only) + uniform noise from torch.Generator."""
    g = torch.Generator().manual_seed(1_000_003 * (label + 1) + index)
    noise = torch.randint(0, 96, (height, width, 3), generator=g, dtype=torch.int64)
    yy = torch.arange(height).view(-1, 1)
    xx = torch.arange(width).view(1, -1)
    period = 4 + 3 * label
    stripe = (((xx * (1 + label % 3) + yy * (1 + label // 3)) % period) * 255) // period
    chan = torch.stack([(stripe * (1 + (label + c) % 3)) % 160 for c in range(3)], dim=-1)
    return (noise + chan).clamp(0, 255).to(torch.uint8)


def make_fake_eurosat(root, ext="png", n_train=20, n_val=6, n_test=10):
    """eurosat/2750/<Folder>/<Folder>_<k>.<ext> and split_zhou_EuroSAT.json. PNG by default:
    lossless, so the pixels do not depend on the JPEG library. Images are 80x72, so that train
    resize (squash) and test
    resize + center crop differ."""
    from PIL import Image

    base = os.path.join(root, "eurosat")
    split = {"train": [], "val": [], "test": []}
    h = hashlib.sha256()
    for label, (folder, cname) in enumerate(EUROSAT):
        d = os.path.join(base, "2750", folder)
        os.makedirs(d, exist_ok=True)
        k = 0
        for part, n in (("train", n_train), ("val", n_val), ("test", n_test)):
            for _ in range(n):
                k += 1
                name = f"{folder}/{folder}_{k}.{ext}"
                arr = _image(label, k).numpy()
                h.update(arr.tobytes())
                im = Image.fromarray(arr)
                im.save(
                    os.path.join(base, "2750", name), **({"quality": 95} if ext == "jpg" else {})
                )
                split[part].append([name, label, cname])
    with open(os.path.join(base, "split_zhou_EuroSAT.json"), "w") as f:
        json.dump(split, f, indent=1)
    return h.hexdigest()


if __name__ == "__main__":
    ap = argparse.ArgumentParser()
    ap.add_argument("what", choices=["clip", "data"])
    ap.add_argument("out")
    ap.add_argument("--size", default="tiny")
    ap.add_argument("--ext", default="png")
    ap.add_argument("--seed", type=int, default=0)
    a = ap.parse_args()
    if a.what == "clip":
        sd = random_clip_state_dict(a.size, a.seed)
        torch.save(sd, a.out)
        print(
            a.size,
            len(sd),
            "tensors",
            sum(v.numel() for v in sd.values()),
            "params sha256",
            state_dict_digest(sd),
        )
    else:
        print("pixels sha256", make_fake_eurosat(a.out, a.ext))
