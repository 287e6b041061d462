"""In which order images are read, and the seed that each of them gets."""

from collections.abc import Iterator, Sequence, Sized
from typing import TYPE_CHECKING, cast

import torch
from torch.utils.data import BatchSampler, RandomSampler, Sampler, SequentialSampler

from common.ranks import Share
from dassl.utils import check_availability

if TYPE_CHECKING:
    from .datasets import Datum

SAMPLERS = {"RandomSampler": RandomSampler, "SequentialSampler": SequentialSampler}


class RepeatedBatches(Sampler):
    """Another sampler's batches, over and over until there are as many as asked for.

    All are drawn when the first is, so that what they take from torch's global generator does not
    depend on how far ahead batches are read.

    Args:
        batches: those; one or more.
        steps: how many.
    """

    def __init__(self, batches: BatchSampler, steps: int):
        self.batches, self.steps = batches, steps

    def __iter__(self) -> Iterator[list]:
        passes = -(-self.steps // len(self.batches))
        drawn = [batch for _ in range(passes) for batch in self.batches]
        yield from drawn[: self.steps]

    def __len__(self) -> int:
        return self.steps


class SharedBatches(Sampler):
    """One process's part of the batches that one process alone would read.

    Args:
        batches: those.
        share: which process of how many.
        whole: every batch belongs to one process, for tests: it stays as it is, and so do its
            logits. Otherwise the processes share each batch.
    """

    def __init__(self, batches: BatchSampler | RepeatedBatches, share: Share, whole: bool):
        self.batches, self.share, self.whole = batches, share, whole

    def __iter__(self) -> Iterator[list]:
        for number, batch in enumerate(self.batches):
            if not self.whole:
                yield batch[self.share.of(len(batch)).own]
            elif number % self.share.size == self.share.rank:
                yield batch

    def size_of(self, number: int) -> int:
        """Return how many images the ``number``-th batch of an epoch has, over all processes."""
        once = self.batches.batches if isinstance(self.batches, RepeatedBatches) else self.batches
        before = number % len(once) * once.batch_size
        return min(once.batch_size, len(once.sampler) - before)  # type: ignore[arg-type]

    def __len__(self) -> int:
        total = len(self.batches)
        return len(range(self.share.rank, total, self.share.size)) if self.whole else total


class SeededSampler(Sampler):
    """Another sampler's indices, each with a seed for the image's random transforms.

    One number is drawn from torch's global generator at the start of an epoch, where a DataLoader
    would draw its workers' seed, and the images' seeds follow from it. So an epoch takes as many
    numbers from the global generator as it does under Dassl, and the order of images is the same;
    and what happens to an image does not depend on which worker reads it, or on how many there are.

    Args:
        sampler: whose order it is.
        with_seeds: yield pairs of index and seed (below 2**63); otherwise indices alone, for a data
            set that knows nothing of seeds.
    """

    def __init__(self, sampler: Sampler, with_seeds: bool = True):
        self.sampler = sampler
        self.with_seeds = with_seeds

    def __iter__(self) -> Iterator[tuple[int, int] | int]:
        generator = torch.Generator()
        generator.manual_seed(int(torch.empty((), dtype=torch.int64).random_()))
        for index in self.sampler:
            seed = int(torch.empty((), dtype=torch.int64).random_(generator=generator))
            yield (index, seed) if self.with_seeds else index

    def __len__(self) -> int:
        return len(cast(Sized, self.sampler))


def build_sampler(name: str, data_source: "Sequence[Datum]") -> Sampler:
    """Return the sampler of that name.

    Raises:
        UsageError: unknown name.
    """
    check_availability(name, SAMPLERS, kind="sampler")
    return SAMPLERS[name](data_source)
