# What a machine must bring: Python 3.11 or later, and make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
BENCH_INSTALLED := $(VENV)/.bench-installed
QUESTIONS := fanout publishing latency growth memory slow_readers users

.PHONY: run test bench chaos lint fmt lock clean

run: $(INSTALLED)  ## Start the server on the embedded PostgreSQL; ARGS="--listen :8080" passes options on
	$(BIN)/att-server $(ARGS)

test: lint  ## Run lint, types and tests, with coverage; ARGS="-k login" chooses tests
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -n auto --maxprocesses 4 --dist worksteal $(ARGS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

bench: $(INSTALLED) $(BENCH_INSTALLED)  ## Measure, and gather the figures in bench/results; ARGS="fanout memory" chooses questions
	for name in $(or $(ARGS),$(QUESTIONS)); do $(BIN)/python bench/$$name.py || exit; done
	$(BIN)/python bench/report.py

chaos: $(INSTALLED)  ## Kill servers, database and clients at random, and look for what is lost; ARGS="--seed 7" chooses
	$(BIN)/python -m chaos $(ARGS)

lint: $(INSTALLED)  ## Check style and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

fmt: $(INSTALLED)  ## Put the code in form
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

lock: $(INSTALLED)  ## Pin anew the newest versions that setup.py admits
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-header \
		--no-emit-index-url --no-emit-find-links --extra embedded --extra redis --extra gunicorn --extra dev \
		--output-file requirements.lock setup.py
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-header \
		--no-emit-index-url --no-emit-find-links --extra bench --constraint requirements.lock \
		--output-file requirements-bench.lock setup.py

clean:  ## Remove what the others made
	rm -rf $(VENV) build dist *.egg-info .coverage .coverage.* .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BENCH_INSTALLED): $(INSTALLED) requirements-bench.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements-bench.lock
	@touch $@

$(INSTALLED): requirements.lock setup.py
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("att needs Python 3.11 or later, this is %d.%d; try: make PYTHON=python3.12" % sys.version_info[:2])'
	@echo "Installing into $(VENV), once; it takes about half a minute."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --editable .
	@touch $@
