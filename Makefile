# Only wraps the CMake presets (CMakePresets.json). CMAKE_ARGS is passed to configure, JOBS limits the compilers.
JOBS ?= $(shell cmake/jobs.sh)
CMAKE_ARGS ?=
MAKEFLAGS += --no-print-directory

# Tests run in folders of their own, where a relative path would lead elsewhere.
ifneq ($(ELCREC_DATA_DIR),)
override ELCREC_DATA_DIR := $(if $(filter /%,$(firstword $(ELCREC_DATA_DIR))),,$(CURDIR)/)$(ELCREC_DATA_DIR)
export ELCREC_DATA_DIR
endif

# ThreadSanitizer of older compilers cannot start when the kernel randomises addresses with many bits.
FIXED_ADDRESSES := $(shell setarch -R true 2>/dev/null && echo setarch -R)
CLANG := $(firstword $(shell command -v clang++-14) $(shell command -v clang++))

.DEFAULT_GOAL := help
.PHONY: help demo test test-rest test-all bench bench-peers results lint asan tsan clang fuzz clean bootstrap

help:
	@echo "make demo [DATA=Beauty.txt]  build, train on built-in data (or the file), recommend"
	@echo "make test [ELCREC_DATA_DIR=../shared]  build and run what a CPU needs, on the real data there too"
	@echo "make test-all                that, and the rest: CUDA (nvcc, emulation), every header alone, other platforms"
	@echo "make lint                    the files' format and clang-tidy"
	@echo "make bench                   build and run the benchmarks; build/bench.json, see benchmarks/compare.py"
	@echo "make bench-peers [DATA=...]  the same jobs in PyTorch, ONNX Runtime, Faiss and usearch, in turn with ours"
	@echo "make results                 RESULTS.md and its figures from the rows in benchmarks/results"
	@echo "make asan | tsan | clang     the tests under AddressSanitizer + UBSan, ThreadSanitizer, Clang"
	@echo "make fuzz                    every reader on mutated input, a minute each (Clang)"
	@echo "make clean                   remove the build folders"

bootstrap:
	@cmake/bootstrap.sh

demo: bootstrap
	@cmake --preset release $(CMAKE_ARGS)
	@cmake --build --preset release --parallel $(JOBS) --target elcrec_program
	@build/examples/elcrec demo $(if $(DATA),--data "$(DATA)")

test: bootstrap
	@cmake --preset release -DELCREC_CUDA=OFF $(CMAKE_ARGS)
	@cmake --build --preset release --parallel $(JOBS) --target cpu_tests
	@ctest --preset release -LE rest --output-on-failure --parallel $(JOBS)

# In a folder of its own: with nvcc the programs are others.
test-rest: bootstrap
	@cmake --preset rest $(CMAKE_ARGS)
	@cmake --build --preset rest --parallel $(JOBS)
	@ctest --preset rest --output-on-failure --parallel $(JOBS)

test-all: test
	@$(MAKE) test-rest

# What CMake knows of each source's flags, from the folder of the preset clang.
lint: CMAKE_ARGS += $(if $(CLANG),-DCMAKE_CXX_COMPILER=$(CLANG))
lint: bootstrap
	@cmake --preset clang $(CMAKE_ARGS) >/dev/null
	@cmake/lint.sh build-clang $(JOBS)

bench: bootstrap
	@cmake --preset release $(CMAKE_ARGS)
	@cmake --build --preset release --parallel $(JOBS) --target bench

bench-peers: bootstrap
	@benchmarks/peers/install.sh
	@cmake --preset release $(CMAKE_ARGS)
	@cmake --build --preset release --parallel $(JOBS) --target elcrec_bench
	@/usr/bin/python3 benchmarks/peers/run.py --build build $(if $(DATA),--data "$(DATA)")

results:
	@cmake/bootstrap.sh --results
	@/usr/bin/python3 benchmarks/experiments/report.py

clang fuzz: CMAKE_ARGS += $(if $(CLANG),-DCMAKE_CXX_COMPILER=$(CLANG))
asan tsan clang fuzz: bootstrap
	@cmake --preset $@ $(CMAKE_ARGS)
	@cmake --build --preset $@ --parallel $(JOBS)
	@$(FIXED_ADDRESSES) ctest --preset $@ --output-on-failure --parallel $(JOBS)

clean:
	rm -rf build build-rest build-debug build-asan build-tsan build-clang build-fuzz
