"""Help, version and public names say what is true, and load no library that takes seconds."""

import subprocess
import sys

import pytest

import sparsight
from sparsight.cli import choices
from sparsight.cli.method import cli_name
from sparsight.evaluate import DENSE
from sparsight.evaluate.settings import CONTROLS, DTYPES
from sparsight.evaluate.tasks import TASKS
from sparsight.methods import methods
from sparsight.models.mini_gemini.templates import TEMPLATES


def test_help_names_what_there_is():
    assert [name.strip() for name in choices.METHOD_NAMES.split(",")] == [
        cli_name(method) for method in methods()
    ]
    assert set(choices.METHODS.split(",")) <= {DENSE.name, *choices.METHOD_NAMES.split(", ")}
    assert ", ".join(TEMPLATES) == choices.CHATS
    assert set(choices.TASK_METHODS.split(",")) <= {DENSE.name, *choices.METHOD_NAMES.split(", ")}
    assert ", ".join(TASKS) == choices.TASKS
    assert ", ".join(DTYPES) == choices.DTYPES
    assert ", ".join(CONTROLS) == choices.CONTROLS


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["ask", "--help"],
        ["run", "--help"],
        ["eval", "--help"],
        ["serve", "--help"],
        ["--version"],
    ],
    ids=" ".join,
)
def test_help_waits_for_no_library(words):
    code = f"import sys; sys.argv[1:] = {words}\nfrom sparsight.cli import main\n"
    code += "try: main()\nfinally: print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    slow = {"torch", "transformers", "fastapi", "uvicorn", "httpx", "prometheus_client"}
    slow |= {"pyarrow", "pypdfium2", "av", "ray"}
    assert not slow & set(done.stdout.splitlines()[-1].split())


# transformers and torch before and after all names of the package are imported in several ways
IMPORTS = """
import torch, transformers.modeling_utils as modeling, transformers.cache_utils as caches

def look():
    classes = [*vars(caches.DynamicLayer).items(), *vars(torch.nn.Module).items()]
    kernels = sorted(modeling.ALL_ATTENTION_FUNCTIONS.valid_keys())
    return classes, kernels, torch.get_num_threads(), torch.initial_seed()

before = look()
import sparsight.sparsify, sparsight
from sparsight import *
sparsify.__call__
sparsight.methods.Random
assert sparsight.sparsify is sparsify
assert sparsify.__module__ == "sparsight.sparsify"
assert look() == before, "the import changed transformers or torch"
print(dir(sparsight))
"""


def test_the_package_has_its_names_and_nothing_happens_on_import():
    command = [sys.executable, "-c", IMPORTS]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "Chat" in done.stdout
    with pytest.raises(AttributeError, match="'nothing'"):
        sparsight.nothing  # noqa: B018
