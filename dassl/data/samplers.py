"""In which order images are read."""

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils.data import RandomSampler, Sampler, SequentialSampler

from dassl.utils import UsageError, check_availability

if TYPE_CHECKING:
    from dassl.config import Config

    from .datasets import Datum

AVAI_SAMPLERS = [
    "RandomSampler",
    "SequentialSampler",
    "RandomDomainSampler",
    "SeqDomainSampler",
    "RandomClassSampler",
]


class SeededIndex(int):
    """An image's index that carries the seed for its random transforms.

    It is an ordinary integer to any data set that knows nothing of seeds.
    """

    seed: int

    def __new__(cls, index: int, seed: int) -> "SeededIndex":
        """An index with a seed (below 2**63)."""
        self = super().__new__(cls, index)
        self.seed = seed
        return self

    def __reduce__(self) -> tuple:
        return SeededIndex, (int(self), self.seed)


class SeededSampler(Sampler):
    """Another sampler's indices, each with a seed of its own.

    One number is drawn from torch's global generator at the start of an epoch, where a DataLoader
    would draw its workers' seed, and the sample seeds follow from it. So an epoch takes as many
    numbers from the global generator as it does under Dassl, and the order of images is the same;
    and what happens to an image does not depend on which worker reads it, or on how many there are.
    """

    def __init__(self, sampler: Sampler):
        self.sampler = sampler

    def __iter__(self) -> Iterator[SeededIndex]:
        generator = torch.Generator()
        generator.manual_seed(int(torch.empty((), dtype=torch.int64).random_()))
        for index in self.sampler:
            seed = int(torch.empty((), dtype=torch.int64).random_(generator=generator))
            yield SeededIndex(index, seed)

    def __len__(self) -> int:
        return len(self.sampler)


class _DrawnSampler(Sampler):
    """Draws a whole epoch at its start; a subclass sets ``length`` from a first draw."""

    length: int

    def _draw(self) -> list[int]:
        raise NotImplementedError

    def __iter__(self) -> Iterator[int]:
        drawn = self._draw()
        self.length = len(drawn)
        return iter(drawn)

    def __len__(self) -> int:
        """Of the epoch drawn last: epochs differ in length."""
        return self.length


class _DomainSampler(_DrawnSampler):
    """Batches made of equally many images from each of ``n_domain`` domains."""

    def __init__(self, data_source: Sequence["Datum"], batch_size: int, n_domain: int):
        self.data_source = data_source
        self.domain_dict: dict[int, list[int]] = defaultdict(list)
        for index, item in enumerate(data_source):
            self.domain_dict[item.domain].append(index)
        self.domains = list(self.domain_dict)
        if n_domain is None or n_domain <= 0:
            n_domain = len(self.domains)
        if n_domain > len(self.domains) or batch_size % n_domain:
            raise UsageError(
                f"a batch of {batch_size} cannot be shared evenly by {n_domain} domains "
                f"(the data set has {len(self.domains)})"
            )
        self.batch_size = batch_size
        self.n_domain = n_domain
        self.n_img_per_domain = batch_size // n_domain
        for domain, indices in self.domain_dict.items():
            if len(indices) < self.n_img_per_domain:
                raise UsageError(
                    f"domain {domain} has {len(indices)} images, a batch takes "
                    f"{self.n_img_per_domain} from each of {n_domain} domains"
                )
        self.length = len(self._draw())

    def _choose_domains(self) -> list[int]:
        raise NotImplementedError

    def _draw(self) -> list[int]:
        """One epoch: batches until a domain that was used cannot fill its share again."""
        remaining = {domain: list(indices) for domain, indices in self.domain_dict.items()}
        drawn: list[int] = []
        exhausted = False
        while not exhausted:
            for domain in self._choose_domains():
                chosen = random.sample(remaining[domain], self.n_img_per_domain)
                drawn += chosen
                taken = set(chosen)
                remaining[domain] = [i for i in remaining[domain] if i not in taken]
                if len(remaining[domain]) < self.n_img_per_domain:
                    exhausted = True
        return drawn


