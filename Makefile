# make book · make test · make test-fast · make serve · make sync · make states · make colab · make lint   (README.md explains)
PYTHON ?= python3
DATASET ?= planted
BIN := .venv/bin
SITE := _build/$(DATASET)/_build/html/index.html
# Chapters are single-threaded, so that their numbers repeat; two are executed side by side.
export OMP_NUM_THREADS ?= 1

.PHONY: book test test-fast serve sync check states colab lint install browser clean

install: .venv/installed
.venv/installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	touch $@

book: install   ## execute the chapters on DATASET and build the site
	$(BIN)/python book/_ext/chapters.py build --dataset $(DATASET) $(ARGS)
	@echo "open file://$(CURDIR)/$(SITE)   or: make serve"

serve: install  ## serve the built site on http://localhost:8000
	$(BIN)/python -m http.server --directory $(dir $(SITE)) --bind 127.0.0.1 8000

sync: install   ## execute book/*.md into notebooks/*.ipynb (only what changed; ARGS=--all for all)
	$(BIN)/python book/_ext/chapters.py sync $(ARGS)

check: install  ## are notebooks/ in step with book/, vaecf_lib/ and the lock file?
	$(BIN)/python book/_ext/chapters.py check

states: install ## retrain the grids of states that the sliders show, or some: GRIDS=name (an hour for all)
	$(BIN)/vaecf states $(GRIDS)

colab: check    ## pack library, notebooks and results into _build/vaecf-colab.zip, to upload to Colab
	$(BIN)/python book/_ext/colab.py

browser: install
	@command -v chromium || command -v chromium-browser || command -v google-chrome \
	  || $(BIN)/python -m playwright install chromium

test: install browser  ## the library's tests, then the book's: notebooks, links, build, browser
	$(BIN)/python -m pytest -n 2 --dist loadgroup --no-loadscope-reorder $(ARGS)

test-fast: install  ## the library's tests without the slow ones: a minute
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m "not slow and not book" $(ARGS)

lint: install
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .

clean:
	rm -rf _build
