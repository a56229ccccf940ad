"""Methods of the user's own: the page's example, named on the command line, and what is refused."""

import re
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from sparsight.cli import app
from sparsight.cli.evaluate import read_configurations
from sparsight.cli.method import read_method
from sparsight.errors import InputError, MethodError, SettingError
from sparsight.evaluate import Settings, open_store
from sparsight.evaluate.scenes import compose_suite
from sparsight.methods import View, merge_rest
from sparsight.methods.method import SIGNALS
from tests.support import contract, tiny
from tests.support.cases import LAYOUTS, RAGGED, tiny_model

PAGE = (Path(__file__).parents[2] / "docs" / "own-method.md").read_text(encoding="utf-8")
SOURCE, NOTEBOOK = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "my_file.py"
    path.write_text(SOURCE, encoding="utf-8")
    return path


def test_the_example_is_short_and_runs():
    assert len([line for line in SOURCE.splitlines() if line.strip()]) <= 15
    scope = {"model": tiny_model("sdpa"), "inputs": tiny.batch([["image", 6]]).inputs}
    exec(SOURCE + NOTEBOOK, scope)  # noqa: S102
    assert scope["run"].stats.mean_visual_tokens <= 18


@pytest.mark.parametrize(("kernel", "layout"), RAGGED)
def test_the_example_keeps_the_contract(file, kernel, layout):
    model = tiny_model(kernel)
    method = read_method(f"{file}:NormTopK", "0.5", paper=False)
    batch = tiny.batch(LAYOUTS[layout], dtype=model.dtype)
    # all kept tokens are merged ones, so that the split of the plan is not that of the answer
    contract.check(model, method, batch, *(name for name in contract.CHECKS if name != "counts"))
    seen = contract.prefill(model, method, batch.inputs)
    for planned, sites in zip(seen.promised, seen.trace.samples, strict=True):
        assert [len(site.centres) for site in sites] == list(planned.counts if planned else ())


def test_settings_follow_the_class(file):
    assert read_method(f"{file}:NormTopK:sites=4", "12", paper=False).sites == (4,)
    (one,) = read_configurations(f"{file}:NormTopK:sites=4", "12", "none")
    assert one.key == "norm-top-k:sites=4@12"


def test_a_module_is_named_by_its_path(tmp_path, monkeypatch):
    (tmp_path / "own_package").mkdir()
    (tmp_path / "own_package" / "methods.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    method = read_method("own_package.methods:NormTopK", "12", paper=False)
    assert type(method).__module__ == "own_package.methods"
    assert sys.path == before


BROKEN = {
    "x = 1": r"has no such class, 'NormTopK'; it has no method\.",
    "NormTopK = 3": "has no subclass of sparsight.Method by that name, 'NormTopK'",
    "class NormTopK: pass": "has no subclass of sparsight.Method",
    "import nowhere_at_all": r"my_file\.py cannot be imported: ModuleNotFoundError: No module",
    "import sys; sys.exit(0)": r"my_file\.py cannot be imported: SystemExit: 0\.",
    "def (": r"my_file\.py cannot be imported: SyntaxError",
    "from sparsight import Method\nclass NormTopK(Method): pass": r"NormTopK .* no select\(\)",
    SOURCE.replace("@dataclass(frozen=True)\n", ""): r"sets sites, .* @dataclass\(frozen=True\)",
    SOURCE.replace("NormTopK", "Another"): r"no such class, 'NormTopK'; it has Another\.",
}


@pytest.mark.parametrize("source", BROKEN)
def test_what_is_no_method_is_refused_by_name(source, file):
    file.write_text(source)
    result = CliRunner().invoke(app, ["eval", "--methods", f"{file}:NormTopK"])
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert re.search(BROKEN[source], result.stderr)


def test_files_and_modules_that_do_not_exist_are_refused_by_name(tmp_path):
    with pytest.raises(SettingError, match=r"no_such\.py is no file"):
        read_method(f"{tmp_path / 'no_such.py'}:A", "12", paper=False)
    with pytest.raises(SettingError, match="nowhere cannot be imported: ModuleNotFoundError"):
        read_method("nowhere:A", "12", paper=False)
    with pytest.raises(SettingError, match="'a b' is no file that ends with"):
        read_method("a b:A", "12", paper=False)


def test_a_changed_file_does_not_continue_an_evaluation(file, tmp_path):
    suite, out = tmp_path / "suite", tmp_path / "out"
    compose_suite(3, "test", share=0.03).write(suite)
    for text in (SOURCE, SOURCE.replace("norm(dim=-1)", "sum(dim=-1)")):
        file.write_text(text)
        for name in [name for name in sys.modules if name.startswith("sparsight_own")]:
            del sys.modules[name]
        settings = Settings(read_configurations(f"{file}:NormTopK", "12", "none"), suite, out=out)
        if text == SOURCE:
            open_store(settings).close()
            open_store(settings).close()
    with pytest.raises(InputError, match=r"holds another evaluation .*of a file with SHA-256"):
        open_store(settings)


def test_the_page_names_every_signal():
    assert {name for name in SIGNALS if f"| `{name}`" not in PAGE} == set()


def look(**changes):
    hidden = torch.tensor([[1.0, 0], [0, 1], [2, 0], [0, 3], [5, 1]])[None]
    images = torch.tensor([[0, 0, 0, 1, 1]])
    return View(site=0, count=2, keep_count=2, hidden=hidden, images=images, **changes)


def test_merge_rest_averages_within_an_image():
    answer = merge_rest(look(), torch.tensor([[0, 3]]))
    assert answer.recycled.labels.tolist() == [[0, 0, 0, 1, 1]]
    assert torch.allclose(answer.recycled.values, torch.tensor([[[1, 1 / 3], [2.5, 2]]]))
    # an image that keeps nothing gives its tokens to the others, by likeness
    answer = merge_rest(look(), torch.tensor([[0, 1]]))
    assert answer.recycled.labels.tolist() == [[0, 1, 0, 1, 0]]
    with pytest.raises(MethodError, match="keep at least one"):
        merge_rest(look(), torch.zeros(1, 0, dtype=torch.int64))
