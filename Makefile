# make demo   install, then train and detect on drawn fibres
# make test   install with the test tools, then run the tests (in a virtual screen where there is none)
# make docs   install with the documentation tools, then build the site

PYTHON ?= python3
VENV ?= .venv

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# the tests open windows
ifeq ($(shell uname -s)$(DISPLAY),Linux)
SCREEN := xvfb-run -a
endif

.PHONY: help demo test lint docs package clean

help:
	@echo "make demo     install into $(VENV), then train and detect on drawn fibres"
	@echo "make test     install the test tools too, then run the tests"
	@echo "make lint     check style, formatting, types, spelling and pyproject.toml"
	@echo "make docs     build the documentation into site/; a broken link is an error"
	@echo "make package  build the sdist and the wheel into dist/ and check them"
	@echo "make clean    remove caches, the site and built packages; keep $(VENV) and all results"
	@echo
	@echo "PYTHON=python3.12 make ... takes another Python (3.11 or later) for a new $(VENV)"

demo: $(VENV)/.installed
	$(VENV)/bin/napari-uflow demo

test: $(VENV)/.installed-test
	tools/gui_packages.sh
	$(SCREEN) $(VENV)/bin/python -m pytest $(ARGS)

lint: $(VENV)/.installed-test
	$(VENV)/bin/typos
	$(VENV)/bin/validate-pyproject pyproject.toml
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

docs: $(VENV)/.installed-docs
	$(VENV)/bin/python -m mkdocs build --strict

package: $(VENV)/.installed-test
	rm -rf dist
	$(VENV)/bin/python -m build
	$(VENV)/bin/twine check --strict dist/*

clean:
	rm -rf build dist site .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp is newer than these two files when the installation is up to date. The package is installed in place, so a
# change of its sources needs nothing; the manifest is copied beside it, so a change of the manifest does.
$(VENV)/.installed: pyproject.toml napari.yaml | $(VENV)/bin/pip
	$(VENV)/bin/python -m pip install -e .
	@touch $@

$(VENV)/.installed-test: pyproject.toml napari.yaml | $(VENV)/bin/pip
	$(VENV)/bin/python -m pip install -e '.[test,dev]'
	@touch $(VENV)/.installed $@

$(VENV)/.installed-docs: pyproject.toml napari.yaml | $(VENV)/bin/pip
	$(VENV)/bin/python -m pip install -e '.[docs]'
	@touch $(VENV)/.installed $@

$(VENV)/bin/pip:
	@command -v $(PYTHON) >/dev/null || { \
	    echo "There is no $(PYTHON). Install Python 3.11 or later (Debian: apt-get install python3 python3-venv)," \
	        "or name another: make PYTHON=/path/to/python ..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "napari-uflow needs Python 3.11 or later; $(PYTHON) is $$($(PYTHON) -V 2>&1)." \
	        "Name another: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo "$(PYTHON) cannot make a virtual environment. Install its venv package" \
	        "(Debian: apt-get install python3-venv)." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
