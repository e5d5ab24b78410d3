# Set-up and the few commands everybody needs. `make help` lists them.
PYTHON ?= python3
SCALE ?= paper
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# The papers' tables: those of conf/table with cells of a paper.
PAPERS := $(sort $(patsubst conf/table/paper/%.csv,%,$(wildcard conf/table/paper/*.csv)))

.PHONY: help venv demo tables test test-slow test-browser test-slurm test-gpu gpu-check check format bench docs docs-tables

help:  ## list the targets
	@grep -hE '^[a-z%-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 16

venv: $(STAMP)  ## create .venv and install dmq with the tested versions

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e '.[joblib,slurm,tensorboard,text,export,openvino,onnx,nncf,dev]'
	@touch $@

demo: $(STAMP)  ## the main job at W3A8 on the embedded model: a table and images in a few minutes
	$(BIN)/dmq table demo

table-%: $(STAMP)  ## fill the table conf/table/%.yaml, going on where it stopped; of a paper's table SCALE=digits|paper
	$(BIN)/dmq table $* scale=$(SCALE)

tables: $(STAMP)  ## all tables of the papers on the embedded models (hours, going on where it stopped), and their overview
	failed=0; $(MAKE) -k SCALE=digits $(addprefix table-,$(PAPERS)) || failed=1; \
	$(BIN)/python -m dmq_cli.cli.commands.tables --overview && exit $$failed

docs: $(STAMP)  ## build the site of docs/ into site/, warnings are errors
	$(BIN)/zensical build --clean --strict

docs-tables: $(STAMP)  ## make the generated parts of README.md and docs/ anew: tables, docstrings, files of conf/
	$(BIN)/python -m dmq_cli.cli.commands.tables --docs

test: $(STAMP)  ## the fast tests
	$(BIN)/python -m pytest -q -n 2 --dist worksteal

test-slow: $(STAMP)  ## the tests that take minutes
	$(BIN)/python -m pytest -q -m slow

test-browser: $(STAMP)  ## open the pages of reports in chromium, where it is installed
	$(BIN)/python -m pytest -q -m browser tests/reports -rs

test-slurm: $(STAMP)  ## the tests that need Slurm, where `sinfo` answers
	$(BIN)/python -m pytest -q -m slurm tests/stages/test_launchers.py -rs

check: $(STAMP)  ## ruff, mypy and the documentation
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(MAKE) docs

format: $(STAMP)  ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)  ## print the speed ratios
	$(BIN)/python -m pytest -q -s benchmarks --override-ini testpaths=benchmarks --benchmark-only

test-gpu: $(STAMP)  ## the tests that need CUDA
	$(BIN)/python -m pytest -q -m gpu -rs

gpu-check: $(STAMP)  ## compare CUDA with the CPU, and print how fast it is; DEVICE=cpu rehearses it without
	DEVICE=$(DEVICE) $(BIN)/python -m benchmarks.gpu_check
