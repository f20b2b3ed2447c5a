"""Measures ONNX Runtime on the model of export_onnx.py: encode, score all ids, take the top 20. Prints JSON.

    score_onnx.py FOLDER [--check]    --check compares its top 20 with PyTorch's instead
"""
import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime

LENGTH, TOP, BATCH = 50, 20, 256
OUTPUTS = ["values", "items"]


def session(model: Path, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


def plain_call(model: Path, threads: int, batch: int) -> Callable[[np.ndarray], list[np.ndarray]]:
    """ids (batch, L) int64 -> the outputs, in arrays that the session makes."""
    opened = session(model, threads)
    return lambda ids: opened.run(OUTPUTS, {"ids": ids})


def bound_call(model: Path, threads: int, batch: int) -> Callable[[np.ndarray], list[np.ndarray]]:
    """The same into arrays that are made once."""
    opened = session(model, threads)
    ids = np.zeros((batch, LENGTH), np.int64)
    found = opened.run(OUTPUTS, {"ids": ids})
    binding = opened.io_binding()
    bound = [onnxruntime.OrtValue.ortvalue_from_numpy(values) for values in (ids, *found)]
    binding.bind_ortvalue_input("ids", bound[0])
    for name, value in zip(OUTPUTS, bound[1:]):
        binding.bind_ortvalue_output(name, value)

    def call(given: np.ndarray) -> list[np.ndarray]:
        bound[0].update_inplace(given)
        opened.run_with_iobinding(binding)
        return [value.numpy() for value in bound[1:]]

    return call


def microseconds(call: Callable[[np.ndarray], object], histories: np.ndarray, batch: int, warm_ups: int,
                 calls: int) -> np.ndarray:
    """Of each call, on the histories in turn."""
    taken = []
    for n in range(warm_ups + calls):
        first = n * batch % (len(histories) - batch + 1)
        ids = histories[first : first + batch]
        start = time.perf_counter()
        call(ids)
        taken.append(1e6 * (time.perf_counter() - start))
    return np.array(taken[warm_ups:])


def measure(model: Path, histories: np.ndarray) -> dict[str, float]:
    """The better of both ways to call."""
    ways = (plain_call, bound_call)
    one_user = [microseconds(way(model, 1, 1), histories, 1, 300, 10000) for way in ways]
    best = min(one_user, key=np.median)
    found = {"median_us": float(np.median(best)), "p99_us": float(np.quantile(best, 0.99))}
    for threads in (1, 2):
        batches = [microseconds(way(model, threads, BATCH), histories, BATCH, 3, 80) for way in ways]
        found[f"users_per_s_{threads}"] = BATCH * 1e6 / min(float(np.median(taken)) for taken in batches)
    return found


def check(model: Path, histories: np.ndarray) -> None:
    expected = np.fromfile(model.parent / "expected.bin", np.int64).reshape(-1, TOP)
    for way in (plain_call, bound_call):
        items = way(model, 1, len(expected))(histories[: len(expected)])[1]
        if differing := int((items != expected).sum()):
            raise SystemExit(f"Error: {differing} of {expected.size} ids of ONNX Runtime's top {TOP} are not PyTorch's")
    print(f"{expected.size} ids are PyTorch's")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    histories = np.fromfile(options.folder / "histories.bin", np.int64).reshape(-1, LENGTH)
    model = options.folder / "elcrec.onnx"
    if options.check:
        check(model, histories)
    else:
        print(json.dumps({"version": onnxruntime.__version__} | measure(model, histories)))


if __name__ == "__main__":
    main()
