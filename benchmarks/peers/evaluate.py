"""Times PyTorch's evaluation of the test items of Beauty: encode, score all items, leave out those of the history,
count those above the held-out one. Only the last position goes through the last layer. Batches are made before the
clock starts, in favour of PyTorch: elcrec's benchmark makes its own inside the timing. Prints JSON."""
import argparse
import json
import random
import statistics
import time
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from elcrec_torch import ELCRec, Options
from export_onnx import LastPositionScorer, Scorer
from train_step import BATCH_SIZE, ITEMS, LENGTH, USERS, read_histories, synthetic_histories

CHECKED = 64  # users whose ranks are counted one by one in double precision


class Batch(NamedTuple):
    ids: Tensor  # (B, L), right-aligned, 0 is padding
    row: Tensor  # (n), and (n) the items that the histories hold, at (row, item) of the scores
    item: Tensor
    target: Tensor  # (B)


def make_batch(histories: list[list[int]]) -> Batch:
    known = [items[:-1] for items in histories]
    ids = [[0] * (LENGTH - len(items)) + items[-LENGTH:] for items in known]
    seen = [(row, item) for row, items in enumerate(known) for item in items]
    targets = [items[-1] for items in histories]
    return Batch(torch.tensor(ids), *torch.tensor(seen).T.contiguous(), torch.tensor(targets))


@torch.inference_mode()
def ranks(scorer: Scorer, batch: Batch) -> Tensor:
    """(B): how many items that the history lacks score higher than the target."""
    scores = scorer(batch.ids)[:, : ITEMS + 1]  # the last row of the table is the mask id
    own = scores.gather(1, batch.target[:, None])
    scores[batch.row, batch.item] = -torch.inf
    scores[:, 0] = -torch.inf
    return (scores > own).sum(1)


def check(model: ELCRec, histories: list[list[int]]) -> None:
    """Ranks of the first users against those that plain loops over all positions count in double precision."""
    found = ranks(LastPositionScorer(model), make_batch(histories[:CHECKED])).tolist()
    model.double()
    with torch.inference_mode():
        for rank, items in zip(found, histories):
            known = items[:-1]
            scores = Scorer(model)(torch.tensor([[0] * (LENGTH - len(known)) + known[-LENGTH:]]))[0].tolist()
            own = scores[items[-1]]
            margin = 1e-5 * max(map(abs, scores))
            above = [scores[item] - own for item in range(1, ITEMS + 1) if item not in known and item != items[-1]]
            if not sum(a > margin for a in above) <= rank <= sum(a > -margin for a in above):
                raise SystemExit(f"Error: PyTorch ranks {items[-1]} at {rank} after {known}")
    model.float()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="Beauty.txt; without it synthetic histories of its size")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_flush_denormal(True)
    torch.set_num_threads(options.threads)
    histories = read_histories(options.data) if options.data else synthetic_histories(random.Random(1), USERS)
    torch.manual_seed(1)
    model = ELCRec(Options(items=ITEMS)).eval()
    check(model, histories)
    scorer = LastPositionScorer(model)
    batches = [make_batch(histories[i : i + BATCH_SIZE]) for i in range(0, len(histories), BATCH_SIZE)]
    seconds = []
    for _ in range(1 + options.rounds):
        start = time.perf_counter()
        for batch in batches:
            ranks(scorer, batch)
        seconds.append(time.perf_counter() - start)
    beauty_s = statistics.mean(seconds[1:]) * USERS / len(histories)
    print(json.dumps({"version": torch.__version__, "beauty_s": beauty_s}))


if __name__ == "__main__":
    main()
