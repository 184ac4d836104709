# One command per habit. `make` alone lists them.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
NPM := tests/official/typescript tests/infsh_clients/javascript
WORKERS ?= 2
ON_POSTGRES := STEPWELL_TEST_STORE=postgres
# Tests of whole servers wait most of the time, so there are more of them than cores, and the simulator runs beside them.
WAITING = -n $$((2 * $(WORKERS))) --dist worksteal --durations=20 -m "not long"

# A test that fails while the machine is full is named, and run once more by itself; failing again, it has failed. No
# such grace for what was lost or doubled in a storm, and none unless all tests ran (status 1).
AGAIN = test $$? = 1 && ! grep -q kill_storm .pytest_cache/v/cache/lastfailed
define tested
$(1) $(BIN)/pytest $(WAITING) $(2) || { $(AGAIN) && $(1) $(BIN)/pytest -rA -m "not long" --last-failed --last-failed-no-failures none $(2); }
endef

# Anything that would ask a question gets "no terminal, no question" instead.
export PIP_NO_INPUT := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export DO_NOT_TRACK := 1

.PHONY: help setup demo quick test test-long check sim bench bench-peers dev docs lock

help:
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP)  ## create .venv from the locks (again only when they change)

demo: setup  ## show what Stepwell does, on this machine, without keys
	$(BIN)/python examples/demo/demo.py

quick: setup  ## unit tests, under a minute
	$(BIN)/pytest -q -x -n $(WORKERS) -m "not slow and not official and not long"

test: setup check  ## what CI runs: check, every test not marked long, the simulator
	$(call tested)
	nice $(MAKE) sim WORKERS=1 & simulator=$$!; trap "kill $$simulator 2>/dev/null || true" EXIT; \
	  $(call tested,$(ON_POSTGRES) STEPWELL_TEST_NODES=2,tests/official tests/sdk_e2e tests/api tests/faults); \
	  for nodes in 1 3; do $(call tested,$(ON_POSTGRES) STEPWELL_TEST_NODES=$$nodes,tests/sdk_e2e/test_lifecycle.py); done; \
	  wait $$simulator

test-long: setup  ## what does not fit into `make test`: soak and whole ranges
	$(BIN)/pytest -m long -o faulthandler_timeout=0

check: setup  ## lint, format, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	@if [ -d tests/typing ]; then set -x; $(BIN)/basedpyright; fi

sim: setup  ## simulate crashes: CI's range of seeds, or one with SEED=n
	$(BIN)/python -m stepwell.testing.simulate $(if $(SEED),--seed $(SEED),--seeds 20000 --processes $(WORKERS))

bench: setup  ## measure throughput, latency and memory; ARGS=--quick for a short round
	$(BIN)/python -m benchmarks $(ARGS)

bench-peers: setup  ## the same beside Restate and DBOS, installed into your cache folder
	$(BIN)/python -m benchmarks.peers $(ARGS)

dev: setup  ## run the quickstart with server and dashboard, reloading on a change
	$(BIN)/stepwell dev examples/quickstart/app.py

docs: setup  ## build the documentation into site/; a broken link is an error
	$(BIN)/uv pip install -q --python $(BIN)/python --require-hashes -r requirements/docs.txt \
	  || $(BIN)/python -m pip install -q --require-hashes -r requirements/docs.txt
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build -q --strict

lock: setup  ## resolve requirements/*.in again into the locked files
	for name in uv server dev docs $$(cd requirements && ls libraries/*.in | sed 's/\.in$$//'); do \
	  $(BIN)/uv pip compile -q $(UPGRADE) --generate-hashes --universal --python-version 3.11 --no-header \
	    --no-emit-index-url --no-annotate --no-emit-package stepwell requirements/$$name.in -o requirements/$$name.txt; \
	done

# uv comes from its own hashed lock, then installs the rest in a second or two. pip does the same, slower,
# where uv cannot reach the package index the way pip is configured to.
$(STAMP): requirements/uv.txt requirements/dev.txt pyproject.toml $(wildcard $(NPM:=/package-lock.json))
	@[ -x $(BIN)/python ] || { \
	  for python in "$${PYTHON:-}" python3.11 python3 python3.14 python3.13 python3.12; do \
	    [ -n "$$python" ] || continue; \
	    if "$$python" -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	      echo "creating $(VENV) with $$python"; exec "$$python" -m venv $(VENV); \
	    fi; \
	  done; \
	  echo "no Python 3.11 or newer with venv found; install one, or name it: make setup PYTHON=/path/to/python" >&2; \
	  exit 1; \
	}
	@if ! $(BIN)/uv --version >/dev/null 2>&1; then \
	  $(BIN)/python -m pip install -q --require-hashes -r requirements/uv.txt; \
	fi
	$(BIN)/uv pip install -q --python $(BIN)/python --require-hashes -r requirements/dev.txt \
	  || $(BIN)/python -m pip install -q --require-hashes -r requirements/dev.txt
	$(BIN)/python -m pip install -q --no-deps --no-build-isolation --editable .
	@if command -v npm >/dev/null; then \
	  set -x; for folder in $(NPM); do npm ci --prefix $$folder --no-audit --no-fund --loglevel=error || exit 1; done; \
	fi
	@touch $@
