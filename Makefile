# Two commands do everything on a fresh machine with Python 3.11+, pip, make and git:
#   make demo    environment, dependencies, model, the main job
#   make test    environment, dependencies, suites, tests
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
MODEL ?= qwen2.5-coder-1.5b
DEMO = build/demo
SEED ?= 7
SUITES = bfcl agentdojo textarena reasoning_gym

TRACES = $(sort $(wildcard evals/traces/*/rollouts.parquet))

.PHONY: demo test evidence standard kills soak overhead check docs links bench mutants clean

demo: $(VENV)/.local
	$(BIN)/entcent models pull $(MODEL)
	$(BIN)/python -m tools.penguins $(DEMO)/penguins.db
	$(BIN)/entcent run "$$($(BIN)/python -m evals.penguins task)" --db $(DEMO)/penguins.db --model $(MODEL) -n 4 --max-tokens 130 --seed $(SEED)
	$(BIN)/python -m evals.penguins check $(DEMO)/penguins.db

test: $(VENV)/.dev
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal

evidence: $(VENV)/.dev
	$(BIN)/python -m evals report $(filter-out %_rationale/rollouts.parquet,$(TRACES)) --out docs/evidence/selectors.md
	$(BIN)/python -m evals validity $(TRACES) --out docs/evidence/validity.md

standard: $(VENV)/.dev
	$(BIN)/python -m pytest -m slow tests/standard

kills: $(VENV)/.dev
	$(BIN)/python -m benchmarks.kills

soak: $(VENV)/.dev
	$(BIN)/python -m benchmarks.soak

overhead: $(VENV)/.dev
	$(BIN)/python -m benchmarks.overhead
	$(BIN)/python -m benchmarks.memory

check: $(VENV)/.dev
	VENV=$(VENV) scripts/check

docs: $(VENV)/.dev
	$(BIN)/python -m sphinx -q -W --keep-going -c docs -d build/doctrees . build/docs
	@echo build/docs/index.html

links: $(VENV)/.dev
	$(BIN)/python -m sphinx -q -b linkcheck -c docs -d build/doctrees . build/links

bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks.demo_selection

mutants: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet 'mutmut>=3.8'
	OPENBLAS_NUM_THREADS=1 $(BIN)/mutmut run
	$(BIN)/mutmut results

clean:
	rm -rf $(VENV) build dist

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/.local: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[local]'
	touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[local,evals,serve,service,mcp,docs,dev]'
	for suite in $(SUITES); do $(BIN)/python -m evals install $$suite || exit 2; done
	touch $@ $(VENV)/.local
