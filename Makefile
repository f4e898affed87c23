# The doors. Each sets up what it needs; a fresh machine needs Python 3.11 and nothing else.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check --quiet

.DEFAULT_GOAL := help
.PHONY: help serve test environments clients check bench bench-peers chaos format lock schema clean

help: ## list the doors
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

$(VENV)/.made:
	$(PYTHON) -c 'import sys; sys.exit("lesson-proxy needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Try: make PYTHON=python3.11 ...") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	@touch $@

# The runtime lock alone, for `make serve`.
$(VENV)/.runtime: $(VENV)/.made requirements.lock
	$(PIP) install --require-hashes -r requirements.lock
	@touch $@

# Everything that tests, checks and benches need, and the console script.
$(VENV)/.dev: $(VENV)/.made requirements-dev.lock pyproject.toml
	$(PIP) install --require-hashes -r requirements-dev.lock
	$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

# The console script without a build: what stands here runs. `.dev` puts the installed one in its place.
$(BIN)/lesson-proxy: | $(VENV)/.made
	@printf '#!/bin/sh\nPYTHONPATH="%s" exec "%s/python" -m proxy "$$@"\n' "$(CURDIR)" "$(abspath $(BIN))" > $@
	@chmod +x $@

serve: $(VENV)/.runtime $(BIN)/lesson-proxy ## the proxy on port 4000 with the embedded provider: no key, no Redis, no network (ARGS="--port 4001")
	$(BIN)/python -m proxy serve $(ARGS)

environments: $(VENV)/.dev # of the client libraries, each made from its lock where that changed
	$(BIN)/python -m tests.clients.environments

clients: environments ## play all client libraries through the proxy and write docs/clients.md
	$(BIN)/python -m tests.clients

test: environments ## all tests, with coverage (ARGS="-k window")
	$(BIN)/python -m coverage erase
	COVERAGE_PROCESS_START=pyproject.toml $(BIN)/python -m pytest --cov --cov-report=term-missing:skip-covered $(ARGS)

check: $(VENV)/.dev ## lint, format, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports

bench: $(VENV)/.dev ## the figures of the README, with their conditions (ARGS="tokens passthrough")
	$(BIN)/python -m bench $(ARGS)

# Other gateways, each in an environment of its own, made from its lock where that changed.
.peers/%/.made: bench/peers/%.lock | $(VENV)/.dev
	$(BIN)/python -m venv --clear --without-pip $(@D)
	$(PIP) --python $(@D)/bin/python install --no-compile --require-hashes -r $<
	@touch $@

bench-peers: $(VENV)/.dev ## the proxy beside other gateways (PEER="name=http://127.0.0.1:8080" adds one that runs already)
	@for peer in litellm ferrogw; do $(MAKE) --no-print-directory .peers/$$peer/.made || { rm -rf .peers/$$peer; printf '\n*** %s is not to be had here and is left out.\n\n' $$peer >&2; }; done
	$(BIN)/python -m bench.peers

chaos: $(VENV)/.dev ## kill, freeze and cut off replicas and their Redis under traffic (ARGS="--seed 123 --rounds 5")
	$(BIN)/python -m tests.chaos $(ARGS)

format: $(VENV)/.dev ## mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

schema: $(VENV)/.dev ## write config/schema.json from the settings model
	$(BIN)/python -m proxy.settings > config/schema.json

# uv must be on the PATH for this one alone; no index address reaches the lock files.
lock: ## pin the dependencies anew, with hashes
	uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-strip-extras --no-header -q -o requirements.lock
	uv pip compile pyproject.toml --group dev --universal --python-version 3.11 --generate-hashes --no-strip-extras --no-header -q -o requirements-dev.lock
	for of in python/current python/instructor node/node; do uv pip compile tests/clients/$$of.in --universal --python-version 3.11 --generate-hashes --no-strip-extras --no-header -q -o tests/clients/$$of.lock; done
	for of in litellm ferrogw; do uv pip compile bench/peers/$$of.in --universal --python-version 3.11 --generate-hashes --no-strip-extras --no-header -q -o bench/peers/$$of.lock; done

clean: ## remove what the doors made
	rm -rf $(VENV) .clients .peers tests/clients/node/node_modules .pytest_cache .ruff_cache .hypothesis .coverage .coverage.*
