# Thin front door: the build is CMakeLists.txt with CMakePresets.json, the logic of each goal is in tools/.
# Every goal installs the Debian packages that it needs and that are missing (as root or through sudo).
PREFIX ?= /usr/local
PTC := build/release/bin/ptc

.DEFAULT_GOAL := build
.PHONY: help build demo test test-release test-asan test-clang test-tsan bench bench-ranks bench-text bench-answers bench-gpu bench-elastic bench-simulate bench-paper parity fuzz fuzz-jobs format format-check install clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 16

build: ## build/release/bin/ptc
	@tools/install-deps.sh build
	@tools/build.sh release

demo: ## train a Vision Transformer on Fashion-MNIST on two ranks while its layers freeze; build/demo/report.html
	@tools/install-deps.sh demo
	@tools/build.sh release
	@rm -rf build/demo
	@tools/demo.sh $(PTC) build/demo

test: ## everything: gcc, AddressSanitizer, clang, formatting
	@tools/install-deps.sh test
	@tools/run-tests.sh all

test-release test-asan test-clang test-tsan: test-%: ## one part of it, or ThreadSanitizer
	@tools/install-deps.sh test
	@tools/run-tests.sh $*

bench: ## step times against PyTorch (docs/performance.md)
	@tools/install-deps.sh bench
	@tools/build.sh release
	@tests/bench/run.sh build/release

bench-ranks: ## one model on two ranks: against one rank, PyTorch and the plan (docs/performance.md)
	@tools/install-deps.sh bench
	@tools/build.sh release
	@tests/bench/ranks.sh build/release

bench-text: ## fine-tuning on Banking77: accuracy and time per epoch; TORCH_PYTHON has torch and transformers
	@tools/install-deps.sh bench
	@tools/build.sh release
	@$${TORCH_PYTHON:-python3} tests/bench/banking77.py build/release

bench-answers: ## answers as spans on XQuAD: exact match, F1 and time; TORCH_PYTHON has torch and transformers
	@tools/install-deps.sh bench
	@tools/build.sh release
	@$${TORCH_PYTHON:-python3} tests/bench/xquad.py build/release

bench-gpu: ## one NVIDIA GPU: right, and how fast beside PyTorch; TORCH_PYTHON has torch for it; PARTS=frozen,... (docs/performance.md)
	@tools/install-deps.sh bench
	@tools/build.sh release
	@$${TORCH_PYTHON:-python3} tests/bench/gpu.py build/release $(if $(PARTS),--parts=$(PARTS))

bench-elastic: ## layers that freeze on two ranks, against static plans and PyTorch; TORCH_PYTHON has torch and transformers
	@tools/install-deps.sh bench
	@tools/build.sh release
	@$${TORCH_PYTHON:-python3} tests/bench/elastic.py build/release

bench-simulate: ## whole elastic jobs on 1, 2 and 4 ranks, simulated and run (docs/performance.md)
	@tools/install-deps.sh bench
	@tools/build.sh release
	@python3 tests/bench/simulate.py build/release

bench-paper: ## PipeTransformer's jobs on its cluster, simulated, beside the paper's numbers (docs/performance.md)
	@tools/build.sh release
	@python3 tests/bench/paper.py build/release

parity: ## every model of the zoo against Hugging Face transformers, live
	@tools/install-deps.sh bench
	@tools/build.sh release
	@tools/parity.sh

fuzz: ## every fuzz target, RUNS=1000000 executions each
	@tools/install-deps.sh test
	@tools/fuzz.sh

fuzz-jobs: ## JOBS=100 random elastic jobs on 2 to 4 ranks, which must be the bits of one rank
	@tools/build.sh release
	@python3 tests/fuzz/jobs.py build/release --jobs $${JOBS:-100}

format: ## clang-format all C files in place
	@tools/install-deps.sh format
	@tools/format.sh

format-check: ## fail when a C file is not formatted
	@tools/install-deps.sh format
	@tools/format.sh --check

install: build ## into PREFIX (and DESTDIR)
	cmake --install build/release --prefix $(PREFIX)

clean: ## remove build/
	rm -rf build
