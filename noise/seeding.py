"""Seed random generators by what is perturbed, not by when.

A comparison of methods is only fair if each meets the same noise. Seeding by content (class name,
image path relative to the data root, sample number) gives that whatever the batch size, the worker
count, the order of classes or the methods run before. Torch's generators: `noise.torch_seeding`.
"""

import hashlib
import operator

import numpy as np


def seed_for(seed: int, *keys: str | int) -> int:
    """Return a stable 63-bit seed, equal on every machine and in every process.

    Args:
        seed: the run's noise seed.
        keys: what the noise belongs to, e.g. ``("image", "eurosat/2750/Forest/1.jpg", "blur")``.
            Paths should be relative and use forward slashes, or they differ between machines. Leave
            the severity out where a higher severity should be more of the same noise.

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
    """Return a NumPy generator; arguments and errors of `seed_for`."""
    return np.random.default_rng(seed_for(seed, *keys))
