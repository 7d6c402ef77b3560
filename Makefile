# Each target sets up what it needs in .venv and can be repeated: packages are installed again only when
# pyproject.toml or constraints.txt have changed. Nothing outside this folder is touched.
PYTHON ?= python3

BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test lint clean

# The whole story on generated scenes: train, evaluate, upsample, convert, report.
demo: .venv/.demo
	$(BIN)/ahmf demo --out demo

test: .venv/.dev
	$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal

lint: .venv/.dev
	$(BIN)/pre-commit run --all-files --show-diff-on-failure

clean:
	rm -rf .venv .cache .mypy_cache .pytest_cache .ruff_cache build dist demo
	find ahmf_jax data_pipelines experiments tests -name __pycache__ -prune -exec rm -rf {} +

.venv/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "make: '$(PYTHON)' is missing or older than Python 3.11: name another, as in 'make demo PYTHON=python3.12'" >&2; \
		exit 1; }
	$(PYTHON) -m venv .venv
	@touch $@

.venv/.demo: .venv/.python pyproject.toml constraints.txt
	$(INSTALL) --editable .
	@touch $@

# One environment for all: this adds to what the demo installed, and the demo then needs nothing more.
.venv/.dev: .venv/.python pyproject.toml constraints.txt
	$(INSTALL) --editable '.[dev,torch]'
	@touch .venv/.demo $@
