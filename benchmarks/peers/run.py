"""Runs elcrec and its peers in turn (ours, theirs, ours, theirs), prints a table of medians and writes
build/peers/results.json. A ratio is the median of the rounds' ratios: both sides of each were measured one after the
other. A peer that is not installed, or computes something else than it should, is named and left out.

    /usr/bin/python3 benchmarks/peers/run.py --build build --data Beauty.txt
"""
import argparse
import collections
import functools
import json
import os
import statistics
import subprocess
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ENVIRONMENT = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "elcrec" / "peers"
PYPI, DEBIAN = ENVIRONMENT / "bin" / "python", Path("/usr/bin/python3")
ROUNDS = 3
ROUNDS_OF_CALLS = 5  # of calls that take milliseconds: what disturbs them on a shared machine lasts for seconds
ROUNDS_OF_CLAIMS = 5
STEPS_PER_EPOCH = 88  # 22,363 users in batches of 256
BEAUTY_USERS = 22363

Figures = dict[str, float]


class Missing(Exception):
    """Why something cannot be measured."""


@dataclass
class Row:
    work: str
    peer: str
    theirs: tuple[str, ...]  # sources of the comparison: ways to run the peer, of which the better counts
    figure: str  # of theirs
    benchmark: str  # of elcrec_bench
    ours: str  # name of one of its figures
    unit: str
    target: float | None = None  # how many times better ours is to be
    more_is_better: bool = False


@dataclass
class Comparison:
    sources: dict[str, Callable[[], Figures]]
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
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
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
    """The programs of this folder. Each checks what it computes before it is measured for the first time."""

    def __init__(self, folder: Path, data: Path | None) -> None:
        self.folder = folder
        self.data = ["--data", data.resolve()] if data else []
        self.versions: dict[str, str] = {}

    @functools.lru_cache
    def interpreter(self, module: str) -> Path:
        """PyPI's packages before Debian's."""
        for python in (PYPI, DEBIAN):
            try:
                output_of([python, "-c", f"import {module}"], self.environment(python, 1))
                return python
            except Missing:
                continue
        raise Missing(f"{module} is not installed (install.sh)")

    def environment(self, python: Path, threads: int) -> dict[str, str]:
        """Allocator: keeps every page, in huge ones where the system lets it. Debian's OpenBLAS is told its widest
        kernels, which it does not find on every virtual machine; PyPI's finds its own and is told nothing."""
        tuned = {name: value for name, value in os.environ.items() if not name.startswith("OPENBLAS_")} | {
            "MALLOC_MMAP_THRESHOLD_": str(4 << 30), "MALLOC_TRIM_THRESHOLD_": str(16 << 30),
            "MALLOC_TOP_PAD_": str(256 << 20), "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
            "OMP_NUM_THREADS": str(threads), "TORCHINDUCTOR_CACHE_DIR": str(self.folder / "inductor"),
        }
        if python == DEBIAN:
            wide = "avx512f" in Path("/proc/cpuinfo").read_text()
            tuned["OPENBLAS_CORETYPE"] = "SkylakeX" if wide else "Haswell"
        return tuned

    def run(self, module: str, script: str, *arguments: str | Path, threads: int = 1) -> str:
        python = self.interpreter(module)
        return output_of([python, HERE / script, *arguments], self.environment(python, threads))

    def ask(self, module: str, script: str, *arguments: str | Path, threads: int = 1) -> Figures:
        found = json.loads(self.run(module, script, *arguments, threads=threads))
        origin = "PyPI" if self.interpreter(module) == PYPI else "Debian"
        self.versions[module] = f"{found.pop('version')} from {origin}"
        return found

    @functools.lru_cache
    def reproduces_golden(self) -> None:
        self.run("torch", "elcrec_torch.py", "--check")

    def training(self, threads: int, *more: str) -> Figures:
        self.reproduces_golden()
        return self.ask("torch", "train_step.py", *self.data, "--threads", str(threads), "--json", *more,
                        threads=threads)

    def evaluation(self, threads: int) -> Figures:
        return self.ask("torch", "evaluate.py", *self.data, "--threads", str(threads), threads=threads)

    @functools.lru_cache
    def export(self) -> None:
        self.interpreter("onnxruntime")
        self.run("torch", "export_onnx.py", *self.data, "--out", self.folder)
        self.run("onnxruntime", "score_onnx.py", self.folder, "--check")

    def serving(self) -> Figures:
        self.export()
        return self.ask("onnxruntime", "score_onnx.py", self.folder)

    def million(self, module: str) -> Figures:
        return self.ask(module, "topk.py", module)


