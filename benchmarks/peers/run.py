"""Runs elcrec and its peers in turn (ours, theirs, ours, theirs), keeps the best of each, prints a table and writes
build/peers/results.json. A peer that is not installed is named and left out.

    /usr/bin/python3 benchmarks/peers/run.py --build build --data Beauty.txt
"""
import argparse
import collections
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROUNDS = 2
ROUNDS_OF_CALLS = 8  # of calls that take milliseconds: what disturbs them on a shared machine lasts for seconds
ROUNDS_OF_CLAIMS = 5
STEPS_PER_EPOCH = 88  # 22,363 users in batches of 256
BEAUTY_USERS = 22363
RELEASED_EVALUATION_S = 7.5  # DESIGN, section 3

Figures = dict[str, float]


class Missing(Exception):
    """Why something cannot be measured."""


@dataclass
class Row:
    work: str
    peer: str
    theirs: str  # name of a figure of the comparison's peer
    benchmark: str  # of elcrec_bench
    ours: str  # name of one of its figures
    unit: str
    target: float | None = None  # how many times better ours is to be
    more_is_better: bool = False


@dataclass
class Comparison:
    theirs: Callable[[], Figures]
    rows: list[Row]
    rounds: int = ROUNDS


@dataclass
class Result:
    work: str
    peer: str
    unit: str
    target: float | None
    theirs: float | None = None
    ours: float | None = None
    ratio: float | None = None
    skipped: str = ""


def output_of(command: list[str | Path], environment: dict[str, str] | None = None) -> str:
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Missing(str(error)) from error
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip() or "nothing said").splitlines()
        raise Missing(next((line for line in said if "Error:" in line), said[-1]))
    return done.stdout


class Ours:
    """The Google Benchmark program, each benchmark in a process of its own, so that peak memory is its own too."""

    def __init__(self, program: Path) -> None:
        self.program = program

    def __call__(self, benchmark: str) -> Figures:
        pattern = f"--benchmark_filter=^{benchmark}(/real_time)?$"
        out = output_of([self.program, "--benchmark_format=json", pattern])
        runs = json.loads(out)["benchmarks"] if out.lstrip().startswith("{") else []
        if not runs:
            raise Missing(f"{self.program.name} has no benchmark {benchmark}")
        if runs[0].get("error_occurred"):
            raise Missing(f"{benchmark}: {runs[0]['error_message']}")
        figures = {name: value for name, value in runs[0].items() if isinstance(value, (int, float))}
        figures["ms"] = figures["real_time"] * {"ns": 1e-6, "us": 1e-3, "ms": 1, "s": 1e3}[runs[0]["time_unit"]]
        figures["epoch_s"] = STEPS_PER_EPOCH * figures["ms"] / 1000
        if "items_per_second" in figures:  # also right where the benchmark takes fewer users than Beauty has
            figures["beauty_s"] = BEAUTY_USERS / figures["items_per_second"]
        return figures


