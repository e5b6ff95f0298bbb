# The distribution's python3, because it has dbm.gnu for the default popmap.
PYTHON = /usr/bin/python3
# Arguments for pytest: make test ARGS="-k imap"
ARGS =

VENV := .venv
PIP  := $(VENV)/bin/pip -qq --disable-pip-version-check install --editable

.PHONY: help build demo run test test-fast testpackages testsystems testcontainer lint bench manual
.PHONY: deb rpm clean

help:   ## List all targets
	@sed -n 's/^\([a-z-]*\): .*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 21

build: $(VENV)/built  ## Install missing packages and create .venv, which bin/* run in

demo: build  ## Show two users log in over three protocols to two real servers
	@$(VENV)/bin/python3 -m tests.support.demo

run: build  ## Keep the demo running until Ctrl-C, for your own mail clients
	@$(VENV)/bin/python3 -m tests.support.demo --stay

test: $(VENV)/built-for-test  ## Run all tests; ARGS="-k imap" is passed to pytest
	@tests/support/packages test
	@$(VENV)/bin/pytest --ignore tests/packaging --ignore tests/container $(ARGS)

test-fast: $(VENV)/built-for-test  ## Run unit tests, document tests and quick system tests
	@tests/support/packages test
	@$(VENV)/bin/pytest -m "not slow" tests/unit tests/docs \
		tests/system/test_lookup.py tests/system/test_capabilities.py $(ARGS)

testpackages: $(VENV)/built-for-test  ## Build, install, test and remove both packages (as root)
	@tests/support/packages deb
	@tests/support/packages rpm
	@$(VENV)/bin/pytest tests/packaging $(ARGS)

testsystems: $(VENV)/built-for-test  ## Try demo, unit tests and .deb on Debian 12, 13 and 14 (as root)
	@tests/support/packages systems
	@$(VENV)/bin/python3 -m tests.systems $(ARGS)

testcontainer: $(VENV)/built-for-test  ## Build and test the container image, with podman (as root)
	@tests/support/packages container
	@$(VENV)/bin/pytest tests/container $(ARGS)

lint: $(VENV)/built-for-test  ## Check style, formatting and types
	@$(VENV)/bin/ruff check
	@$(VENV)/bin/ruff format --check
	@$(VENV)/bin/mypy

bench: $(VENV)/built-for-test  ## Measure the cost of logins, sessions, data transfer and startup
	@$(VENV)/bin/python3 -m tests.bench

manual: build  ## Update manual and sample configuration from the option table
	@$(VENV)/bin/python3 -m perdition.options.manual man/perdition.8 packaging/etc/perdition/perdition.conf

deb:  ## Build the Debian packages from the current commit in dist/
	@tests/support/packages deb
	@packaging/deb/build dist

rpm:  ## Build the RPMs from the current commit in dist/
	@tests/support/packages rpm
	@packaging/rpm/build dist

clean:  ## Remove all generated files
	rm -rf $(VENV) dist .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

$(VENV)/built: pyproject.toml
	@tests/support/packages build
	@$(PYTHON) tests/support/check_python.py
	@echo "Building $(VENV) on $(PYTHON)"
	@$(PYTHON) -m venv --clear --system-site-packages $(VENV)
	@$(PIP) .
	@touch $@

$(VENV)/built-for-test: $(VENV)/built
	@$(PIP) '.[test]'
	@touch $@
