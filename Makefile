# Everything runs in .venv, which the first command makes. Another Python, another place:
#     make test PYTHON=python3.12 VENV=.venv-3.12
PYTHON ?= python3
VENV ?= .venv

BIN := $(VENV)/bin
INSTALL = $(FORGET_OLD_NAME) && $(BIN)/uv pip install --python $(BIN)/python --constraints constraints.txt --editable

# A process a core, and one thread a process: on a machine that others use too, torch's threads wait for each other
# many times longer than they work.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

# This distribution was named probekit once. What an older checkout installed under that name would register every metric
# a second time. Another project's probekit isn't editable: that one stays, and the command line says what to do.
OLD_NAME = $(wildcard $(VENV)/lib/python3*/site-packages/__editable__.probekit-[0-9]*.pth)
FORGET_OLD_NAME = rm -rf probekit.egg-info \
	$(if $(OLD_NAME),&& $(BIN)/uv pip uninstall --quiet --python $(BIN)/python probekit probekit-torch)

# Where the environment forbids bytecode, every process would compile torch's modules again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-slow lint types bench docs notebooks readme lock clean
.DELETE_ON_ERROR:

demo: $(VENV)/installed
	@$(BIN)/probekit run relu-vs-sigmoid

# Types are checked meanwhile, where a test waits for something. make test SLOW=yes runs the slow tests among the others.
test: lint
	@$(BIN)/mypy > $(VENV)/types & types=$$!; \
	$(PYTEST) $(if $(SLOW),-m 'not long'); tests=$$?; \
	wait $$types || { cat $(VENV)/types; exit 1; }; exit $$tests

# Studies, large models, and processes that import torch anew.
test-slow: $(VENV)/installed-test
	@$(PYTEST) -m slow

lint: $(VENV)/installed-test
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --check --quiet
	@$(BIN)/lint-imports --no-logo > $(VENV)/floors || { cat $(VENV)/floors; exit 1; }

types: $(VENV)/installed-test
	@$(BIN)/mypy

# Torch has all its threads, as it has for users: run it where nothing else runs. make bench BENCH=--quick tries it out.
bench: $(VENV)/installed-bench
	@$(BIN)/python tests/benchmarks $(BENCH)

docs: $(VENV)/installed-docs
	@$(BIN)/python -m sphinx --fail-on-warning --quiet docs docs/_build/html
	@echo "docs/_build/html/index.html"

# The studies of the docs, to open in Jupyter. Only Python is needed.
notebooks:
	@$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m docs.notebooks notebooks

# The README's table of metrics and its session on a terminal, and docs/command-line.md, from what is registered.
readme: $(VENV)/installed
	@$(BIN)/python docs/readme_metrics.py
	@$(BIN)/python docs/command_line.py
	@$(BIN)/python -m docs.readme_session

# The newest versions that the ranges in pyproject.toml allow, on the oldest Python that they allow.
lock: $(VENV)/uv
	@$(BIN)/uv pip compile --quiet --no-config --no-annotate --no-header --python-version 3.11 --all-extras \
		pyproject.toml > $(VENV)/resolved
	@{ sed '/^[^#]/,$$d' constraints.txt; cat $(VENV)/resolved; } > $(VENV)/constraints
	@mv $(VENV)/constraints constraints.txt

clean:
	rm -rf $(VENV) build *.egg-info notebooks docs/_build .mypy_cache .ruff_cache .pytest_cache

# Each stamp is older than what it was made from until that has been installed. An entry point in pyproject.toml
# reaches an editable install only when it is installed again.
$(VENV)/installed: pyproject.toml constraints.txt $(VENV)/uv
	@echo "installing probekit into $(VENV)"
	@$(INSTALL) .
	@touch $@

$(VENV)/installed-test: pyproject.toml constraints.txt $(VENV)/uv
	@echo "installing probekit and what its tests need into $(VENV)"
	@$(INSTALL) '.[test]'
	@touch $(VENV)/installed $@

$(VENV)/installed-bench: pyproject.toml constraints.txt $(VENV)/uv
	@echo "installing probekit, what its benchmarks need, and other libraries beside it, into $(VENV)"
	@$(INSTALL) '.[test,bench]'
	@touch $(VENV)/installed $(VENV)/installed-test $@

$(VENV)/installed-docs: pyproject.toml constraints.txt $(VENV)/uv
	@echo "installing probekit and what its docs need into $(VENV)"
	@$(INSTALL) '.[docs]'
	@touch $(VENV)/installed $@

$(VENV)/uv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "probekit needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Name one: make PYTHON=python3.12")'
	@echo "making $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt uv
	@touch $@