class RandomDomainSampler(_DomainSampler):
    """Every batch takes its images from ``n_domain`` random domains.

    Args:
        data_source: the images.
        batch_size: a multiple of ``n_domain``.
        n_domain: domains per batch; 0 or less means all.
    """

    def _choose_domains(self) -> list[int]:
        return random.sample(self.domains, self.n_domain)


class SeqDomainSampler(_DomainSampler):
    """Every batch takes random images from all domains, in order of domain."""

    def __init__(self, data_source: Sequence["Datum"], batch_size: int):
        super().__init__(data_source, batch_size, n_domain=0)

    def _choose_domains(self) -> list[int]:
        return sorted(self.domains)


class RandomClassSampler(_DrawnSampler):
    """Every batch holds ``n_ins`` images of each of ``batch_size // n_ins`` random classes.

    A class with fewer than ``n_ins`` images is filled up by drawing with replacement.

    Args:
        data_source: the images.
        batch_size: at least ``n_ins``.
        n_ins: images per class.
    """

    def __init__(self, data_source: Sequence["Datum"], batch_size: int, n_ins: int):
        if batch_size < n_ins:
            raise UsageError(f"batch size {batch_size} is below N_INS, {n_ins} images per class")
        self.data_source = data_source
        self.batch_size = batch_size
        self.n_ins = n_ins
        self.ncls_per_batch = batch_size // n_ins
        self.index_dic: dict[int, list[int]] = defaultdict(list)
        for index, item in enumerate(data_source):
            self.index_dic[item.label].append(index)
        self.labels = list(self.index_dic)
        if len(self.labels) < self.ncls_per_batch:
            raise UsageError(
                f"batches of {self.ncls_per_batch} classes (batch size {batch_size} / N_INS "
                f"{n_ins}) need more classes than the {len(self.labels)} there are"
            )
        self.length = len(self._draw())

    def _draw(self) -> list[int]:
        groups = {label: self._groups(label) for label in self.labels}
        available = list(self.labels)
        drawn: list[int] = []
        while len(available) >= self.ncls_per_batch:
            for label in random.sample(available, self.ncls_per_batch):
                drawn += groups[label].pop(0)
                if not groups[label]:
                    available.remove(label)
        return drawn

    def _groups(self, label: int) -> list[list[int]]:
        """A class's images in random order, in groups of ``n_ins``; the rest is left out."""
        indices = list(self.index_dic[label])
        if len(indices) < self.n_ins:
            filled = np.random.choice(indices, size=self.n_ins, replace=True)  # noqa: NPY002
            indices = filled.tolist()
        random.shuffle(indices)
        whole = len(indices) // self.n_ins * self.n_ins
        return [indices[i : i + self.n_ins] for i in range(0, whole, self.n_ins)]


def build_sampler(
    sampler_type: str,
    cfg: "Config | None" = None,
    data_source: Sequence["Datum"] | None = None,
    batch_size: int = 32,
    n_domain: int = 0,
    n_ins: int = 16,
) -> Sampler:
    """Make the sampler with that name; which of the other arguments count depends on it.

    Raises:
        UsageError: unknown name, or numbers that do not fit the data set.
    """
    check_availability(sampler_type, AVAI_SAMPLERS, kind="sampler")
    if sampler_type == "RandomSampler":
        return RandomSampler(data_source)
    if sampler_type == "SequentialSampler":
        return SequentialSampler(data_source)
    if sampler_type == "RandomDomainSampler":
        return RandomDomainSampler(data_source, batch_size, n_domain)
    if sampler_type == "SeqDomainSampler":
        return SeqDomainSampler(data_source, batch_size)
    return RandomClassSampler(data_source, batch_size, n_ins)
