"""ELCRec and its training step in PyTorch, tuned as a careful PyTorch user would: see README.md for what that means.

Padding takes part as in the released code (Padding::paper). Shapes: B users, L positions, D hidden, K intents.
    elcrec_torch.py --check    compares every loss, gradient and Adam step with tests/golden
"""
import argparse
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from read_safetensors import read_safetensors

GOLDEN = Path(__file__).resolve().parents[2] / "tests" / "golden"
TOLERANCE = 1e-9


class ByteDropout(torch.autograd.Function):
    """Dropout that takes one random byte an element, and so a chance of n/256: eight elements for each draw of the
    Mersenne Twister. F.dropout draws for every element, which without MKL (as in Debian) takes five times longer."""

    @staticmethod
    def forward(ctx, x: Tensor, chance: float) -> Tensor:
        words = torch.empty(-(-x.numel() // 8), dtype=torch.int64).random_(-(2**63), None)
        kept = words.view(torch.uint8)[: x.numel()].view(x.shape) >= round(256 * chance)
        ctx.scale = kept.to(x.dtype).mul_(1 / (1 - chance))
        return x * ctx.scale

    @staticmethod
    def backward(ctx, dy: Tensor) -> tuple[Tensor, None]:
        return dy * ctx.scale, None


@dataclass
class Options:
    items: int = 12101
    max_length: int = 50
    hidden: int = 64
    heads: int = 2
    layers: int = 1
    intents: int = 256
    dropout: float = 0.5
    plain_dropout: bool = False  # F.dropout instead of ByteDropout
    concat: bool = False  # sequence level: [x, c] instead of x + c
    sequence_weight: float = 0.1
    intent_weight: float = 0.1
    cluster_weight: float = 10.0
    temperature: float = 1.0


class Batch(NamedTuple):
    """Item ids (B, L), right-aligned, 0 is padding."""

    input: Tensor
    positives: Tensor
    negatives: Tensor
    view1: Tensor
    view2: Tensor


class Dropout(nn.Module):
    def __init__(self, o: Options) -> None:
        super().__init__()
        self.chance = o.dropout
        self.plain = o.plain_dropout

    def forward(self, x: Tensor) -> Tensor:
        if self.plain or not self.training or self.chance == 0:
            return F.dropout(x, self.chance, self.training)
        return ByteDropout.apply(x, self.chance)


class Attention(nn.Module):
    """LN(x + dropout(W_o · attention(x)))"""

    def __init__(self, o: Options) -> None:
        super().__init__()
        self.query, self.key, self.value, self.dense = (nn.Linear(o.hidden, o.hidden) for _ in range(4))
        self.LayerNorm = nn.LayerNorm(o.hidden, eps=1e-12)
        self.dropout = Dropout(o)
        self.shape = o.max_length, o.heads, o.hidden // o.heads
        self.scale = self.shape[-1] ** -0.5

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        length, heads, width = self.shape
        # One product, not three, and the scores' scale in the small matrix.
        weight = torch.cat([self.query.weight * self.scale, self.key.weight, self.value.weight])
        bias = torch.cat([self.query.bias * self.scale, self.key.bias, self.value.bias])
        qkv = F.linear(x, weight, bias).view(-1, length, 3, heads, width)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).reshape(3, -1, length, width).unbind(0)
        scores = torch.bmm(q, k.transpose(1, 2)).view(-1, heads, length, length) + mask
        probabilities = self.dropout(F.softmax(scores, dim=-1))
        context = torch.bmm(probabilities.view(-1, length, length), v).view(-1, heads, length, width)
        y = self.dense(context.transpose(1, 2).reshape(-1, length, heads * width))
        return self.LayerNorm(x + self.dropout(y))


class FeedForward(nn.Module):
    """LN(x + dropout(W_2 · gelu(W_1 · x)))"""

    def __init__(self, o: Options) -> None:
        super().__init__()
        self.dense_1 = nn.Linear(o.hidden, 4 * o.hidden)
        self.dense_2 = nn.Linear(4 * o.hidden, o.hidden)
        self.LayerNorm = nn.LayerNorm(o.hidden, eps=1e-12)
        self.dropout = Dropout(o)

    def forward(self, x: Tensor) -> Tensor:
        y = self.dense_2(F.gelu(self.dense_1(x)))
        return self.LayerNorm(x + self.dropout(y))


class Layer(nn.Module):
    def __init__(self, o: Options) -> None:
        super().__init__()
        self.attention = Attention(o)
        self.intermediate = FeedForward(o)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.intermediate(self.attention(x, mask))


class ELCRec(nn.Module):
    """Parameter names are those of the released checkpoints."""

    def __init__(self, o: Options) -> None:
        super().__init__()
        self.options = o
        self.item_embeddings = nn.Embedding(o.items + 2, o.hidden, padding_idx=0)  # items, padding and the mask id
        self.position_embeddings = nn.Embedding(o.max_length, o.hidden)
        self.LayerNorm = nn.LayerNorm(o.hidden, eps=1e-12)
        self.dropout = Dropout(o)
        self.item_encoder = nn.ModuleDict({"layer": nn.ModuleList(Layer(o) for _ in range(o.layers))})
        self.cluster_centers = nn.Parameter(F.normalize(torch.randn(o.intents, o.hidden)))
        for name, p in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(p)
            elif p.dim() == 2 and name != "cluster_centers":
                nn.init.normal_(p, std=0.02)
        causal = torch.ones(o.max_length, o.max_length, dtype=torch.bool).tril()
        self.register_buffer("causal", causal, persistent=False)

    def mask(self, ids: Tensor) -> Tensor:
        """(B, 1, L, L): 0 where a query may see a key, else -10000. A query with no key to see sees all of them."""
        allowed = self.causal & (ids > 0)[:, None, None, :]
        return (~allowed).to(self.LayerNorm.weight.dtype).mul_(-10000.0)

    def embed(self, items: Tensor) -> Tensor:
        """(B, L, D) rows of the item table -> LN(E + P)"""
        return self.LayerNorm(items + self.position_embeddings.weight)

    def encode(self, embedded: Tensor, mask: Tensor) -> Tensor:
        """(B, L, D) -> (B, L, D)"""
        x = self.dropout(embedded)
        for layer in self.item_encoder["layer"]:
            x = layer(x, mask)
        return x

    @torch.no_grad()
    def project(self) -> None:
        self.cluster_centers.copy_(F.normalize(self.cluster_centers))

    @torch.no_grad()
    def nearest(self, x: Tensor) -> Tensor:
        """(N, D) -> (N): argmin_j |x - c_j|² = argmax_j x·c_j - |c_j|²/2"""
        c = self.cluster_centers
        return (x @ c.t()).sub_(c.square().sum(1).div_(2)).argmax(1)


def info_nce(z: Tensor, temperature: float) -> Tensor:
    """Rows i and i + N/2 of z (N, P) are a pair, every other row is a negative of both."""
    n = z.shape[0]
    similarity = (z @ z.t()).div_(temperature).fill_diagonal_(-torch.inf)
    return F.cross_entropy(similarity, torch.arange(n).roll(n // 2))


def cluster_loss(h: Tensor, c: Tensor) -> Tensor:
    """mean_ij |h_i - c_j|² - mean_ij |c_i - c_j|² in closed form, O((B + K) D)"""
    mean_c = c.mean(0)
    attraction = h.square().sum(1).mean() + c.square().sum(1).mean() - 2 * h.mean(0) @ mean_c
    return attraction - 2 * (c.square().sum(1).mean() - mean_c @ mean_c)


def losses(model: ELCRec, batch: Batch) -> dict[str, Tensor]:
    """The four losses and their weighted sum `joint`. Projects the centers where the released code does."""
    o = model.options
    b, length = batch.input.shape
    # One lookup, so that backward fills one gradient of the table's size. The views' two encodings share it.
    inputs, positives, negatives, *view_rows = model.item_embeddings(torch.cat(batch).view(5, b, length)).unbind(0)
    masks = [model.mask(ids) for ids in (batch.input, batch.view1, batch.view2)]
    embedded = [model.embed(rows) for rows in (inputs, *view_rows)]
    x, *views = (model.encode(embedded[i], masks[i]) for i in (0, 1, 2, 1, 2))

    positive = (x * positives).sum(-1)
    negative = (x * negatives).sum(-1)
    real = batch.positives > 0
    next_item = ((F.softplus(-positive) + F.softplus(negative)) * real).sum() / real.sum()

    tokens = torch.cat(views[:2]).view(-1, o.hidden)
    centers = model.cluster_centers[model.nearest(tokens)]
    joined = torch.cat([tokens, centers], 1) if o.concat else tokens + centers
    sequence = info_nce(joined.view(2 * b, -1), o.temperature)

    model.project()
    h = F.normalize(x.mean(1))
    cluster = cluster_loss(h, model.cluster_centers)
    own = model.cluster_centers[model.nearest(h)]
    intent = sum(info_nce(torch.cat([view.mean(1), own]), o.temperature) for view in views[2:]) / 2

    joint = next_item + o.sequence_weight * sequence + o.cluster_weight * cluster + o.intent_weight * intent
    return {"rec": next_item, "instance_cl": sequence, "cluster": cluster, "intent_cl": intent, "joint": joint}


def joint_loss(model: ELCRec, batch: Batch) -> Tensor:
    return losses(model, batch)["joint"]


def adam(parameters: Iterable[nn.Parameter], lr: float) -> torch.optim.Adam:
    """In one loop over each parameter where this PyTorch has that for the CPU, else over all of them at once."""
    parameters = list(parameters)
    try:
        return torch.optim.Adam(parameters, lr=lr, fused=True)
    except (RuntimeError, TypeError):
        return torch.optim.Adam(parameters, lr=lr, foreach=True)


def training_step(model: ELCRec, optimizer: torch.optim.Optimizer, batch: Batch,
                  joint: Callable[[ELCRec, Batch], Tensor] = joint_loss) -> Tensor:
    optimizer.zero_grad(set_to_none=True)
    loss = joint(model, batch)
    loss.backward()
    optimizer.step()
    return loss.detach()


def deviation(found: Tensor, expected: Tensor) -> float:
    """Largest difference against the largest value, or against 1 where all values are rounding noise: a key bias moves
    all scores of a query alike, so its gradient is 0."""
    scale = float(expected.detach().abs().max())
    return float((found - expected).detach().abs().max()) / (scale if scale > 1e-12 else 1.0)


def check_golden(path: Path) -> dict[str, float]:
    """The worst deviation of each loss, of its gradients and of three Adam steps."""
    arrays, metadata = read_safetensors(path)
    golden = {name: torch.from_numpy(values) for name, values in arrays.items()}
    golden["loss.cluster"] = golden["loss.cluster_sample"] + golden["loss.cluster_center"]
    sizes = {name: int(metadata[name]) for name in ("items", "max_length", "hidden", "heads", "layers", "intents")}
    numbers = {"sequence_weight": "instance_weight", "intent_weight": "intent_weight", "cluster_weight": "trade_off",
               "temperature": "temperature"}
    model = ELCRec(Options(**sizes, **{ours: float(metadata[theirs]) for ours, theirs in numbers.items()},
                           dropout=0.0, concat=metadata["prototype"] == "concat"))
    model.double().load_state_dict({name: golden["param." + name] for name in model.state_dict()})
    batch = Batch(*(golden[name] for name in ("input_ids", "target_pos", "target_neg", "view1", "view2")))
    parameters = dict(model.named_parameters())

    worst = {}
    for name in losses(model, batch):
        loss = losses(model, batch)[name]
        gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        worst[f"loss.{name}"] = deviation(loss, golden[f"loss.{name}"])
        worst[f"grad.{name}"] = max(
            deviation(torch.zeros_like(p) if g is None else g, golden[f"grad.{name}.{key}"])
            for (key, p), g in zip(parameters.items(), gradients))
    optimizer = adam(model.parameters(), lr=float(metadata["lr"]))
    steps = [training_step(model, optimizer, batch) for _ in range(3)]
    worst["adam.loss"] = max(deviation(loss, golden[f"adam.loss.{i}"]) for i, loss in enumerate(steps))
    worst["adam.param"] = max(deviation(p, golden[f"adam.param.{key}"]) for key, p in parameters.items())
    return worst


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", required=True)
    parser.parse_args()
    files = sorted(GOLDEN.glob("*.safetensors"))
    failed = not files
    for path in files:
        for name, value in check_golden(path).items():
            ok = value <= TOLERANCE  # false for NaN
            failed |= not ok
            print(f"{path.stem:24} {name:18} {value:.1e}{'' if ok else '  FAILED'}")
    print("FAILED" if failed else f"{len(files)} golden files reproduced within {TOLERANCE:g}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
