"""Prints two results of `make bench` side by side: for each benchmark that both hold, the time of the first divided by the
time of the second, so that above 1 the second is faster.

    python3 benchmarks/compare.py before.json after.json [REGEX]
"""
import argparse
import json
import re
from pathlib import Path

NANOSECONDS = {"ns": 1.0, "us": 1e3, "ms": 1e6, "s": 1e9}


def times(path: Path) -> dict[str, float]:
    """Nanoseconds of each benchmark; the least where one was repeated."""
    found: dict[str, float] = {}
    for run in json.loads(path.read_text())["benchmarks"]:
        if run.get("run_type", "iteration") == "iteration" and not run.get("error_occurred"):
            name = run.get("run_name", run["name"])
            found[name] = min(found.get(name, float("inf")), run["real_time"] * NANOSECONDS[run["time_unit"]])
    return found


def text(nanoseconds: float) -> str:
    unit = next((u for u in ("s", "ms", "us") if nanoseconds >= NANOSECONDS[u]), "ns")
    return f"{nanoseconds / NANOSECONDS[unit]:.3g} {unit}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("pattern", nargs="?", default="", help="only benchmarks whose name holds this")
    options = parser.parse_args()
    before, after = times(options.before), times(options.after)
    names = [name for name in before if name in after and re.search(options.pattern, name)]
    width = max(map(len, names), default=9)
    print(f"{'benchmark':{width}}  {'before':>9}  {'after':>9}  ratio")
    for name in names:
        print(f"{name:{width}}  {text(before[name]):>9}  {text(after[name]):>9}  {before[name] / after[name]:5.2f}")
    for path, only in ((options.before, before.keys() - after), (options.after, after.keys() - before)):
        if only:
            print(f"only in {path}: {', '.join(sorted(only))}")


if __name__ == "__main__":
    main()
