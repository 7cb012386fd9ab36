# Everyday commands. `make serve` and `make test` are the whole set-up on a fresh machine.
MODEL ?=
PORT ?= 8000
ARGS ?=
JOBS ?= $(shell nproc)
SLUICE_STRICT_SKIPS ?= no
SHELL := /bin/bash

.DEFAULT_GOAL := help
.PHONY: help serve build test chart-test nightly bench lint format clean

help: ## shows this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo "  variables: MODEL='a name of sluice model list, a folder or a GGUF file' PORT=$(PORT) ARGS='more flags of sluice serve' JOBS=$(JOBS)"
	@echo "  SLUICE_STRICT_SKIPS=yes make test: a skip that tests/allowed_skips.txt does not list is a failure (CI)"

serve: ## installs what is missing, builds, serves a model on this machine, port 8000
	@scripts/bootstrap
	@$(MAKE) --no-print-directory build TARGET=sluice
	@exec build/release/sluice serve $(if $(MODEL),--model $(MODEL)) --port $(PORT) $(ARGS)

TARGET ?= all
build: ## builds build/release (TARGET=sluice: only the binary)
	@cmake --preset release -Wno-dev --log-level=WARNING >/dev/null
	@cmake --build --preset release --parallel $(JOBS) --target $(TARGET)

test: ## installs what is missing, builds, runs every test
	@scripts/bootstrap --test
	@$(MAKE) --no-print-directory build
	@scripts/run-tests $(if $(filter yes,$(SLUICE_STRICT_SKIPS)),--strict-skips)

chart-test: ## builds, then tries the Helm chart, rules, boards and images; installs what is missing below build/
	@scripts/bootstrap
	@$(MAKE) --no-print-directory build TARGET=sluice
	@scripts/chart-test

nightly: ## what takes hours: long fuzzing, tests of processes a hundred times on a busy machine, the chart on a real control plane, the binary built twice
	@scripts/bootstrap --test
	@$(MAKE) --no-print-directory build
	@scripts/chart-test -m nightly || [ $$? -eq 77 ]
	@scripts/run-tests --nightly
	@scripts/check-reproducible

bench: ## figures of this machine, and of serving on it (JSON under build/bench)
	@scripts/bootstrap
	@$(MAKE) --no-print-directory build TARGET=sluice
	@scripts/bench

lint: ## format, arrows between folders, shell scripts, words that do not belong here
	@scripts/bootstrap --lint
	@scripts/lint

format: ## formats all C++ files
	@scripts/bootstrap --lint
	@git ls-files -z -co --exclude-standard '*.h' '*.cpp' '*.cu' '*.cuh' | xargs -0 -r .venv/bin/clang-format -i

clean: ## removes everything that was built
	@rm -rf build text/shim/target
