"""Times PyTorch's training step on Beauty. Batches are made before the clock starts, which favours PyTorch: elcrec's
benchmark makes its batches inside the timing."""
import argparse
import json
import random
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from elcrec_torch import Batch, ELCRec, Options, adam, joint_loss, training_step

USERS, ITEMS, MEAN_LENGTH = 22363, 12101, 8.9  # Beauty
BATCH_SIZE = 256
STEPS_PER_EPOCH = -(-USERS // BATCH_SIZE)
LENGTH = Options.max_length


def read_histories(path: Path) -> list[list[int]]:
    """Lines `user item item ...`"""
    return [[int(item) for item in line.split()[1:]] for line in path.read_text().splitlines()]


def synthetic_histories(rng: random.Random, count: int) -> list[list[int]]:
    """At least 5 items, as in Beauty, and exponentially many more."""
    lengths = (5 + int(rng.expovariate(1 / (MEAN_LENGTH - 4.5))) for _ in range(count))
    return [[rng.randint(1, ITEMS) for _ in range(n)] for n in lengths]


def augment(rng: random.Random, items: list[int]) -> list[int]:
    """Crop 0.2, mask 0.7 or reorder 0.2."""
    kind, part = rng.choice([("crop", 0.2), ("mask", 0.7), ("reorder", 0.2)])
    n = int(part * len(items))
    view = items.copy()
    if kind == "mask":
        for i in rng.sample(range(len(items)), n):
            view[i] = 0
        return view
    n = max(n, 1)
    begin = rng.randint(0, len(items) - n)
    if kind == "crop":
        return items[begin : begin + n]
    view[begin : begin + n] = rng.sample(view[begin : begin + n], n)
    return view


def negative(rng: random.Random, own: set[int]) -> int:
    while (item := rng.randint(1, ITEMS)) in own:
        pass
    return item


def make_batch(rng: random.Random, histories: list[list[int]]) -> Batch:
    rows = []
    for items in histories:
        train, own = items[:-3], set(items)
        rows.append((train, items[1:-2], [negative(rng, own) for _ in train], augment(rng, train), augment(rng, train)))
    padded = [[[0] * (LENGTH - len(ids)) + ids[-LENGTH:] for ids in column] for column in zip(*rows)]
    return Batch(*map(torch.tensor, padded))


def gemm_gflops(n: int = 1024, repeats: int = 10) -> float:
    """Best of some square products: tells whether BLAS found its fast kernels."""
    a, b = torch.rand(n, n), torch.rand(n, n)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        a @ b
        seconds.append(time.perf_counter() - start)
    return 2e-9 * n**3 / min(seconds)


def loss_and_gradients(model: ELCRec, joint: Callable[[ELCRec, Batch], Tensor], batch: Batch) -> tuple[float, Tensor]:
    """From the same draws in every call, and with the centers left as they were."""
    centers = model.cluster_centers.detach().clone()
    torch.manual_seed(2)
    model.zero_grad(set_to_none=True)
    loss = joint(model, batch)
    loss.backward()
    model.cluster_centers.data.copy_(centers)
    return loss.item(), torch.cat([p.grad.flatten() for p in model.parameters()])


def compiled_loss(model: ELCRec, batch: Batch) -> Callable[[ELCRec, Batch], Tensor]:
    """Drawing as without the compiler makes both comparable, and is faster than the compiler's own generator. Ends the
    program where it computes another loss or other gradients."""
    import torch._inductor.config

    torch._inductor.config.fallback_random = True
    compiled = torch.compile(joint_loss, dynamic=False)
    expected, gradients = loss_and_gradients(model, joint_loss, batch)
    found, others = loss_and_gradients(model, compiled, batch)
    deviation = float((others - gradients).abs().max() / gradients.abs().max())
    if not (abs(found - expected) <= 1e-4 * abs(expected) and deviation <= 1e-3):
        raise SystemExit(f"Error: compiled, the loss is {found} instead of {expected}, a gradient {deviation:.1e} off")
    return compiled


def measure(data: Path | None, steps: int, plain_dropout: bool, compile_it: bool) -> dict[str, float | str]:
    rng = random.Random(1)
    warm_up = 4  # until the allocator has all the pages that a step needs
    needed = (steps + warm_up) * BATCH_SIZE
    histories = read_histories(data) if data else synthetic_histories(rng, needed)
    chosen = rng.choices(histories, k=needed)
    batches = [make_batch(rng, chosen[i : i + BATCH_SIZE]) for i in range(0, needed, BATCH_SIZE)]
    torch.manual_seed(1)
    model = ELCRec(Options(items=ITEMS, plain_dropout=plain_dropout))
    joint = compiled_loss(model, batches[0]) if compile_it else joint_loss
    optimizer = adam(model.parameters(), lr=1e-3)
    milliseconds = []
    for batch in batches:
        start = time.perf_counter()
        loss = training_step(model, optimizer, batch, joint)
        milliseconds.append(1e3 * (time.perf_counter() - start))
    timed = milliseconds[warm_up:]
    median = statistics.median(timed)
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # before the GEMM below adds to it
    return {"version": torch.__version__, "median_ms": median, "mean_ms": statistics.mean(timed), "best_ms": min(timed),
            "epoch_s": 1e-3 * median * STEPS_PER_EPOCH, "peak_MB": peak_mb, "loss": float(loss),
            "threads": torch.get_num_threads(), "gemm_gflops": gemm_gflops()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="Beauty.txt; without it synthetic histories of its size")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--plain-dropout", action="store_true", help="F.dropout")
    parser.add_argument("--compile", action="store_true", help="torch.compile")
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    options = parser.parse_args()
    torch.set_flush_denormal(True)  # first: threads take it over from the one that starts them
    torch.set_num_threads(options.threads)
    found = measure(options.data, options.steps, options.plain_dropout, options.compile)
    if options.json:
        print(json.dumps(found))
    else:
        for name, value in found.items():
            print(f"{name:12} {value if isinstance(value, str) else f'{value:.5g}'}")


if __name__ == "__main__":
    main()
