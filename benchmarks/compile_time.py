"""Prints the seconds of processor time that a compiler takes for a source that includes elcrec, one that loads a model and
recommends, and one that trains and serves: header-only, and with the usual templates in elcrec::precompiled. Each is the
least of the rounds; what else runs on the machine adds to it.

    python3 benchmarks/compile_time.py [--compiler g++] [--flags=-O2] [--rounds 3]
"""
import argparse
import os
import resource
import shlex
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

SOURCES = {
    "include elcrec/serve.hpp": "#include <elcrec/serve.hpp>\n",
    "include elcrec/elcrec.hpp": "#include <elcrec/elcrec.hpp>\n",
    "load and recommend": """#include <elcrec/serve.hpp>
namespace el = elcrec;
float best(const char* path, std::span<const el::ItemId> history) {
  const auto loaded = el::load_elcrec<el::Cpu>(path);
  const el::Recommender recommender(loaded.model);
  auto scratch = recommender.make_scratch();
  return recommender.recommend(history, 5, scratch)[0].score;
}
""",
    "train and serve": (ROOT / "examples/quickstart.cpp").read_text(),
}
LIBRARY = {f"the library's {path.name}, once": path.read_text() for path in sorted((ROOT / "cmake/precompiled").glob("*.cpp"))}


def include_folders() -> list[str]:
    """elcrec's own, and Eigen's and nlohmann/json's where CMake finds them."""
    eigen = subprocess.run(["pkg-config", "--cflags-only-I", "eigen3"], capture_output=True, text=True).stdout
    return [f"-I{ROOT / 'include'}", *(shlex.split(eigen) or ["-I/usr/include/eigen3"])]


def seconds(command: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, env={**os.environ, "CCACHE_DISABLE": "1"})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compiler", default=os.environ.get("CXX", "g++"))
    parser.add_argument("--flags", default="-O2", help="flags of the compiler")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    compile_ = [options.compiler, "-std=c++20", *shlex.split(options.flags), *include_folders(), "-c"]
    precompiled = ["-DELCREC_PRECOMPILED"]

    with tempfile.TemporaryDirectory() as folder:
        def least(text: str, more: list[str]) -> float:
            source = Path(folder) / "source.cpp"
            source.write_text(text)
            command = [*compile_, *more, str(source), "-o", str(Path(folder) / "source.o")]
            return min(seconds(command) for _ in range(options.rounds))

        print(f"{' '.join(compile_[:3])}, least of {options.rounds}: seconds header-only, with elcrec::precompiled")
        for name, text in SOURCES.items():
            print(f"{name:32}{least(text, []):8.1f}{least(text, precompiled):8.1f}", flush=True)
        for name, text in LIBRARY.items():
            print(f"{name:32}{'':8}{least(text, precompiled):8.1f}", flush=True)


if __name__ == "__main__":
    main()
