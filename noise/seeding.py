"""Random generators that depend on what is perturbed, not on when.

A comparison of methods is only fair if each meets the same noise. Seeding by content (class name,
image path relative to the data root, sample number) gives that whatever the batch size, the worker
count, the order of classes or the methods run before.
"""

import hashlib
import operator

import numpy as np
import torch


def seed_for(seed: int, *keys: str | int) -> int:
    """A stable 63-bit seed for ``seed`` and ``keys``: equal on every machine and in every process.

    Args:
        seed: the run's noise seed.
        keys: what the noise belongs to, e.g. ``("image", "eurosat/2750/Forest/1.jpg", "blur")``.
            Paths should be relative and use forward slashes, or they differ between machines. Leave
            the severity out where a higher severity shall be more of the same noise.

    Raises:
        ValueError: a key is neither text nor a whole number.

    >>> seed_for(1, "cat", 0)
    5592379640346887072
    """
    digest = hashlib.blake2b(digest_size=8)
    for key in (seed, *keys):
        if isinstance(key, str):
            # File names from the operating system may hold lone surrogates; they still have a seed.
            encoded = b"s" + key.encode("utf-8", "surrogatepass")
        else:
            try:
                encoded = b"i" + str(operator.index(key)).encode()
            except TypeError:
                raise ValueError(
                    f"Noise seed: key {key!r} is {type(key).__name__}, give text or a whole number."
                ) from None
        # The length keeps ("ab", "c") apart from ("a", "bc"), the letter 1 apart from "1".
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
    return int.from_bytes(digest.digest(), "little") >> 1  # torch seeds are signed 64-bit


def rng_for(seed: int, *keys: str | int) -> np.random.Generator:
    """NumPy generator for ``seed`` and ``keys``; arguments and errors of `seed_for`."""
    return np.random.default_rng(seed_for(seed, *keys))


def torch_generator_for(seed: int, *keys: str | int) -> torch.Generator:
    """CPU torch generator for ``seed`` and ``keys``; arguments and errors of `seed_for`.

    On the CPU so that a model on a GPU meets the same noise as one on the CPU.
    """
    return torch.Generator().manual_seed(seed_for(seed, *keys))
