"""Help, version and the package's names: what they say is true, and they wait for no library that takes seconds."""

import subprocess
import sys

import pytest

import sparsight
from sparsight.cli import choices
from sparsight.cli.method import cli_name
from sparsight.evaluate import DENSE
from sparsight.evaluate.settings import CONTROLS, DTYPES
from sparsight.methods import methods


def test_help_names_what_there_is():
    assert [name.strip() for name in choices.METHOD_NAMES.split(",")] == [
        cli_name(method) for method in methods()
    ]
    assert set(choices.METHODS.split(",")) <= {DENSE.name, *choices.METHOD_NAMES.split(", ")}
    assert ", ".join(DTYPES) == choices.DTYPES
    assert ", ".join(CONTROLS) == choices.CONTROLS


@pytest.mark.parametrize("words", [["--help"], ["ask", "--help"], ["--version"]], ids=" ".join)
def test_help_waits_for_no_library(words):
    code = f"import sys; sys.argv[1:] = {words}\nfrom sparsight.cli import main\ntry: main()\nfinally: print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "transformers"} & set(done.stdout.splitlines()[-1].split())


def test_the_package_has_its_names_however_it_is_imported():
    code = "import sparsight.sparsify, sparsight; from sparsight import *; sparsify.__call__, sparsight.methods.Random"
    code += "; assert sparsight.sparsify is sparsify and sparsify.__module__ == 'sparsight.sparsify'; print(dir(sparsight))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Chat" in done.stdout
    with pytest.raises(AttributeError, match="'nothing'"):
        sparsight.nothing  # noqa: B018
