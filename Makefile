# make demo   set up, prepare the embedded model, answer one question dense and sparse, draw what was kept
# make test   set up, check style and types, run the tests
# make oldest run the tests on the oldest transformers that is supported

PYTHON ?= python3
OLDEST ?= 5.17.0
QUESTION ?= what color is the shape?
IMAGE ?= examples/triangle.png

.PHONY: demo test oldest lint table clean

demo: .venv/ready
	.venv/bin/sparsight prepare
	.venv/bin/sparsight ask $(IMAGE) "$(QUESTION)" --retain 64 --picture demo.png

test: lint
	.venv/bin/python -m pytest

oldest: .venv-oldest/ready
	.venv-oldest/bin/python -m pytest

lint: .venv/ready
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy

table: .venv/ready
	.venv/bin/python benchmarks/table.py

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet -c constraints.txt -e ".[embedded,dev]"
	touch $@

.venv-oldest/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet -c constraints.txt "transformers==$(OLDEST)" -e ".[embedded,dev]"
	touch $@

clean:
	rm -rf .venv .venv-oldest .pytest_cache .mypy_cache .ruff_cache demo.png
