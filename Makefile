# The distribution's own python3: it has dbm.gnu, which the default popmap is made of.
PYTHON = /usr/bin/python3
# What pytest is told: make test ARGS="-k imap"
ARGS =

VENV := .venv
PIP  := $(VENV)/bin/pip -qq --disable-pip-version-check install --editable

.PHONY: help build demo run test testpackages testsystems lint bench manual deb rpm clean

help:   ## List what can be made
	@sed -n 's/^\([a-z]*\): .*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 21

build: $(VENV)/built  ## Install what is missing, then make .venv for bin/* to run in

demo: build  ## Watch two users log in over three protocols to two real servers
	@$(VENV)/bin/python3 -m tests.support.demo

run: build  ## The same, then stay until Ctrl-C for clients of your own
	@$(VENV)/bin/python3 -m tests.support.demo --stay

test: $(VENV)/built-for-test  ## Run the tests; ARGS="-k imap" reaches pytest
	@tests/support/packages test
	@$(VENV)/bin/pytest --ignore tests/packaging $(ARGS)

testpackages: $(VENV)/built-for-test  ## Build both packages, install, use and remove them (root)
	@tests/support/packages deb
	@tests/support/packages rpm
	@$(VENV)/bin/pytest tests/packaging $(ARGS)

testsystems: $(VENV)/built-for-test  ## Try demo, unit tests and .deb on Debian 12, 13 and 14 (root)
	@tests/support/packages systems
	@$(VENV)/bin/python3 -m tests.systems $(ARGS)

lint: $(VENV)/built-for-test  ## Check style, layout and types
	@$(VENV)/bin/ruff check
	@$(VENV)/bin/ruff format --check
	@$(VENV)/bin/mypy

bench: $(VENV)/built-for-test  ## Measure what logins, sessions, gigabytes and starts cost
	@$(VENV)/bin/python3 -m tests.bench

manual: build  ## Write manual and sample configuration anew from the option table
	@$(VENV)/bin/python3 -m perdition.manual man/perdition.8 packaging/etc/perdition/perdition.conf

deb:  ## Build the Debian package of what is committed, in dist/
	@tests/support/packages deb
	@packaging/deb/build dist

rpm:  ## Build the RPM of what is committed, in dist/
	@tests/support/packages rpm
	@packaging/rpm/build dist

clean:  ## Remove everything that was made
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
