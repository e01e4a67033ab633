# make book          install, build strictly, serve on this machine and open it
# make book OPEN=0   install and build, nothing else
# make test          install, then lint, types, library tests, book tests, chapters
# make lint          the first part of make test: style, spelling, types
# make lowest        the library tests with every dependency at its lower bound
# make coverage      how much of the library the library tests reach
# make mutants FILE=metrics   change expressions one by one, and see who notices
# make clean         remove what was built (make distclean: the environment too)

PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
STAMP  := $(VENV)/.installed
OPEN   ?= 1
PORT   ?= 8000
JOBS   ?= 2

# Threads that wait give their core to others: on a busy machine that is ten times faster.
export OMP_WAIT_POLICY ?= PASSIVE

.DEFAULT_GOAL := help
.PHONY: help install book test lint lowest coverage mutants chapters index vendor clean \
  distclean

help:
	@sed -n 's/^# //p' Makefile

# The stamp makes the second run quick: it is older than its sources only when the
# pinned environment changed.
$(STAMP): requirements.txt pyproject.toml ebmbook/pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else \
	  f"Python 3.11 or newer is needed, and $(PYTHON) is {v[0]}.{v[1]}. " \
	  "Name another one: make book PYTHON=python3.12")'
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(PY) -m pip install --quiet --disable-pip-version-check \
	  --no-deps --no-build-isolation --editable . --editable ./ebmbook
	@touch $(STAMP)

install: $(STAMP)

vendor: $(STAMP)
	@$(PY) tools/vendor_assets.py

# A failed strict build forgets its cache: pages that are not read again do not warn
# again, and the next build would pass without anything having been repaired.
book: vendor
	@$(VENV)/bin/jupyter-book build -W -n --keep-going . || { rm -rf _build; \
	  echo "The book was not built: see the warnings above."; exit 1; }
	@if [ "$(OPEN)" != 0 ]; then $(PY) tools/serve_book.py --port $(PORT); \
	  else echo "Built: _build/html/index.html"; fi

PYTEST := $(PY) -m pytest -q -n $(JOBS) --dist loadfile

lint: $(STAMP)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m codespell_lib
	$(PY) -m mypy

test: lint
	OMP_NUM_THREADS=1 $(PYTEST) tests/library tests/processes
	OMP_NUM_THREADS=1 $(PYTEST) tests/book tests/browser
	$(PYTEST) --nbval --durations=5 notebooks

lowest: $(STAMP)
	nice $(PY) tools/lowest_versions.py

coverage: $(STAMP)
	OMP_NUM_THREADS=1 $(PY) -m coverage run -m pytest -q tests/library tests/processes
	$(PY) -m coverage combine --quiet
	$(PY) -m coverage report

mutants: $(STAMP)
	$(PY) -m pip install --quiet --disable-pip-version-check mutmut==3.8.1
	$(PY) tools/mutants.py $(FILE)

# The index of results/, after new runs.
index: $(STAMP)
	$(PY) tools/index_results.py

# Run the chapters and store their outputs (for authors).
chapters: $(STAMP)
	$(PY) tools/run_chapter.py notebooks/*.ipynb

clean:
	rm -rf _build build *.egg-info .pytest_cache .ruff_cache .mypy_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV) book/_static/vendor tests/vendor
