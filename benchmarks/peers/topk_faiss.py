"""Times the exact top 20 of 1,000,000 x 64 floats by inner product, one query at a time, on one thread: Faiss as
shipped, Faiss told to call BLAS for single queries too, numpy (BLAS product, then a partial sort). Prints JSON. BLAS
takes its threads from OMP_NUM_THREADS."""
import json
import statistics
import time
from collections.abc import Callable

import numpy as np

ITEMS, WIDTH, TOP, QUERIES = 1_000_000, 64, 20, 30


def median_ms(call: Callable[[np.ndarray], object], queries: np.ndarray) -> float:
    milliseconds = []
    for query in queries:
        start = time.perf_counter()
        call(query)
        milliseconds.append(1e3 * (time.perf_counter() - start))
    return statistics.median(milliseconds[3:])


def numpy_top(table: np.ndarray, query: np.ndarray) -> np.ndarray:
    scores = table @ query
    best = np.argpartition(scores, -TOP)[-TOP:]
    return best[np.argsort(-scores[best])]


def main() -> None:
    rng = np.random.default_rng(1)
    table = rng.standard_normal((ITEMS, WIDTH), dtype=np.float32)
    queries = rng.standard_normal((QUERIES + 3, WIDTH), dtype=np.float32)
    found: dict[str, object] = {
        "numpy_ms": median_ms(lambda q: numpy_top(table, q), queries),
        "read_once_ms": median_ms(lambda q: table.max(), queries[:13]),  # the cheapest pass that numpy vectorises
        "product_ms": median_ms(lambda q: table @ q, queries),
    }
    found["product_GB_per_s"] = 1e-6 * table.nbytes / found["product_ms"]
    try:
        import faiss
    except ImportError:
        found["faiss"] = "not installed, skipped"
    else:
        faiss.omp_set_num_threads(1)
        index = faiss.IndexFlatIP(WIDTH)
        index.add(table)
        found["faiss"] = faiss.__version__
        found["faiss_ms"] = median_ms(lambda q: index.search(q[None], TOP), queries)
        faiss.cvar.distance_compute_blas_threshold = 0  # as shipped it calls BLAS from 20 queries on
        found["faiss_blas_ms"] = median_ms(lambda q: index.search(q[None], TOP), queries)
        assert index.search(queries[:1], TOP)[1][0].tolist() == numpy_top(table, queries[0]).tolist()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