class Peers:
    """The programs of this folder. Each is checked before it is measured for the first time."""

    def __init__(self, folder: Path, data: Path | None) -> None:
        self.folder = folder
        self.data = ["--data", data] if data else []
        self.checked: set[str] = set()

    def python(self, script: str, *arguments: str | Path, threads: int = 1) -> str:
        """Allocator: keeps every page, in huge ones where the system lets it. OpenBLAS: its widest kernels, which it
        does not find on every virtual machine."""
        wide = "avx512f" in Path("/proc/cpuinfo").read_text()
        tuned = {
            "MALLOC_MMAP_THRESHOLD_": str(4 << 30), "MALLOC_TRIM_THRESHOLD_": str(16 << 30),
            "MALLOC_TOP_PAD_": str(256 << 20), "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
            "OPENBLAS_CORETYPE": "SkylakeX" if wide else "Haswell", "OMP_NUM_THREADS": str(threads),
        }
        return output_of([sys.executable, HERE / script, *arguments], os.environ | tuned)

    def training(self) -> Figures:
        if "training" not in self.checked:
            self.python("elcrec_torch.py", "--check")
            self.checked.add("training")
        found = {}
        for threads in (1, 2):
            out = self.python("train_step.py", *self.data, "--threads", str(threads), "--json", threads=threads)
            found |= {f"{name}_{threads}": value for name, value in json.loads(out).items()}
        found["epoch_s"] = min(found["epoch_s_1"], found["epoch_s_2"])
        found["peak_MB"] = min(found["peak_MB_1"], found["peak_MB_2"])
        return found

    def serving(self) -> Figures:
        if not (self.folder / "node_modules" / "onnxruntime-node").exists():
            raise Missing("onnxruntime-node is not installed (install.sh)")
        if "serving" not in self.checked:
            self.python("export_onnx.py", *self.data, "--out", self.folder)
            output_of(["node", HERE / "score_onnx.mjs", self.folder, "--check"])
            self.checked.add("serving")
        found = json.loads(output_of(["node", HERE / "score_onnx.mjs", self.folder]))
        return {f"{model}.{name}": value for model, figures in found.items() if isinstance(figures, dict)
                for name, value in figures.items()}

    def million(self) -> Figures:
        found = json.loads(self.python("topk_faiss.py"))
        if "faiss_ms" not in found:
            raise Missing(f"faiss: {found['faiss']}; numpy takes {found['numpy_ms']:.1f} ms")
        return {name: value for name, value in found.items() if isinstance(value, float)}


def comparisons(peers: Peers) -> dict[str, Comparison]:
    def step(padded: int, threads: int) -> str:
        return f"training_step/padded:{padded}/share_views:0/threads:{threads}"

    torch, onnx, faiss = "PyTorch, tuned", "ONNX Runtime", "Faiss, as shipped"
    padded, masked = "Beauty epoch, paper padding", "Beauty epoch, masked padding"
    million, blas = "top 20 of 1M x 64", "Faiss, through BLAS"
    return {
        "training": Comparison(peers.training, [
            Row(padded, f"{torch}, better of 1 and 2 threads", "epoch_s", step(1, 2), "epoch_s", "s", 5),
            Row(f"{padded}, one thread", torch, "epoch_s_1", step(1, 1), "epoch_s", "s"),
            Row(f"{padded}, memory", torch, "peak_MB", step(1, 2), "peak_MB", "MB"),
            Row(masked, f"{torch}, paper padding", "epoch_s", step(0, 2), "epoch_s", "s", 50),
            Row(f"{masked}, one thread", f"{torch}, paper padding", "epoch_s_1", step(0, 1), "epoch_s", "s"),
            Row(f"{masked}, memory", f"{torch}, paper padding", "peak_MB", step(0, 2), "peak_MB", "MB"),
        ]),
        "serving": Comparison(peers.serving, [
            Row("one user, median", onnx, "elcrec.median_us", "recommend_20/compact:1", "median_us", "us", 2.5),
            Row("one user, 99th percentile", onnx, "elcrec.p99_us", "recommend_20/compact:1", "p99_us", "us", 2),
            Row("one user, median, without index", onnx, "elcrec.median_us", "recommend_20/compact:0", "median_us", "us"),
            *(Row(f"256 users, {n} thread{'s'[:n - 1]}", onnx, f"elcrec.users_per_s_{n}",
                  f"recommend_batch/compact:1/threads:{n}", "users_per_s", "users/s", 4.5, more_is_better=True)
              for n in (1, 2)),
            Row("256 users, 1 thread, without index", onnx, "elcrec.users_per_s_1", "recommend_batch/compact:0/threads:1",
                "users_per_s", "users/s", more_is_better=True),
        ], ROUNDS_OF_CALLS),
        "million": Comparison(peers.million, [
            Row(f"{million}, float", faiss, "faiss_ms", "top_20_million/bf16:0", "ms", "ms", 2),
            Row(f"{million}, bfloat16", f"{faiss}, float", "faiss_ms", "top_20_million/bf16:1", "ms", "ms", 3.5),
            Row(f"{million}, 8-bit index, exact", f"{faiss}, float", "faiss_ms", "top_20_million_index", "ms", "ms"),
            Row(f"{million}, float", blas, "faiss_blas_ms", "top_20_million/bf16:0", "ms", "ms"),
            Row(f"{million}, bfloat16", f"{blas}, float", "faiss_blas_ms", "top_20_million/bf16:1", "ms", "ms"),
        ]),
        "evaluation": Comparison(lambda: {"s": RELEASED_EVALUATION_S}, [
            Row("test evaluation of Beauty", "released code, as published in DESIGN, other machine", "s",
                "evaluation/threads:2", "beauty_s", "s", 15),
        ]),
    }


