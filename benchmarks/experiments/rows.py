"""The finished runs of benchmarks/results and the planned ones of the grids, by name."""
import json
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

METRICS = ("HR@5", "NDCG@5", "HR@20", "NDCG@20")


def read_lines(path: Path) -> list[dict]:
    """The objects of a file of JSON lines; without the last one if it was cut while it was written."""
    if not path.exists():
        return []
    *whole, rest = path.read_text().split("\n")
    lines = [json.loads(line) for line in whole]
    if rest:
        try:
            lines.append(json.loads(rest))
        except json.JSONDecodeError:
            print(f"{path}:{len(lines) + 1}: the last line was cut while it was written; dropped", file=sys.stderr)
    return lines


@dataclass(frozen=True)
class Planned:
    """What a grid asks for: the name of a run."""

    experiment: str
    dataset: str
    variant: str
    seed: int


def planned_runs(grid: Path) -> list[Planned]:
    runs = []
    for experiment in json.loads(grid.read_text())["experiments"]:
        labels = [f" {option}={value}" for option, values in experiment.get("sweep", {}).items() for value in values]
        runs += [
            Planned(experiment["name"], dataset, variant + label, seed)
            for label in labels or [""]
            for dataset in experiment["datasets"]
            for seed in experiment["seeds"]
            for variant in experiment["variants"]
        ]
    return list(dict.fromkeys(runs))


@dataclass(frozen=True)
class Figure:
    """A metric over seeds."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    @property
    def spread(self) -> float:
        return statistics.stdev(self.values) if len(self.values) > 1 else 0.0


class Rows:
    """Finished runs; of several under one name the last counts."""

    def __init__(self, path: Path):
        self._rows = {(r["experiment"], r["dataset"], r["variant"], r["seed"]): r for r in read_lines(path)}

    def __contains__(self, run: Planned) -> bool:
        return (run.experiment, run.dataset, run.variant, run.seed) in self._rows

    def of(self, experiment: str, dataset: str, variant: str) -> list[dict]:
        """One for each seed that came to an end with metrics."""
        return [row for (e, d, v, _), row in sorted(self._rows.items())
                if (e, d, v) == (experiment, dataset, variant) and "diverged" not in row]

    def one(self, experiment: str, dataset: str, variant: str, seed=0) -> dict | None:
        """The run of one seed; None where it has not come to an end with metrics."""
        return next((row for row in self.of(experiment, dataset, variant) if row["seed"] == seed), None)

    def variants(self, experiment: str) -> list[str]:
        return list(dict.fromkeys(v for e, _, v, _ in self._rows if e == experiment))

    def diverged(self) -> list[dict]:
        return [row for row in self._rows.values() if "diverged" in row]

    def figure(self, experiment: str, dataset: str, variant: str, metric: str, split="test", protocol="paper"):
        """None where nothing has been run."""
        found = self.of(experiment, dataset, variant)
        return Figure(tuple(row[split][protocol][metric] for row in found)) if found else None
