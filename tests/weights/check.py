"""Weights go both ways through the official safetensors package: it reads what elcrec writes and writes what elcrec
reads. Scores and metrics of both are compared with a forward pass in numpy. Exit code 77 says that there is no package.

    check.py PROGRAM FOLDER    the program `elcrec`, and a folder for the files of this test
"""
import json
import math
import os
import random
import subprocess
import sys
from pathlib import Path

SKIPPED = 77
ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "elcrec" / "peers"  # install.sh's

try:
    import numpy as np
    from safetensors import safe_open
    from safetensors.numpy import save_file
except ImportError as missing:
    python = ENVIRONMENT / "bin" / "python"
    if python.exists() and Path(sys.prefix).resolve() != ENVIRONMENT.resolve():
        os.execv(python, [str(python), *sys.argv])
    print(f"Skipped: {missing}. benchmarks/peers/install.sh numpy safetensors installs it into {ENVIRONMENT}.")
    sys.exit(SKIPPED)

sys.path.insert(0, str(ROOT / "benchmarks" / "peers"))
from read_safetensors import read_safetensors  # noqa: E402

USERS, ITEMS, HIDDEN, HEADS, LAYERS, INTENTS, LENGTH = 40, 30, 8, 2, 2, 4, 8
ASKED, TOP = 8, 10  # whose scores are compared, and how many scores each
TOLERANCE = 1e-5  # of scores of about 1 in single precision

Tensors = dict[str, np.ndarray]
Histories = dict[int, list[int]]
erf = np.vectorize(math.erf)


def expect(holds: bool, what: str) -> None:
    if not holds:
        raise SystemExit(f"FAILED: {what}")
    print(f"ok: {what}")


def shapes() -> dict[str, tuple[int, ...]]:
    """Of the model's tensors, by PyTorch's names. Rows of the item table: padding, the items, the mask."""
    found: dict[str, tuple[int, ...]] = {
        "item_embeddings.weight": (ITEMS + 2, HIDDEN), "position_embeddings.weight": (LENGTH, HIDDEN),
        "cluster_centers": (INTENTS, HIDDEN), "LayerNorm.weight": (HIDDEN,), "LayerNorm.bias": (HIDDEN,),
    }
    linear = {f"attention.{part}": (HIDDEN, HIDDEN) for part in ("query", "key", "value", "dense")}
    linear |= {"intermediate.dense_1": (4 * HIDDEN, HIDDEN), "intermediate.dense_2": (HIDDEN, 4 * HIDDEN)}
    for layer in range(LAYERS):
        prefix = f"item_encoder.layer.{layer}."
        for name, shape in linear.items():
            found |= {f"{prefix}{name}.weight": shape, f"{prefix}{name}.bias": shape[:1]}
        for part in ("attention", "intermediate"):
            found |= {f"{prefix}{part}.LayerNorm.{kind}": (HIDDEN,) for kind in ("weight", "bias")}
    return found


class Model:
    """The encoder of item rows 1 to ITEMS in double precision: causal attention, post-norm, exact GELU."""

    def __init__(self, tensors: Tensors) -> None:
        self.tensors = {name: values.astype(np.float64) for name, values in tensors.items()}

    def linear(self, x: np.ndarray, name: str) -> np.ndarray:
        return x @ self.tensors[f"{name}.weight"].T + self.tensors[f"{name}.bias"]

    def norm(self, x: np.ndarray, name: str) -> np.ndarray:
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-12)
        return scaled * self.tensors[f"{name}.weight"] + self.tensors[f"{name}.bias"]

    def attention(self, x: np.ndarray, name: str) -> np.ndarray:
        n, width = len(x), HIDDEN // HEADS
        q, k, v = (self.linear(x, f"{name}.{part}").reshape(n, HEADS, width).transpose(1, 0, 2)
                   for part in ("query", "key", "value"))
        logits = q @ k.transpose(0, 2, 1) / math.sqrt(width)  # (heads, n, n)
        logits[:, ~np.tri(n, dtype=bool)] = -np.inf
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        context = (weights / weights.sum(-1, keepdims=True)) @ v
        return self.linear(context.transpose(1, 0, 2).reshape(n, HIDDEN), f"{name}.dense")

    def scores(self, history: list[int]) -> np.ndarray:
        """Rows of the item table -> (ITEMS), the score of row i at i - 1."""
        rows = history[-LENGTH:]
        table, positions = self.tensors["item_embeddings.weight"], self.tensors["position_embeddings.weight"]
        x = self.norm(table[rows] + positions[LENGTH - len(rows) :], "LayerNorm")
        for layer in range(LAYERS):
            prefix = f"item_encoder.layer.{layer}."
            x = self.norm(x + self.attention(x, prefix + "attention"), prefix + "attention.LayerNorm")
            inner = self.linear(x, prefix + "intermediate.dense_1")
            gelu = inner * 0.5 * (1 + erf(inner / math.sqrt(2)))
            x = self.norm(x + self.linear(gelu, prefix + "intermediate.dense_2"), prefix + "intermediate.LayerNorm")
        return table[1 : ITEMS + 1] @ x[-1]