Rounds = Callable[[str], list[Figures]]  # the figures of a benchmark, round by round


@dataclass
class Claim:
    """Something that our own figures must show."""
    what: str
    value: Callable[[Rounds], float]
    target: float
    at_most: bool = False


def claims() -> list[Claim]:
    def step(padded: int, threads: int | str) -> str:
        return f"training_step/padded:{padded}/share_views:0/threads:{threads}"

    def ratio(slow: str, fast: str, factor: float = 1) -> Callable[[Rounds], float]:
        """Of times, in the median round: on a shared machine the best of either may be of different moments."""
        return lambda of: statistics.median(a["ms"] / b["ms"] for a, b in zip(of(slow), of(fast))) / factor

    def share(name: str) -> Callable[[Rounds], float]:
        """Of the GEMM ceiling: the best step against the best ceiling."""
        return lambda of: max(f["FLOP/s"] for f in of(name)) / max(f["FLOP/s"] / f["of_gemm"] for f in of(name))

    def most(name: str) -> Callable[[Rounds], float]:
        return lambda of: max(f["peak_MB"] for f in of(name))

    padded, masked, softmax = step(1, "{}"), step(0, "{}"), "softmax_step/threads:{}"
    lazy = "lazy_step/items:{}/threads:1"
    return [
        *(Claim(f"{what} step, {count}, share of the GEMM ceiling", share(pattern.format(threads)), target)
          for what, pattern, target in (("padded", padded, 0.5), ("full-softmax", softmax, 0.65))
          for threads, count in ((1, "one thread"), (2, "two threads"))),
        *(Claim(f"{what}, one thread against two", ratio(pattern.format(1), pattern.format(2)), 1.8)
          for what, pattern in (("padded step", padded), ("masked step", masked), ("full-softmax step", softmax),
                                ("evaluation", "evaluation/threads:{}"))),
        Claim("lazy Adam: step with 2,000,000 items against 12,101",
              ratio(lazy.format(2000000), lazy.format(12101)), 1.3, at_most=True),
        Claim("cluster loss: time with 262,144 centers against 256, divided by 1,024",
              ratio("cluster_loss/262144", "cluster_loss/256", 1024), 1.3, at_most=True),
        Claim("padded step, MB resident at most", most(padded.format(2)), 500, at_most=True),
        Claim("masked step, MB resident at most", most(masked.format(2)), 200, at_most=True),
    ]


def gather(sources: dict[str, Callable[[], Figures]], rounds: int) -> tuple[dict[str, list[Figures]], dict[str, str]]:
    """The figures of every source, round by round, one source after the other; and why some have none."""
    figures: dict[str, list[Figures]] = {name: [] for name in sources}
    missing: dict[str, str] = {}
    for _ in range(rounds):
        for name in [name for name in sources if name not in missing]:
            try:
                figures[name].append(sources[name]())
            except Missing as reason:
                missing[name] = str(reason)
    return figures, missing


def check(ours: Ours) -> str:
    """The claims, from some rounds of every benchmark that one asks for, those of a claim one after the other."""
    sources: dict[str, Callable[[], Figures]] = {}

    def note(name: str) -> list[Figures]:
        sources[name] = lambda: ours(name)
        return [collections.defaultdict(lambda: 1.0)]

    for claim in claims():
        claim.value(note)
    rounds, missing = gather(sources, ROUNDS_OF_CLAIMS)

    def of(name: str) -> list[Figures]:
        if name in missing:
            raise Missing(missing[name])
        return rounds[name]

    lines = ["", "| claim | found | target |", "| --- | --- | --- |"]
    for claim in claims():
        try:
            found = claim.value(of)
            held = found <= claim.target if claim.at_most else found >= claim.target
            lines.append(f"| {claim.what} | {found:.3g} | {'<=' if claim.at_most else '>='} {claim.target:g}, "
                         f"{'met' if held else 'missed'} |")
        except Missing as reason:
            lines.append(f"| {claim.what} | skipped ({reason}) | |")
    return "\n".join(lines)


