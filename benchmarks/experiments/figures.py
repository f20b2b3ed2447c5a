"""The plots of RESULTS.md. Each function writes one SVG, or returns False where no run has what it shows."""
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
import numpy
from sklearn.manifold import TSNE

from rows import Rows

# The same bytes for the same rows.
matplotlib.rcParams.update({"svg.hashsalt": "elcrec", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False})


def save(figure, path: Path) -> bool:
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    return True


def ablation(rows: Rows, variants: list[str], datasets: list[str], path: Path) -> bool:
    """A group of bars for each data set, a bar for each variant that has been run; error bars over seeds."""
    shown = [d for d in datasets if any(rows.of("ablation", d, v) for v in variants)]
    run = [v for v in variants if any(rows.of("ablation", d, v) for d in shown)]
    if not shown:
        return False
    figure, axes = plt.subplots(1, 2, figsize=(8, 3))
    width = 0.8 / len(run)
    for axis, metric in zip(axes, ("HR@20", "NDCG@20")):
        for i, variant in enumerate(run):
            found = [(x, rows.figure("ablation", d, variant, metric)) for x, d in enumerate(shown)]
            found = [(x, f) for x, f in found if f]
            axis.bar([x + (i - (len(run) - 1) / 2) * width for x, _ in found], [f.mean for _, f in found], width,
                     yerr=[f.spread for _, f in found], label=variant, capsize=2)
        axis.set_xticks(range(len(shown)), shown)
        axis.set_ylabel(f"test {metric}")
    axes[0].legend(fontsize=8, loc="lower right")
    return save(figure, path)


def convergence(rows: Rows, lines: list[tuple[str, str]], dataset: str, path: Path) -> bool:
    """Validation HR@5 and the next-item loss by epoch, of the first seed of each (experiment, variant)."""
    curves = [(variant, rows.of(experiment, dataset, variant)) for experiment, variant in lines]
    curves = [(variant, found[0]["curve"]) for variant, found in curves if found]
    if not curves:
        return False
    figure, axes = plt.subplots(1, 2, figsize=(8, 3))
    for axis, key, label in zip(axes, ("HR@5", "next_item"), ("validation HR@5", "next-item loss")):
        for variant, curve in curves:
            axis.plot(curve["epoch"], curve[key], label=variant)
        axis.set_xlabel(f"epoch ({dataset})")
        axis.set_ylabel(label)
    axes[0].legend(fontsize=8)
    return save(figure, path)


def sensitivity(rows: Rows, sweeps: dict[str, list], dataset: str, path: Path) -> bool:
    """Test NDCG@20 against an option's values; an axis for each option that has been swept."""
    found = {}
    for option, values in sweeps.items():
        points = [(v, rows.figure(option, dataset, f"ELCRec {option}={v}", "NDCG@20")) for v in values]
        found[option] = [(v, f) for v, f in points if f]
    found = {option: points for option, points in found.items() if points}
    if not found:
        return False
    figure, axes = plt.subplots(1, len(found), figsize=(4 * len(found), 3), squeeze=False)
    for axis, (option, points) in zip(axes[0], found.items()):
        axis.errorbar([v for v, _ in points], [f.mean for _, f in points], [f.spread for _, f in points], marker="o",
                      capsize=2)
        axis.set_xscale("log")
        axis.set_xlabel(f"{option} ({dataset})")
        axis.set_ylabel("test NDCG@20")
    return save(figure, path)


def user_map(users: dict, path: Path) -> bool:
    """t-SNE of user embeddings, coloured by the intents that most of them have."""
    sample = users["sample"]
    points = TSNE(metric="cosine", init="random", random_state=0, perplexity=30).fit_transform(
        numpy.array(sample["embedding"], dtype=float))
    intent = numpy.array(sample["intent"])
    largest = sorted(set(sample["intent"]), key=lambda i: (-sample["intent"].count(i), i))[:10]
    figure, axis = plt.subplots(figsize=(5, 4.5))
    others = ~numpy.isin(intent, largest)
    axis.scatter(*points[others].T, s=5, color="0.85", label="other intents")
    for i in largest:
        axis.scatter(*points[intent == i].T, s=8, label=f"intent {i}")
    axis.legend(fontsize=7, markerscale=1.5)
    axis.set_xticks([])
    axis.set_yticks([])
    return save(figure, path)


def activity(users: dict, path: Path) -> bool:
    """For each activity group the shares of its three most and three least frequent intents, those without users aside."""
    figure, axes = plt.subplots(1, len(users["groups"]), figsize=(10, 2.8), sharey=True)
    shortest = 1
    for axis, group in zip(axes, users["groups"]):
        total = sum(group["users_of_intent"])
        ranked = sorted((-count, i) for i, count in enumerate(group["users_of_intent"]) if count > 0)
        chosen = ranked[:3] + ranked[3:][-3:]
        axis.bar([str(i) for _, i in chosen], [-100 * count / max(1, total) for count, _ in chosen],
                 color=["C0"] * len(ranked[:3]) + ["C1"] * len(ranked[3:][-3:]))
        bounds = f"{shortest} or more" if group["longest"] > 10**6 else f"up to {group['longest']}"
        axis.set_title(f"{group['name']}: {bounds} items\n{total} users", fontsize=8)
        axis.set_xlabel("intent")
        shortest = group["longest"] + 1
    axes[0].set_ylabel("share of the group, %")
    return save(figure, path)
