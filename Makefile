# Everything a person types here: setup, demo, test, check, bench. `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# The first Python 3.11 or newer that can make an environment; `make PYTHON=/path/to/python setup` chooses.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.14; do \
	"$$p" -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo "$$p"; break; }; done)
# xdist's own choice on a small machine is one worker a core; more only get in each other's way.
WORKERS ?= auto
TESTS ?= tests
# Only a cluster that was named on make's own line: one that the shell happens to know was not asked for.
ifeq ($(origin KUBECONFIG),command line)
export TEST_CLUSTER_KUBECONFIG := $(KUBECONFIG)
endif
# Where the projects of the demo and of the tests have their stores: folder, or s3 (a server that they start).
STORE ?= folder
# Where the demo's stages run: local, or kubernetes (a cluster that it starts, its store a bucket).
EXECUTOR ?= local

.PHONY: help setup demo s3 cluster rig test test-cluster check lint types imports format bench clean

help: ## List these commands
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## (.*)/  make \1\t\2/' | expand -t 16

setup: $(READY) ## Make .venv with everything pinned

$(READY): pyproject.toml constraints.txt
	@test -n '$(PYTHON)' || { echo 'make: no Python 3.11 or newer with venv was found (Debian: apt-get install python3 python3-venv)' >&2; exit 2; }
	@echo "setting up $(VENV) (a minute or two, once) ..."
	@rm -f $(READY)
	@'$(PYTHON)' -m venv $(VENV)
	@PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1 \
		$(BIN)/python -m pip install --quiet --editable '.[demo,dev]'
	@touch $(READY)

demo: $(READY) ## Run a real small loop, and the way back from a bad student (STORE=s3; EXECUTOR=kubernetes)
	@STORE='$(STORE)' EXECUTOR='$(EXECUTOR)' bash scripts/demo.sh

s3: $(READY) ## Serve the bucket of `make demo STORE=s3` until Ctrl-C
	@$(BIN)/python -m tests.rig.serve runs/demo-s3 demo

rig: $(READY) ## Have the programs and images that the tests build ready (minutes, once)
	@$(BIN)/python -m tests.rig.prepare

cluster: $(READY) ## Have the tests' Kubernetes cluster until Ctrl-C, and say how to reach it
	@$(BIN)/python -m tests.rig.cluster

test: $(READY) check rig ## Run every check and every test
	TEST_STORE='$(STORE)' $(BIN)/python -m pytest -n $(WORKERS) -m 'not cluster' $(TESTS)
	@test '$(STORE)' != folder || $(MAKE) --no-print-directory test-cluster

# There is one cluster: whole files of tests share it, each in namespaces of its own, and mostly wait for it; those that
# stop its daemons, or want its GPU for themselves, come one after the other. (5: none of them is in TESTS.)
test-cluster: $(READY) ## Run the tests of a cluster alone (KUBECONFIG=...: on that one)
	$(BIN)/python -m pytest -n 3 --dist loadfile -m 'cluster and not alone' $(TESTS) || test $$? = 5
	$(BIN)/python -m pytest -n 0 -m 'cluster and alone' $(TESTS) || test $$? = 5

check: lint types imports ## Run the static checks

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy
	$(BIN)/mypy examples/minigrid benchmarks

imports: $(READY)
	$(BIN)/lint-imports

format: $(READY) ## Format and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(READY) ## Measure, each figure beside its peer in the same run
	@failed=; for one in append bucket_append overhead startup s3_transfer s3_swap s3_collect s3_append s3_cold k8s_stage; do \
		echo "== $$one"; $(BIN)/python -m benchmarks.$$one || failed="$$failed $$one"; done; \
	test -z "$$failed" || { echo "below the target:$$failed" >&2; exit 1; }

clean: ## Remove what can be made again (never runs/, checkpoints/, results/)
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