def run(comparison: Comparison, ours: Ours) -> tuple[list[Result], dict[str, list[Figures]]]:
    """Every figure of every round, and the rows that they give."""
    sources = {row.benchmark: lambda name=row.benchmark: ours(name) for row in comparison.rows}
    sources["theirs"] = comparison.theirs
    figures, missing = gather(sources, comparison.rounds)

    def best(row: Row, source: str, name: str) -> float:
        if source in missing:
            raise Missing(missing[source])
        if name not in figures[source][0]:
            raise Missing(f"{source} gives no {name}")
        return (max if row.more_is_better else min)(f[name] for f in figures[source])

    results = []
    for row in comparison.rows:
        result = Result(row.work, row.peer, row.unit, row.target)
        results.append(result)
        for side, source, name in (("theirs", "theirs", row.theirs), ("ours", row.benchmark, row.ours)):
            try:
                setattr(result, side, best(row, source, name))
            except Missing as reason:
                result.skipped += f"{'; ' if result.skipped else ''}{side}: {reason}"
        if not result.skipped:
            result.ratio = result.ours / result.theirs if row.more_is_better else result.theirs / result.ours
    return results, figures


def table(results: list[Result]) -> str:
    def number(value: float | None, unit: str) -> str:
        return "-" if value is None else f"{value:,.0f} {unit}" if value >= 1000 else f"{value:.3g} {unit}"

    lines = [["work", "peer", "theirs", "ours", "ratio", "target"]]
    for r in results:
        target = "" if r.target is None else f">= {r.target:g}x"
        if r.ratio is not None and r.target is not None:
            target += ", met" if r.ratio >= r.target else ", missed"
        ratio = f"skipped ({r.skipped})" if r.skipped else f"{r.ratio:.2f}x"
        lines.append([r.work, r.peer, number(r.theirs, r.unit), number(r.ours, r.unit), ratio, target])
    widths = [max(len(line[i]) for line in lines) for i in range(6)]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join("| " + " | ".join(f"{cell:{w}}" for cell, w in zip(line, widths)) + " |" for line in lines)


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown processor")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=Path, default=Path("build"))
    parser.add_argument("--data", type=Path, help="Beauty.txt; without it synthetic histories of its size")
    parser.add_argument("--only", nargs="+", choices=["training", "serving", "million", "evaluation", "claims"])
    options = parser.parse_args()
    folder = options.build.resolve() / "peers"
    folder.mkdir(parents=True, exist_ok=True)
    ours = Ours(options.build.resolve() / "benchmarks" / "elcrec_bench")
    everything = comparisons(Peers(folder, options.data))

    load = os.getloadavg()[0]
    print(f"{processor()}, {os.cpu_count()} cores, load {load:.1f} before the start", flush=True)
    if load > 0.5:
        print("The machine is not idle: two threads suffer most, and PyTorch's, which wait for each other, above all.")
    results: list[Result] = []
    figures = {}
    for name in options.only or everything:
        if name in everything:
            found, figures[name] = run(everything[name], ours)
            results += found
    if results:
        print(table(results))
    if not options.only or "claims" in options.only:
        print(check(ours))
    for what, comparison, figure in (("PyTorch's matrix product, one thread, GFLOP/s", "training", "gemm_gflops_1"),
                                     ("PyTorch's matrix product, two threads, GFLOP/s", "training", "gemm_gflops_2"),
                                     ("BLAS matrix-vector product, 1M x 64, GB/s", "million", "product_GB_per_s")):
        if rounds := figures.get(comparison, {}).get("theirs"):
            print(f"{what}: {max(found[figure] for found in rounds):.3g}")
    measured = {"processor": processor(), "cores": os.cpu_count(), "load": load,
                "results": [asdict(r) for r in results], "figures": figures}
    (folder / "results.json").write_text(json.dumps(measured, indent=1) + "\n")


if __name__ == "__main__":
    main()
