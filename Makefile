# Every target works on a fresh checkout: it makes the environment that it needs. `make` alone lists them.

VENV := .venv
PYTHON_RUN := $(VENV)/bin/python
SOURCES := gateway discovery hms_etl tests benchmarks examples $(shell grep -lE '^\#!.*python' scripts/*)
TYPED := gateway discovery tests
# Configurations that ship with the repository; each must pass `gateway check`.
CONFIGS = $(wildcard gateway/demo/gateway.yaml examples/*.yaml)
PYTEST_ARGS ?=
# What `make faults` runs; a file or a folder.
FAULTS ?= tests/conformance tests/faults
# How long `make fuzz` takes for each target, how many it runs at once, and which; all when empty.
FUZZ_SECONDS ?= 25
FUZZ_JOBS ?= 1
FUZZ ?=

.DEFAULT_GOAL := help
.PHONY: help run test faults fuzz check format bench lock compose-up compose-down k8s-validate clean

help: ## list the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z0-9-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(VENV)/.run ## start the demo: store, sample services, gateway on 127.0.0.1:8080, admin on 127.0.0.1:9080
	$(PYTHON_RUN) -m gateway demo

test: $(VENV)/.dev ## run every test on real parts (PYTEST_ARGS=... goes to pytest)
	scripts/install-test-parts
	$(PYTHON_RUN) -m pytest $(PYTEST_ARGS)

faults: $(VENV)/.dev ## run the conformance and fault suites in their long form and write the measured tables (FAULTS=FILE for a part)
	scripts/install-test-parts
	GATEWAY_FAULTS=long $(PYTHON_RUN) -m pytest $(FAULTS) $(PYTEST_ARGS)
	scripts/reliability-table

fuzz: $(VENV)/.fuzz ## look for inputs that break a promise (FUZZ_SECONDS=25 for each target, FUZZ=TARGET for one), and have the admin API answer anything
	scripts/install-test-parts
	$(PYTHON_RUN) -m tests.fuzz.run --seconds $(FUZZ_SECONDS) --jobs $(FUZZ_JOBS) $(FUZZ)
	GATEWAY_FUZZ=long $(PYTHON_RUN) -m pytest tests/fuzz/test_admin_api.py $(PYTEST_ARGS)

check: $(VENV)/.dev ## format, lint, types, security lint, lock files, known vulnerabilities, shipped configurations, deployment files
	$(VENV)/bin/ruff format --check $(SOURCES)
	$(VENV)/bin/ruff check $(SOURCES)
	$(VENV)/bin/mypy $(TYPED)
	$(VENV)/bin/bandit --quiet --configfile pyproject.toml --recursive gateway discovery hms_etl
	scripts/lock --check
	scripts/audit-dependencies
	@for config in $(CONFIGS); do echo "gateway check $$config"; $(PYTHON_RUN) -m gateway check "$$config" || exit 1; done
	@if [ -x scripts/validate-deployment ]; then echo scripts/validate-deployment; scripts/validate-deployment; fi

format: $(VENV)/.dev ## format the sources and apply the linter's safe fixes
	$(VENV)/bin/ruff check --fix $(SOURCES)
	$(VENV)/bin/ruff format $(SOURCES)

bench: $(VENV)/.dev ## measure side by side with nginx, HAProxy, Envoy and Traefik
	scripts/install-bench-peers
	$(PYTHON_RUN) -m benchmarks.sidebyside

lock: $(VENV)/.dev ## write the lock files anew from pyproject.toml
	scripts/lock

compose-up: ## start the whole stack in containers: two gateways, Redis, Consul, services, collector
	docker compose up --detach --wait --build

compose-down: ## stop that stack and remove its volumes
	docker compose down --volumes

k8s-validate: $(VENV)/.dev ## render the Kubernetes manifests and check them, the compose file and their configurations
	scripts/validate-deployment

clean: ## remove the environment and every cache
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.run: requirements.lock requirements-build.lock pyproject.toml scripts/make-environment
	scripts/make-environment run
	@touch $@

# The development lock has all of the other two.
$(VENV)/.dev: requirements-dev.lock pyproject.toml scripts/make-environment
	scripts/make-environment dev
	@touch $@ $(VENV)/.run

$(VENV)/.fuzz: $(VENV)/.dev requirements-fuzz.lock
	scripts/make-environment fuzz
	@touch $@