class Checked:
    """One checkpoint against its numpy model; `names` are the histories' names of rows 1, 2, ..."""

    def __init__(self, program: str, data: Path, histories: Histories, names: np.ndarray) -> None:
        self.program, self.data, self.names = program, data, names
        rows = {int(name): row for row, name in enumerate(names, 1)}
        self.histories = {user: [rows[item] for item in items] for user, items in histories.items()}

    def ask(self, *arguments: str) -> dict:
        done = subprocess.run([self.program, *arguments, "--threads", "1", "--json"], capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(f"FAILED: elcrec {' '.join(arguments)}: {done.stderr}")
        return json.loads(done.stdout)

    def metrics(self, checkpoint: Path) -> dict[str, float]:
        found = self.ask("evaluate", "--data", str(self.data), "--checkpoint", str(checkpoint), "--heads", str(HEADS))
        del found["seconds"]
        return found

    def scores_agree(self, checkpoint: Path, model: Model) -> bool:
        for user, history in list(self.histories.items())[:ASKED]:
            found = self.ask("recommend", "--data", str(self.data), "--user", str(user), "--checkpoint",
                             str(checkpoint), "--heads", str(HEADS), "-k", str(TOP))["items"]
            scores = model.scores(history)
            scores[np.array(history) - 1] = -np.inf
            best = np.argsort(-scores)[:TOP]
            ours = np.array([entry["score"] for entry in found])
            own = scores[[int(np.flatnonzero(self.names == entry["item"])[0]) for entry in found]]
            # Numpy's best scores, and each item with its own: two items may change places where their scores are one.
            if len(found) != TOP or not (np.allclose(ours, scores[best], TOLERANCE, TOLERANCE)
                                         and np.allclose(ours, own, TOLERANCE, TOLERANCE)):
                print(f"user {user}: found {ours}, expected {scores[best]}")
                return False
        return True

    def metrics_agree(self, checkpoint: Path, model: Model) -> bool:
        """The last item of each user among all that the rest of the history lacks."""
        ranks = []
        for *history, target in self.histories.values():
            scores = model.scores(history)
            own = scores[target - 1]
            scores[np.array(history) - 1] = -np.inf
            ranks.append(int((scores > own).sum()))
        rank = np.array(ranks)
        expected = {"users": float(len(rank)), "MRR": float((1 / (rank + 1)).mean())}
        for k in (5, 10, 20):
            expected |= {f"HR@{k}": float((rank < k).mean()),
                         f"NDCG@{k}": float(np.where(rank < k, 1 / np.log2(rank + 2), 0).mean())}
        found = self.metrics(checkpoint)
        agree = found.keys() == expected.keys() and all(abs(found[name] - expected[name]) < 1e-9 for name in expected)
        if not agree:
            print(f"found {found}, expected {expected}")
        return agree


def read(path: Path) -> tuple[Tensors, dict[str, str]]:
    with safe_open(path, "np") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()


def write_histories(path: Path, names: list[int]) -> Histories:
    chance = random.Random(3)
    histories = {100 + user: chance.sample(names, chance.randint(5, 14)) for user in range(USERS)}
    path.write_text("".join(f"{user} {' '.join(map(str, items))}\n" for user, items in histories.items()))
    return histories


def check_ours(program: str, folder: Path) -> None:
    data, checkpoint, copy = folder / "data.txt", folder / "ours.safetensors", folder / "copy.safetensors"
    histories = write_histories(data, [10 * item + 3 for item in range(1, ITEMS + 1)])
    command = [program, "train", "--data", data, "--out", checkpoint, "--preset", "elcrec", "--hidden", HIDDEN,
               "--heads", HEADS, "--layers", LAYERS, "--intents", INTENTS, "--max-length", LENGTH, "--epochs", 3,
               "--seed", 5, "--threads", 1, "--learning-rate", 0.01]
    subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL)

    tensors, metadata = read(checkpoint)
    plain, plain_metadata = read_safetensors(checkpoint)
    expect(metadata == plain_metadata and tensors.keys() == plain.keys(), "the package finds the file's names")
    expect(all(tensors[name].dtype == plain[name].dtype and tensors[name].shape == plain[name].shape
               and tensors[name].tobytes() == plain[name].tobytes() for name in plain), "its types, shapes and values")
    model = {name: values for name, values in tensors.items()
             if not name.startswith("training.") and name != "item_ids"}
    expect({name: values.shape for name, values in model.items()} == shapes(), "the model's tensors are PyTorch's")
    expect(all(values.dtype == np.float32 for values in model.values()), "in single precision")

    checked = Checked(program, data, histories, tensors["item_ids"])
    expect(checked.scores_agree(checkpoint, Model(model)), "numpy scores as elcrec with what the package read")
    expect(checked.metrics_agree(checkpoint, Model(model)), "and our metrics")
    save_file(tensors, copy, metadata)
    expect(checked.metrics(copy) == checked.metrics(checkpoint), "what the package writes again evaluates the same")


def check_theirs(program: str, folder: Path) -> None:
    data, checkpoint = folder / "plain.txt", folder / "theirs.safetensors"
    names = list(range(1, ITEMS + 1))
    histories = write_histories(data, names)
    rng = np.random.default_rng(7)
    tensors = {name: rng.normal(1 if name.endswith("LayerNorm.weight") else 0, 0.4, shape).astype(np.float32)
               for name, shape in shapes().items()}
    save_file(tensors, checkpoint)
    checked = Checked(program, data, histories, np.array(names))
    expect(checked.scores_agree(checkpoint, Model(tensors)), "elcrec scores as numpy with what the package wrote")
    expect(checked.metrics_agree(checkpoint, Model(tensors)), "and evaluates them to numpy's metrics")


def main() -> None:
    program, folder = sys.argv[1], Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    check_ours(program, folder)
    check_theirs(program, folder)


if __name__ == "__main__":
    main()
