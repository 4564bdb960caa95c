# Two commands, each on a fresh machine with Python 3.11+ and make:
#   make demo   trains a search agent on two CPU cores in three to five minutes and prints what it learned
#   make test   runs the tests
# PYTHON=python3.12 picks another interpreter, VENV=... another place for the environment.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RUN ?= runs/hops_cpu

.PHONY: demo test lint docs docs-serve clean

demo: $(VENV)/installed
	$(BIN)/a2tgpo train recipes/hops_cpu.yaml --output_dir $(RUN)
	$(BIN)/a2tgpo report $(RUN) -o $(RUN)/report.html

test: $(VENV)/installed
	$(BIN)/python -m pytest -n auto --dist loadfile

lint: $(VENV)/installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

docs: $(VENV)/installed
	$(BIN)/mkdocs build --strict --quiet

docs-serve: $(VENV)/installed
	$(BIN)/mkdocs serve

# torch comes first and pinned, so that no other package chooses its build. Where pip finds no CPU build of that version it
# takes the one with CUDA libraries, which is larger and runs on the CPU as well.
$(VENV)/installed: pyproject.toml constraints/cpu.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints/cpu.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints/cpu.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) site

# verl wants older transformers than TRL does, and so an environment of its own.
VENV_VERL ?= .venv-verl

.PHONY: test-verl
test-verl: $(VENV_VERL)/installed
	$(VENV_VERL)/bin/python -m pytest tests/verl

$(VENV_VERL)/installed: pyproject.toml constraints/verl.txt
	$(PYTHON) -m venv $(VENV_VERL)
	$(VENV_VERL)/bin/python -m pip install --quiet --constraint constraints/verl.txt torch
	$(VENV_VERL)/bin/python -m pip install --quiet --constraint constraints/verl.txt --editable '.[verl]' pytest pytest-timeout hypothesis
	touch $@
