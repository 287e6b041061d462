"""Zero-shot accuracy of a CLIP on the data sets that the small CLIP's model card reports."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from anprompt.results.render import markdown_table
from clip.clip import _transform, tokenize
from clip.model import CLIP


@dataclass(frozen=True)
class Benchmark:
    """Where a data set lies under the data folder, and the one template it is asked with."""

    folder: str
    images: str
    split_file: str
    template: str


BENCHMARKS = {
    "Shapes": Benchmark("shapes", "images", "split_zhou_Shapes.json", "a picture of a {}."),
    "EuroSAT": Benchmark(
        "eurosat", "2750", "split_zhou_EuroSAT.json", "a centered satellite photo of {}."
    ),
    "Caltech101": Benchmark(
        "caltech-101",
        "101_ObjectCategories",
        "split_zhou_Caltech101.json",
        "a photo of a {}.",
    ),
}


@dataclass
class Images:
    """A split in memory: pixels (N, 3, R, R) as the model takes them, labels (N,), class names."""

    pixels: Tensor
    labels: Tensor
    classnames: list[str]


def benchmark_folder(data: Path | None, name: str) -> Path | None:
    """The data set's folder, or None where ``data`` has none. Shapes is drawn where it is not."""
    folder = data / BENCHMARKS[name].folder if data is not None else None
    if folder is not None and folder.is_dir():
        return folder
    if name == "Shapes":
        from datasets.shapes import default_root, ensure_drawn

        return ensure_drawn(default_root())
    return None


def read_split(folder: Path, name: str, split: str, resolution: int) -> Images:
    """Read a split's images through CLIP's test transform.

    Raises:
        FileNotFoundError: no split file, or an image that it lists is not there.
    """
    benchmark = BENCHMARKS[name]
    path = folder / benchmark.split_file
    if not path.is_file():
        raise FileNotFoundError(f"{path} not found; --data must name the folder that holds it")
    content = json.loads(path.read_text(encoding="utf-8"))
    names = {item[1]: item[2] for item in content["test"]}
    transform = _transform(resolution)
    pixels = []
    for item in tqdm(
        content[split], desc=f"reading {name} {split}", unit="image", leave=False, disable=None
    ):
        with Image.open(folder / benchmark.images / item[0]) as image:
            pixels.append(transform(image))
    return Images(
        torch.stack(pixels),
        torch.tensor([item[1] for item in content[split]]),
        [names[label].replace("_", " ") for label in sorted(names)],
    )


@torch.no_grad()
def zero_shot(model: CLIP, images: Images, template: str) -> dict[str, float]:
    """Accuracy and mean per-class accuracy, both in per cent: argmax of the cosine similarity."""
    model.eval()
    tokens = tokenize([template.format(name) for name in images.classnames])
    texts = F.normalize(model.encode_text(tokens), dim=-1)
    correct = torch.cat(
        [
            (F.normalize(model.encode_image(pixels), dim=-1) @ texts.t()).argmax(dim=1) == labels
            for pixels, labels in zip(
                images.pixels.split(256), images.labels.split(256), strict=True
            )
        ]
    ).float()
    per_class = [correct[images.labels == label].mean() for label in images.labels.unique()]
    return {
        "accuracy": 100 * float(correct.mean()),
        "mean_per_class": 100 * float(torch.stack(per_class).mean()),
    }


class Evaluation:
    """The benchmarks that ``data`` has, read once; Shapes is always among them.

    Raises:
        FileNotFoundError: no such data folder, or a data set in it is incomplete.
    """

    def __init__(self, data: Path | None, split: str, resolution: int):
        if data is not None and not data.is_dir():
            raise FileNotFoundError(f"no data folder {data}; name another with --data")
        self.split = split
        self.images: dict[str, Images] = {}
        for name in BENCHMARKS:
            folder = benchmark_folder(data, name)
            if folder is not None:
                self.images[name] = read_split(folder, name, split, resolution)

    def __call__(self, model: CLIP) -> list[dict]:
        """One row per data set: what was asked, chance level and accuracy in per cent."""
        rows = []
        for name, images in self.images.items():
            template = BENCHMARKS[name].template
            figures = zero_shot(model, images, template)
            rows.append(
                {
                    "data set": name,
                    "split": self.split,
                    "images": len(images.labels),
                    "classes": len(images.classnames),
                    "chance %": f"{100 / len(images.classnames):.1f}",
                    "accuracy %": f"{figures['accuracy']:.1f}",
                    "mean per class %": f"{figures['mean_per_class']:.1f}",
                    "template": template,
                }
            )
        return rows


def markdown(rows: list[dict]) -> str:
    """Rows as a table."""
    cells = [[str(value) for value in row.values()] for row in rows]
    return markdown_table(list(rows[0]), cells, left=len(rows[0]))
