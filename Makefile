# make demo     install, then all steps, from drawing birds to the report: 8 to 12 minutes on 2 cores after the install
# make test     install, then the tests (not those marked slow)
# make chaos    install, then twelve ways to interrupt a job of 4 ranks on a Slurm brought up here; long (docs/slurm.md)
# make check    ruff, mypy, import-linter
# make install  .venv with the versions of requirements.lock, and `fgvc` in it; done once, again when the lock changes

BIN := .venv/bin
# Not compiled by pip: what is never imported, most of it, would take half of the install. COMPILED imports the rest once.
PIP_INSTALL = $(BIN)/pip install --quiet --disable-pip-version-check --no-compile
SYSTEM_PACKAGES := $(shell sed '/^\#/d' slurm/packages.txt tests/packages.txt)
SUITABLE := import sys, ensurepip, venv; sys.exit(not (3, 11) <= sys.version_info < (3, 14))
COMPILED := import importlib, pkgutil; [importlib.import_module(one.name) for top in ("jobs", "fgvc", "shards", "slurm") \
    for one in pkgutil.walk_packages(importlib.import_module(top).__path__, top + ".")]
export DEBIAN_FRONTEND := noninteractive
# Set in many containers; with it each start would compile torch again, 5 s of a slow core.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: install demo test chaos check
install: .venv/system .venv/installed

.venv/installed: requirements.lock pyproject.toml | .venv/bin/python
	$(PIP_INSTALL) -r requirements.lock
	@# sahi and mmcv-lite ask for opencv-python, whose cv2 needs libGL; the headless one, put on top, does not.
	$(PIP_INSTALL) --no-deps --force-reinstall \
	    $$(grep '^opencv-python-headless==' requirements.lock)
	@# compat: a path, where setuptools' own way has every start of Python import a finder.
	$(PIP_INSTALL) --no-deps --no-build-isolation \
	    --config-settings editable_mode=compat --editable .
	$(BIN)/python -W ignore -c '$(COMPILED)' >/dev/null
	@touch $@

.venv/bin/python:
	@for python in python3 python3.13 python3.12 python3.11; do \
	    if $$python -c '$(SUITABLE)' 2>/dev/null; then exec $$python -m venv .venv; fi; \
	done; echo 'no python3 from 3.11 to 3.13 with venv here; on Debian: apt-get install python3-venv'; exit 1

# Tests bring up a real Slurm and open pages in a browser. Without these they are skipped, and so is nothing else.
.venv/system: slurm/packages.txt tests/packages.txt | .venv/bin/python
	@if dpkg -s $(SYSTEM_PACKAGES) >/dev/null 2>&1; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    { apt-get update -qq && apt-get install -qq -y --no-install-recommends $(SYSTEM_PACKAGES) >/dev/null; } || \
	    echo 'note: these could not be installed, and tests that need them are skipped: $(SYSTEM_PACKAGES)'; \
	else \
	    echo 'note: tests of Slurm and in a browser need, from an administrator: apt-get install $(SYSTEM_PACKAGES)'; \
	fi
	@touch $@

demo: install
	$(BIN)/fgvc pipeline configs/pipeline/demo.yaml
	@echo 'Open runs/report/demo/report.html in a browser. All runs: $(BIN)/fgvc status pipeline/demo'

test: install
	$(BIN)/python -m pytest -n 2 --dist loadfile  # two at a time: much of a test is waiting for processes and daemons

chaos: install
	OMP_NUM_THREADS=1 $(BIN)/python tests/helpers/chaos.py

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
