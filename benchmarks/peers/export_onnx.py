"""Writes the scoring model as elcrec.onnx: item ids (B, L) int64, right-aligned, 0 is padding -> top 20 scores and ids.
Its last layer computes the last position only. Beside it histories.bin (N, L) int64 to ask for, and expected.bin
(64, 20) int64, PyTorch's top 20 of the first 64 by a last layer that computes all positions.
"""
import argparse
import inspect
import random
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elcrec_torch import ELCRec, Options
from read_safetensors import read_safetensors
from train_step import LENGTH, read_histories, synthetic_histories

TOP = 20
BUILD = Path(__file__).resolve().parents[2] / "build" / "peers"


class Scorer(nn.Module):
    """Scores of all ids after the last position of a history."""

    def __init__(self, model: ELCRec) -> None:
        super().__init__()
        self.model = model

    def embed(self, ids: Tensor) -> Tensor:
        return self.model.embed(self.model.item_embeddings(ids))

    def encode(self, ids: Tensor) -> Tensor:
        """(B, L) -> (B, D)"""
        return self.model.encode(self.embed(ids), self.model.mask(ids))[:, -1]

    def forward(self, ids: Tensor) -> Tensor:
        return F.linear(self.encode(ids), self.model.item_embeddings.weight)


class LastPositionScorer(Scorer):
    """All but the keys and values of the last layer is computed for the last position only."""

    def encode(self, ids: Tensor) -> Tensor:
        *layers, last = self.model.item_encoder["layer"]
        x = self.embed(ids)
        for layer in layers:
            x = layer(x, self.model.mask(ids))
        a = last.attention
        length, heads, width = a.shape
        end = x[:, -1]
        q = F.linear(end, a.query.weight * a.scale, a.query.bias * a.scale).view(-1, heads, 1, width)
        key_value = F.linear(x, torch.cat([a.key.weight, a.value.weight]), torch.cat([a.key.bias, a.value.bias]))
        k, v = (part.view(-1, length, heads, width) for part in key_value.chunk(2, dim=-1))
        hidden = (ids == 0).to(x.dtype).mul(-10000.0)[:, None, None, :]
        probabilities = F.softmax(q @ k.permute(0, 2, 3, 1) + hidden, dim=-1)
        context = (probabilities @ v.transpose(1, 2)).view(-1, heads * width)
        return last.intermediate(a.LayerNorm(end + a.dense(context)))


class TopItems(nn.Module):
    def __init__(self, scorer: Scorer) -> None:
        super().__init__()
        self.scorer = scorer

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        return torch.topk(self.scorer(ids), TOP)


def load(checkpoint: Path | None) -> ELCRec:
    torch.manual_seed(1)
    model = ELCRec(Options())
    if checkpoint:
        tensors, _ = read_safetensors(checkpoint)
        model.load_state_dict({name: torch.from_numpy(values) for name, values in tensors.items()})
    return model.eval()


def export(model: nn.Module, ids: Tensor, path: Path) -> None:
    """Through torch.export where PyTorch has it. Opset 17 is the first with LayerNormalization, 20 with Gelu."""
    outputs = ["values", "items"]
    batch_first = {name: {0: "batch"} for name in ["ids", *outputs]}
    current = "dynamo" in inspect.signature(torch.onnx.export).parameters
    torch.onnx.export(model, (ids,), str(path), input_names=["ids"], output_names=outputs, dynamic_axes=batch_first,
                      opset_version=20 if current else 17)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, help="safetensors; without it random weights")
    parser.add_argument("--data", type=Path, help="Beauty.txt; without it synthetic histories")
    parser.add_argument("--out", type=Path, default=BUILD)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)

    histories = read_histories(options.data) if options.data else synthetic_histories(random.Random(1), 4096)
    known = [items[:-1][-LENGTH:] for items in histories[:4096]]
    ids = torch.tensor([[0] * (LENGTH - len(items)) + items for items in known])
    ids.numpy().tofile(options.out / "histories.bin")

    model = load(options.checkpoint)
    with torch.no_grad():
        TopItems(Scorer(model))(ids[:64])[1].numpy().tofile(options.out / "expected.bin")
        export(TopItems(LastPositionScorer(model)), ids[:2], options.out / "elcrec.onnx")


if __name__ == "__main__":
    main()
