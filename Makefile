# Needs python >= 3.11 and make; all else goes into .venv, once (the stamp files remember it).

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip install --quiet
ARGS ?=
SEEDS ?= 100
MINUTES ?= 30
BINARY ?=

.DEFAULT_GOAL := help
.PHONY: help cluster tools test test-kube test-patroni conformance lint format proto sim differential mutants hunts soak bench scenarios clean

help:
	@echo "make cluster   three members on this machine until Ctrl-C (ARGS='--size 5 --ephemeral')"
	@echo "make tools     etcdctl and the test tools, into .venv/bin"
	@echo "make test      lint, types and all tests (ARGS='tests/raft -k vote')"
	@echo "make conformance   run all tests and write docs/conformance.md"
	@echo "make test-patroni  Patroni and PostgreSQL on our cluster (needs PostgreSQL's programs)"
	@echo "make test-kube   the real kube-apiserver (KUBE_APISERVER=/path/to/it) on a cluster of three"
	@echo "make lint      ruff, mypy, import contracts"
	@echo "make format    let ruff lay the code out"
	@echo "make proto     generate kvstore/pb from proto/"
	@echo "make differential   the same requests to real etcd and to us (ARGS='--seeds 500')"
	@echo "make sim       simulated clusters with faults, on all cores (SEEDS=1000, ARGS='--members 5')"
	@echo "make soak      chaos, simulation and power cuts by turns (MINUTES=600, ARGS='--out DIR')"
	@echo "make mutants   broken servers, each of which has to be found (ARGS='--half sim --jobs 2')"
	@echo "make hunts     look for etcd's known bugs in our server (BINARY=/path/to/etcd: in another)"
	@echo "make scenarios   write the table of scenarios into docs/reliability.md"
	@echo "make bench     measure against etcd (ARGS='--quick')"
	@echo "make clean     remove .venv, build and caches"

$(VENV)/created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "$(PYTHON) is too old: python >= 3.11 is needed (make PYTHON=python3.12 ...)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/installed: pyproject.toml | $(VENV)/created
	$(PIP) --editable .
	@touch $@

$(VENV)/installed-test: pyproject.toml | $(VENV)/created
	$(PIP) --editable '.[test]'
	@touch $@ $(VENV)/installed

# What cannot be had here (no apt, no npm) is said in one line, and its tests skip.
$(VENV)/installed-clients: tests/clients/install.py | $(VENV)/installed-test
	@$(BIN)/python tests/clients/install.py
	@touch $@

cluster: $(VENV)/installed
	@exec $(BIN)/kvstore local $(ARGS)

tools: $(VENV)/installed-test $(VENV)/installed-clients

test: lint $(VENV)/installed-clients
	$(BIN)/python -m pytest $(ARGS)

conformance: $(VENV)/installed-test $(VENV)/installed-clients
	$(BIN)/python -m pytest --conformance $(ARGS)

test-patroni: $(VENV)/installed-test
	$(PIP) 'patroni[etcd3]>=4.1,<5' 'psycopg[binary]>=3.3,<4'
	PATRONI=1 $(BIN)/python -m pytest tests/clients/test_patroni.py $(ARGS)

# Without KUBE_APISERVER the test of the real thing says so and is skipped.
test-kube: $(VENV)/installed-test
	$(BIN)/python -m pytest -v tests/kube $(ARGS)

lint: $(VENV)/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache

format: $(VENV)/installed-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

proto: $(VENV)/installed-test
	$(BIN)/python proto/generate.py

sim: $(VENV)/installed-test
	$(BIN)/python -m jepsen sim --seeds $(SEEDS) $(ARGS)

differential: $(VENV)/installed-test
	$(BIN)/python -m tests.differential.run $(ARGS)

soak: $(VENV)/installed-test
	$(BIN)/python -m jepsen soak --minutes $(MINUTES) $(ARGS)

# Looks for all of them (--jobs 2: a quarter of an hour on two cores) and writes the table of docs/reliability.md.
mutants: $(VENV)/installed-test
	@$(BIN)/python -m jepsen mutants $(ARGS); code=$$?; \
		$(BIN)/python -m jepsen mutants --table; exit $$code

# Keeps what came of it in docs/hunts.json, and writes the table of docs/reliability.md.
hunts: $(VENV)/installed-test
	$(BIN)/python -m jepsen hunts --json docs/hunts.json $(if $(BINARY),--binary $(BINARY)) $(ARGS)
	$(BIN)/python -m jepsen hunts --table

scenarios: $(VENV)/installed-test
	$(BIN)/python -m tests.scenarios.report

bench: $(VENV)/installed-test
	$(BIN)/python -m tests.bench.bench $(ARGS)

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
