# Two commands do all the set-up: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DURATION ?=
export PYTHONDONTWRITEBYTECODE ?= 1

.PHONY: help demo test lint format docs bench clean lock mosquitto
help: ## what there is
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

# Made again when the lock or the project's definition changes; a half-made one is not believed.
$(VENV)/ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: $(PYTHON) is older. Try: make PYTHON=python3.11"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "Python's venv module is missing. Install it: apt-get install python3-venv"; exit 1; }
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

mosquitto:
	@sh scripts/need-mosquitto

demo: $(VENV)/ready ## broker, gateway, 20 terminals and a live view; DURATION=20 stops by itself
	$(BIN)/loadgate demo $(if $(DURATION),--duration $(DURATION))

test: $(VENV)/ready mosquitto ## all tests (under 10 minutes)
	$(BIN)/python -m pytest

lint: $(VENV)/ready ## style, types, who may import whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/ready ## bring the code into the house's form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/ready ## JSON Schemas, docs/asyncapi.yaml and config/gateway.toml from their definitions
	$(BIN)/python -m messages docs
	$(BIN)/loadgate config > config/gateway.toml

# The benchmark compares with packages that nothing else needs.
$(VENV)/bench: $(VENV)/ready requirements-bench.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-bench.lock
	touch $@

bench: $(VENV)/bench mosquitto ## decode speed as ratios within one run; end to end with a real broker
	$(BIN)/python benchmarks/decode.py
	$(BIN)/python benchmarks/end_to_end.py

lock: ## write the lock files again (needs uv)
	uv pip compile pyproject.toml --extra demo --group dev --universal --python-version 3.11 \
	    --generate-hashes --no-emit-index-url --no-header -q -o requirements.lock
	uv pip compile pyproject.toml --extra demo --group dev --group bench -c requirements.lock --universal \
	    --python-version 3.11 --generate-hashes --no-emit-index-url --no-header -q -o requirements-bench.lock

clean: ## remove what was made
	rm -rf $(VENV) dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
