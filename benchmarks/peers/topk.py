"""Times the top 20 of 1,000,000 x 64 by inner product, one query at a time, on one thread. Prints JSON.

    topk.py faiss      IndexFlatIP as shipped and told to call BLAS for single queries too; 16-bit and 8-bit quantisers
    topk.py usearch    exact search
    topk.py numpy      BLAS product, then a partial sort

BLAS takes its threads from OMP_NUM_THREADS. What a peer finds is compared with numpy's double precision: exact search
must agree, of the others the recall is printed.
"""
import argparse
import json
import time
from collections.abc import Callable

import numpy as np

ITEMS, WIDTH, TOP, QUERIES, WARM_UPS = 1_000_000, 64, 20, 30, 3
REFINED = 4  # the 8-bit quantiser's best 4 x 20 are ranked exactly

Search = Callable[[np.ndarray], np.ndarray]  # query (WIDTH) -> ids, best first


class Catalogue:
    def __init__(self) -> None:
        rng = np.random.default_rng(1)
        self.table = rng.standard_normal((ITEMS, WIDTH), dtype=np.float32)
        self.queries = rng.standard_normal((QUERIES + WARM_UPS, WIDTH), dtype=np.float32)
        exact = np.argsort(-(self.table.astype(np.float64) @ self.queries[:WARM_UPS].T.astype(np.float64)), axis=0)
        self.expected = exact[:TOP].T.tolist()

    def recall(self, search: Search) -> float:
        found = [search(query).tolist() for query in self.queries[:WARM_UPS]]
        return sum(len(set(a) & set(b)) for a, b in zip(found, self.expected)) / (TOP * WARM_UPS)

    def mean_ms(self, search: Search) -> float:
        """Of all calls together, as elcrec's benchmark takes it."""
        for query in self.queries[:WARM_UPS]:
            search(query)
        start = time.perf_counter()
        for query in self.queries[WARM_UPS:]:
            search(query)
        return 1e3 * (time.perf_counter() - start) / QUERIES

    def exact_ms(self, search: Search) -> float:
        if [search(query).tolist() for query in self.queries[:WARM_UPS]] != self.expected:
            raise SystemExit(f"Error: the top {TOP} are not those that numpy finds in double precision")
        return self.mean_ms(search)


def measure_numpy(data: Catalogue) -> dict[str, object]:
    def search(query: np.ndarray) -> np.ndarray:
        scores = data.table @ query
        best = np.argpartition(scores, -TOP)[-TOP:]
        return best[np.argsort(-scores[best])]

    product_ms = data.mean_ms(lambda query: data.table @ query)
    return {"version": np.__version__, "ms": data.exact_ms(search),
            "product_GB_per_s": 1e-6 * data.table.nbytes / product_ms}


def measure_faiss(data: Catalogue) -> dict[str, object]:
    import faiss

    faiss.omp_set_num_threads(1)
    flat = faiss.IndexFlatIP(WIDTH)
    flat.add(data.table)
    found: dict[str, object] = {"version": faiss.__version__}
    found["ms"] = data.exact_ms(lambda query: flat.search(query[None], TOP)[1][0])
    shipped = faiss.cvar.distance_compute_blas_threshold
    faiss.cvar.distance_compute_blas_threshold = 0  # as shipped it calls BLAS from 20 queries on
    found["blas_ms"] = data.exact_ms(lambda query: flat.search(query[None], TOP)[1][0])
    faiss.cvar.distance_compute_blas_threshold = shipped

    kinds = faiss.ScalarQuantizer
    halves = kinds.QT_bf16 if hasattr(kinds, "QT_bf16") else kinds.QT_fp16
    bytes_ = faiss.IndexScalarQuantizer(WIDTH, kinds.QT_8bit, faiss.METRIC_INNER_PRODUCT)
    refined = faiss.IndexRefineFlat(bytes_)
    refined.k_factor = REFINED
    for name, index in (("16_bit", faiss.IndexScalarQuantizer(WIDTH, halves, faiss.METRIC_INNER_PRODUCT)),
                        ("8_bit", refined)):
        index.train(data.table)
        index.add(data.table)
        search = lambda query, index=index: index.search(query[None], TOP)[1][0]  # noqa: E731
        found |= {f"{name}_ms": data.mean_ms(search), f"{name}_recall": data.recall(search)}
    return found


def measure_usearch(data: Catalogue) -> dict[str, object]:
    import usearch
    from usearch.index import MetricKind, search

    def exact(query: np.ndarray) -> np.ndarray:
        return search(data.table, query, TOP, MetricKind.IP, exact=True, threads=1).keys

    return {"version": usearch.__version__, "ms": data.exact_ms(exact)}


def main() -> None:
    peers = {"faiss": measure_faiss, "usearch": measure_usearch, "numpy": measure_numpy}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=list(peers))
    print(json.dumps(peers[parser.parse_args().peer](Catalogue())))


if __name__ == "__main__":
    main()
