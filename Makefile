# Four commands: make compare, make test, make check, make bench. Each sets up what it needs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
SOURCES := $(wildcard src tests scripts benchmarks)

.PHONY: compare test check bench toolchain linux-objects clean

compare: $(STAMP) toolchain
	$(BIN)/fullframe compare

test: $(STAMP) toolchain
	$(BIN)/python -m pytest -n auto

check: $(STAMP)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP) toolchain
	$(BIN)/python -m benchmarks

# fullframe looks for a toolchain itself; a machine without one gets zig's, in a wheel. No stamp:
# looking takes a tenth of a second, and a toolchain can come and go.
toolchain: $(STAMP)
	@$(BIN)/python -m fullframe.toolchain --quiet || $(PIP_INSTALL) -r requirements/zig.txt

# Linux 6.1's own entry code, for `fullframe entry prove` and its tests; never committed.
linux-objects:
	scripts/linux-objects.sh build/linux $(WHOLE)

$(STAMP): pyproject.toml requirements/dev.txt
	@$(PYTHON) -c 'import ensurepip, venv' || { \
	  echo 'make: $(PYTHON) has no venv; next: apt-get install python3-venv' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) -r requirements/dev.txt
	$(PIP_INSTALL) --no-deps --no-build-isolation -e .
	touch $@

clean:
	rm -rf $(VENV) build dist
