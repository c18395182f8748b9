# make demo: a sweep on the bundled digits, no download, no server
# make test: everything that CI checks

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
PLUGINS := $(patsubst %/pyproject.toml,%,$(wildcard plugins/*/pyproject.toml))
# Two at a time; of those that start processes of their own, the ones with Ray one after the other.
PROCESSES := tests/cluster tests/deploy tests/run tests/tracking
PROJECTS := pyproject.toml $(wildcard plugins/*/pyproject.toml)

.PHONY: demo test lint install clean

demo: $(VENV)/.runtime
	$(BIN)/vaepipe run pipelines/digits_sweep.yaml

test: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --doctest-modules vaepipe
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 $(addprefix --ignore=,$(PROCESSES))
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadgroup $(PROCESSES)

lint: $(VENV)/.development
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/interrogate --quiet vaepipe

install: $(VENV)/.development

clean:
	rm -rf $(VENV) build dist *.egg-info plugins/*/*.egg-info .pytest_cache .ruff_cache .import_linter_cache .hypothesis

$(BIN)/python:
	python3 -m venv $(VENV)

# Dependency groups need pip 25.1.
$(VENV)/.runtime: pyproject.toml | $(BIN)/python
	@echo "Installing into $(VENV): some minutes, about 6 GB with torch and its CUDA libraries"
	$(PIP) install --upgrade "pip>=25.1"
	$(PIP) install --editable .
	touch $@

$(VENV)/.development: $(PROJECTS) $(VENV)/.runtime
	$(PIP) install --editable . $(addprefix --editable ./,$(PLUGINS)) --group test --group lint
	touch $@
