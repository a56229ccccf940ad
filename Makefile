# make demo   set up, prepare the embedded model, ask about a photograph dense and sparse, draw what was kept
# make test   set up, check style and types, run the tests
# make oldest run the tests of what touches transformers on the oldest release that is supported
# make newest run the same on the newest release in the registry, also beyond the bound in pyproject.toml

PYTHON ?= python3
OLDEST ?= 5.17.0
QUESTION ?= What color is the fish?
IMAGE ?= examples/scene.png

# the rooms that touch transformers; the others see no release of it
HOSTING = tests/engine tests/families tests/methods tests/test_chat.py

.PHONY: demo test oldest newest lint table clean

demo: .venv/ready
	.venv/bin/sparsight prepare
	.venv/bin/sparsight ask $(IMAGE) "$(QUESTION)" --retain 64 --picture demo.png

test: lint
	.venv/bin/python -m pytest

oldest: .venv-oldest/ready
	.venv-oldest/bin/python -m pytest $(HOSTING)

newest: .venv-newest/ready
	.venv-newest/bin/python -m pip install --quiet --upgrade transformers
	.venv-newest/bin/python -m pip list 2>&1 | grep -i "^transformers "
	.venv-newest/bin/python -m pytest -W "ignore:transformers .* is newer:UserWarning" $(HOSTING)

lint: .venv/ready
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy

table: .venv/ready
	.venv/bin/python benchmarks/table.py

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet -c constraints.txt -e ".[embedded,serve,video,dev]"
	touch $@

# transformers brings its own set along, so only the other direct dependencies stay pinned
.venv-oldest/ready: RELEASE = transformers==$(OLDEST)
.venv-newest/ready: RELEASE = transformers
.venv-oldest/ready .venv-newest/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(@D)
	sed -e '/^# What those bring/,$$d' -e '/^transformers==/d' constraints.txt > $(@D)/constraints.txt
	$(@D)/bin/python -m pip install --quiet -c $(@D)/constraints.txt "$(RELEASE)" -e ".[embedded,dev]"
	touch $@

clean:
	rm -rf .venv .venv-oldest .venv-newest .pytest_cache .mypy_cache .ruff_cache demo.png
