"""Seconds an image of anomaly detection's features, on random weights of ViT-B/16's shape.

    python -m benchmarks.patch_features

Times the stock image tower, and both paths with the memory's layers (`clip.patches`), in CPU
seconds of this process, so that what else runs on the machine matters little.
"""

import argparse
import time
from collections.abc import Callable

import torch

from clip.model import VisionTransformer
from clip.patches import patch_tokens


def seconds(work: Callable[[], object], images: int, repeats: int) -> float:
    """Return the least CPU time an image of some runs; one more goes before them."""
    work()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times) / images


def main() -> None:
    """Print both times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=224, help="pixels of a side")
    parser.add_argument("--images", type=int, default=4, help="images a batch")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    torch.manual_seed(0)
    tower = VisionTransformer(224, 16, 768, 12, 12, 512).eval().requires_grad_(False)
    for parameter in tower.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    image = torch.randn(args.images, 3, args.size, args.size)
    with torch.no_grad():
        for name, work in (
            ("stock", lambda: tower(image)),
            ("both paths", lambda: patch_tokens(tower, image, layers=(2, 7), radius=3)),
        ):
            print(f"{name}: {seconds(work, args.images, args.repeats):.2f} CPU seconds an image")


if __name__ == "__main__":
    main()