def comparisons(peers: Peers) -> dict[str, Comparison]:
    def step(padded: int, threads: int) -> str:
        return f"training_step/padded:{padded}/share_views:0/threads:{threads}"

    def count(threads: int) -> str:
        return f"{threads} thread{'s'[: threads - 1]}"

    ways = {"eager": (), "compiled": ("--compile",)}
    padded, masked, million = "Beauty epoch, paper padding", "Beauty epoch, masked padding", "top 20 of 1M x 64"
    training, evaluation = {}, {}
    training_rows, evaluation_rows = [], []
    for n in (1, 2):
        for way, flags in ways.items():
            training[f"{way} {n}"] = functools.partial(peers.training, n, *flags)
            training_rows.append(
                Row(f"{padded}, {count(n)}", f"PyTorch, {way}", (f"{way} {n}",), "epoch_s", step(1, n), "epoch_s", "s"))
        training_rows.append(Row(f"{masked}, {count(n)}", "PyTorch, paper padding, better of both",
                                 tuple(f"{way} {n}" for way in ways), "epoch_s", step(0, n), "epoch_s", "s"))
        evaluation[f"eager {n}"] = functools.partial(peers.evaluation, n)
        evaluation_rows.append(Row(f"test evaluation of Beauty, {count(n)}", "PyTorch, eager", (f"eager {n}",),
                                   "beauty_s", f"evaluation/threads:{n}", "beauty_s", "s"))
    training_rows += [
        Row(f"{what}, memory", peer, ("eager 2",), "peak_MB", step(kind, 2), "peak_MB", "MB")
        for what, peer, kind in ((padded, "PyTorch, eager", 1), (masked, "PyTorch, eager, paper padding", 0))]

    onnx = {"theirs": ("onnx",), "peer": "ONNX Runtime"}
    one, many = "recommend_20/compact:{}", "recommend_batch/compact:{}/threads:{}"
    serving_rows = [
        Row("one user, median", figure="median_us", benchmark=one.format(1), ours="median_us", unit="us", target=5,
            **onnx),
        Row("one user, 99th percentile", figure="p99_us", benchmark=one.format(1), ours="p99_us", unit="us", **onnx),
        Row("one user, median, without index", figure="median_us", benchmark=one.format(0), ours="median_us", unit="us",
            **onnx),
        *(Row(f"256 users, {count(n)}{', without index' * (1 - compact)}", figure=f"users_per_s_{n}",
              benchmark=many.format(compact, n), ours="users_per_s", unit="users/s", target=5 if compact else None,
              more_is_better=True, **onnx) for compact in (1, 0) for n in (1, 2)),
    ]
    floats, halves, index = "top_20_million/bf16:0", "top_20_million/bf16:1", "top_20_million_index"
    million_rows = [
        Row(f"{million}, float", "Faiss, as shipped", ("faiss",), "ms", floats, "ms", "ms"),
        Row(f"{million}, float", "Faiss, through BLAS", ("faiss",), "blas_ms", floats, "ms", "ms"),
        Row(f"{million}, float", "usearch, exact search", ("usearch",), "ms", floats, "ms", "ms"),
        Row(f"{million}, float", "numpy", ("numpy",), "ms", floats, "ms", "ms"),
        Row(f"{million}, bfloat16", "Faiss, 16-bit quantiser", ("faiss",), "16_bit_ms", halves, "ms", "ms"),
        Row(f"{million}, 8-bit index, exact", "Faiss, float", ("faiss",), "ms", index, "ms", "ms", 2),
        Row(f"{million}, 8-bit index, exact", "Faiss, 8-bit quantiser, 80 refined", ("faiss",), "8_bit_ms", index, "ms",
            "ms"),
        Row(f"{million}, 8-bit index, exact", "usearch, exact search", ("usearch",), "ms", index, "ms", "ms", 2),
    ]
    return {
        "training": Comparison(training, training_rows),
        "serving": Comparison({"onnx": peers.serving}, serving_rows, ROUNDS_OF_CALLS),
        "million": Comparison({name: functools.partial(peers.million, name) for name in ("faiss", "usearch", "numpy")},
                              million_rows, ROUNDS_OF_CALLS),
        "evaluation": Comparison(evaluation, evaluation_rows),
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


def run(comparison: Comparison, ours: Ours, rounds: int | None) -> tuple[list[Result], dict[str, list[Figures]]]:
    """Every figure of every round, and the rows that they give."""
    known = comparison.sources | {row.benchmark: functools.partial(ours, row.benchmark) for row in comparison.rows}
    # In the rows' order, so that what is compared is measured one after the other.
    in_turn = dict.fromkeys(name for row in comparison.rows for name in (*row.theirs, row.benchmark))
    figures, missing = gather({name: known[name] for name in in_turn}, rounds or comparison.rounds)

    def of(source: str, figure: str) -> list[float]:
        if source in missing:
            raise Missing(missing[source])
        if figure not in figures[source][0]:
            raise Missing(f"{source} gives no {figure}")
        return [found[figure] for found in figures[source]]

    results = []
    for row in comparison.rows:
        result = Result(row.work, row.peer, row.unit, row.target)
        results.append(result)
        ways, reasons = [], []
        for source in row.theirs:
            try:
                ways.append(of(source, row.figure))
            except Missing as reason:
                reasons.append(f"theirs: {reason}")
        theirs = (max if row.more_is_better else min)(ways, key=statistics.median) if ways else None
        if theirs:
            result.theirs = statistics.median(theirs)
        try:
            own = of(row.benchmark, row.ours)
            result.ours = statistics.median(own)
        except Missing as reason:
            reasons.append(f"ours: {reason}")
        if result.theirs is None or result.ours is None:
            result.skipped = "; ".join(dict.fromkeys(reasons))
        else:
            result.ratio = statistics.median(b / a if row.more_is_better else a / b for a, b in zip(theirs, own))
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
    parser.add_argument("--rounds", type=int, help=f"of each comparison, instead of {ROUNDS} or {ROUNDS_OF_CALLS}")
    parser.add_argument("--only", nargs="+", choices=["training", "serving", "million", "evaluation", "claims"])
    options = parser.parse_args()
    folder = options.build.resolve() / "peers"
    folder.mkdir(parents=True, exist_ok=True)
    ours = Ours(options.build.resolve() / "benchmarks" / "elcrec_bench")
    peers = Peers(folder, options.data)
    everything = comparisons(peers)

    loads = [os.getloadavg()[0]]
    print(f"{processor()}, {os.cpu_count()} cores, load {loads[0]:.1f} before the start", flush=True)
    if loads[0] > 0.5:
        print("The machine is not idle: two threads suffer most, and PyTorch's, which wait for each other, above all.")
    results: list[Result] = []
    figures = {}
    for name in options.only or everything:
        if name in everything:
            found, figures[name] = run(everything[name], ours, options.rounds)
            results += found
            loads.append(os.getloadavg()[0])
    if results:
        versions = ", ".join(f"{module} {version}" for module, version in peers.versions.items())
        print(f"load {max(loads):.1f} at most; {versions or 'no peer is here'}")
        print(table(results))
    if not options.only or "claims" in options.only:
        print(check(ours))
    for what, comparison, source, figure in (
            ("PyTorch's matrix product, one thread, GFLOP/s", "training", "eager 1", "gemm_gflops"),
            ("PyTorch's matrix product, two threads, GFLOP/s", "training", "eager 2", "gemm_gflops"),
            ("recall of Faiss's 16-bit quantiser", "million", "faiss", "16_bit_recall"),
            ("recall of Faiss's 8-bit quantiser, 80 refined", "million", "faiss", "8_bit_recall"),
            ("BLAS matrix-vector product, 1M x 64, GB/s", "million", "numpy", "product_GB_per_s")):
        if rounds := figures.get(comparison, {}).get(source):
            print(f"{what}: {max(found[figure] for found in rounds):.3g}")
    measured = {"processor": processor(), "cores": os.cpu_count(), "loads": loads, "versions": peers.versions,
                "results": [asdict(r) for r in results], "figures": figures}
    (folder / "results.json").write_text(json.dumps(measured, indent=1) + "\n")


if __name__ == "__main__":
    main()
