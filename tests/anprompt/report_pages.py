"""Pages of the report as tests read them, and their numbers anew from the files they name."""

import csv
import json
import re
import statistics
from html.parser import HTMLParser
from pathlib import Path


class Reader(HTMLParser):
    """Table cells, traced numbers, ids, links and loaded resources of a page."""

    def __init__(self, document: str):
        super().__init__()
        self.ids, self.links, self.loaded = [], [], []
        self.text: list[str] = []
        self.open: list[tuple[str, dict]] = []
        self.numbers: list[dict] = []  # attributes, with what is shown as "shown"
        self.cells: list[tuple[str, bool]] = []  # text and whether it is traced
        self.feed(document)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        if "data-source" in values:
            self.numbers.append({**values, "shown": ""})
        if tag == "td":
            self.cells.append(("", False))
        if tag not in ("meta", "img", "link", "br"):
            self.open.append((tag, values))
        if "id" in values:
            self.ids.append(values["id"])
        if tag == "a":
            self.links.append(values["href"])
        self.loaded += [values[key] for key in ("src", "data", "srcset") if values.get(key)]
        if tag == "link":
            self.loaded.append(values.get("href", ""))

    def handle_endtag(self, tag):
        while self.open and self.open.pop()[0] != tag:
            pass

    def handle_data(self, data):
        tags = [tag for tag, _ in self.open]
        traced = any("data-source" in values for _, values in self.open)
        if traced:
            self.numbers[-1]["shown"] += data
        if "td" in tags and not {"a", "code"} & set(tags):
            text, was = self.cells[-1]
            self.cells[-1] = (text + data, was or traced)
        if not {"style", "script"} & set(tags[-1:]):
            self.text.append(data)


READ: dict[str, dict] = {}


def leaf(source: str) -> float:
    """What stands in a file: in results.json and robustness.json by key, in log.txt by epoch."""
    path, _, key = source.partition("#")
    if path.endswith("curve.csv"):
        epoch, column = re.fullmatch(r"epoch (\d+)/(\w+)", key).groups()
        with open(path) as file:
            rows = [row for row in csv.DictReader(file) if row["epoch"] == epoch]
        return float(rows[0][column])
    if path.endswith("log.txt"):
        epoch, meter = re.fullmatch(r"epoch (\d+)/(\w+)", key).groups()
        lines = [line for line in Path(path).read_text().splitlines()
                 if line.startswith(f"epoch [{epoch}/")]  # fmt: skip
        return float(re.search(rf"\b{meter} [\d.]+ \(([\d.]+)\)", lines[-1])[1])
    if path not in READ:
        READ[path] = json.loads(Path(path).read_text())
    value = READ[path]
    if "/cells/" in key:  # "group/kind/severity/seed" is one name there
        before, _, rest = key.partition("/cells/")
        *cell, rule, measure = rest.split("/")
        return READ[path]["parts"][before.split("/")[1]]["cells"]["/".join(cell)][rule][measure]
    for name in key.split("/"):
        value = value[int(name)] if isinstance(value, list) else value[name]
    return value


def noisy(patterns: list[str]) -> float:
    """Mean over kinds of means over severities of means over seeds."""
    kinds: dict[str, dict[str, list[float]]] = {}
    for pattern in patterns:
        before, _, rest = pattern.partition("/cells/")
        group, names, severities, seeds, rule, measure = rest.split("/")
        for name in names.strip("{}").split(","):
            for severity in severities.strip("{}").split(","):
                for seed in seeds.strip("{}").split(","):
                    key = f"{before}/cells/{group}/{name}/{severity}/{seed}/{rule}/{measure}"
                    kinds.setdefault(name, {}).setdefault(severity, []).append(leaf(key))
    return statistics.fmean(
        statistics.fmean(statistics.fmean(values) for values in by_severity.values())
        for by_severity in kinds.values()
    )


def computed(source) -> float:
    """A number anew, from the files that its source names."""
    if isinstance(source, str):
        return leaf(source)
    operation, *parts = source
    if operation == "noisy":
        return noisy(parts)
    if operation == "count":
        assert all(leaf(part) is not None for part in parts)
        return len(parts)
    values = [computed(part) for part in parts]
    return {
        "mean": lambda: statistics.fmean(values),
        "hm": lambda: 2 / (1 / values[0] + 1 / values[1]) if all(values) else 0.0,
        "minus": lambda: values[0] - values[1],
        "over": lambda: values[0] / values[1],
        "percent": lambda: 100 * values[0],
    }[operation]()
