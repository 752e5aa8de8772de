# The two commands of a newcomer: make book, make test. Both set up what they need.
.DEFAULT_GOAL := help
SHELL := /bin/bash

PYTHON  ?= python3
VENV    ?= .venv
BIN     := $(VENV)/bin
PROFILE ?= quick
SOURCE  ?= phantom
FOLD    ?= 0
RUN     ?=
# What kernels and TensorFlow say of themselves while the book is built.
CHATTER := IPKernelApp|absl::InitializeLog|cudart_stub|cuda_platform|^$$

export TF_CPP_MIN_LOG_LEVEL ?= 3
# Snakemake's options, for example: make graph GRAPH='--cores 4 --config profile=laptop'
GRAPH ?= --cores 2

.PHONY: help env graph backends bench book ct print test test-all fold folds check lint clean cohort format

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*##/ { printf "%-12s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo; echo 'fold and folds take PROFILE=quick (or another file of profiles/) SOURCE=phantom|lidc_slices|luna16|idc [RUN=name];'
	@echo 'real CT is found through NODULEBOOK_DATA=/folder. FOLD=0 to 9.'

env: $(BIN)/.installed ## the environment, in .venv (a few minutes, once)

PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

$(BIN)/.installed: requirements.txt requirements-uv.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'Python 3.11 or newer is needed; say which with: make PYTHON=/path/to/python3.11 ...'; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo 'This Python has no venv module; on Debian and Ubuntu: apt-get install python3-venv'; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	  { echo 'The environment $(VENV) cannot be made for the reason above; VENV=/another/folder puts it elsewhere'; exit 1; }
	@echo 'Installing the pinned packages into $(VENV) (about 2.5 GB, a few minutes) ...'
	@$(PIP) --require-hashes -r requirements-uv.txt || echo 'No uv for this machine: pip installs, which takes longer.'
	@index=$$($(BIN)/python -m pip config get global.index-url 2>/dev/null) && export UV_DEFAULT_INDEX="$$index"; \
	  { [ -x $(BIN)/uv ] && $(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode --require-hashes -r requirements.txt; } || \
	  { echo 'Installing by pip ...'; $(PIP) --require-hashes -r requirements.txt; } || \
	  { echo 'The packages cannot be installed for the reason above (network, disk or a mirror); make env goes on from here'; exit 1; }
	@$(PIP) --no-deps --no-build-isolation -e .
	@touch $@

# CT=1: two scans of LIDC-IDRI are fetched once (250 MB, no login), and the pages show real CT.
CT      ?=
CT_DATA := $(CURDIR)/data/downloads/lidc
ifneq ($(CT),)
export NODULEBOOK_DATA ?= $(CT_DATA)
endif

ct: env ## fetch two scans of LIDC-IDRI for the pages (make book CT=1); checked, kept in data/downloads
	@mkdir -p "$(CT_DATA)"
	@{ $(BIN)/python -c 'import idc_index' 2>/dev/null || $(PIP) idc-index; } && \
	  $(BIN)/nodulebook get lidc --patients LIDC-IDRI-0001,LIDC-IDRI-0013 --to "$(CT_DATA)" || \
	  echo 'The scans cannot be fetched for the reason above: the pages show the phantom, and say so.'

book: env $(if $(CT),ct) ## build the book; where no run is committed, run the quick profile on the phantom first
	@$(BIN)/nodulebook prepare
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/jupyter-book build . --quiet 2> >(grep -vE "$(CHATTER)" >&2)
	@echo; echo 'The book: $(CURDIR)/_build/html/index.html'

# Chromium or Chrome, where there is one: it makes the PDF.
BROWSER := $(firstword $(NODULEBOOK_BROWSER) $(foreach name,chromium chromium-browser google-chrome google-chrome-stable chrome,$(shell command -v $(name) 2>/dev/null)))

print: book ## the whole book as one page and, where Chromium or Chrome is, as a PDF
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/jupyter-book build . --builder singlehtml --quiet 2> >(grep -vE "$(CHATTER)" >&2)
	@$(if $(BROWSER),$(BROWSER) --headless --no-sandbox --disable-gpu --virtual-time-budget=120000 \
	  --no-pdf-header-footer --print-to-pdf=_build/singlehtml/book.pdf \
	  "file://$(CURDIR)/_build/singlehtml/index.html" 2>/dev/null)
	@echo; echo 'To print: $(CURDIR)/_build/singlehtml/index.html $(if $(BROWSER),and book.pdf beside it)'

# A file to a worker (its fixtures are made once), the longest first.
# One BLAS thread per worker: threads of two workers on the same cores wait for one another.
PYTEST := OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadscope --no-loadscope-reorder

test: env ## the quick tests (some minutes)
	@$(PYTEST) -m 'not slow' tests

test-all: env ## all tests: also those that train folds, run the graph and build books
	@$(PYTEST) tests/study/experiments/test_runs.py tests/study/experiments/test_workflow.py tests

fold: env ## train and test one fold (FOLD=3), by papermill
	@$(BIN)/nodulebook fold --fold $(FOLD) --profile $(PROFILE) --source $(SOURCE) --run "$(RUN)"

folds: env ## train and test all ten folds; done ones are skipped, stopped ones go on
	@$(BIN)/nodulebook folds --profile $(PROFILE) --source $(SOURCE) --run "$(RUN)"

graph: env ## everything from cohort to book as one graph (Snakemake); done folds are skipped
	@$(BIN)/snakemake -s workflow/Snakefile $(GRAPH)

backends: env ## add PyTorch (about 3 GB): its tests and benchmark then run too
	@$(PIP) --require-hashes -r requirements-torch.txt

bench: env ## how fast the training step is, beside plain PyTorch (needs make backends)
	@$(BIN)/python benchmarks/training_step.py

cohort: env ## write data/*.csv again from the readers' annotations
	@$(BIN)/nodulebook cohort

check: env ## all a release must pass: style, build, links, spelling, looks, numbers (some minutes)
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/nodulebook check

lint: env ## style and types of the code
	@$(BIN)/nodulebook check --only lint

format: env ## put the code in order
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

clean: ## remove what is built, not what was trained or installed
	@rm -rf _build .pytest_cache .mypy_cache .ruff_cache .hypothesis
