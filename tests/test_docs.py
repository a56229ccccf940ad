"""README and docs: snippets run, commands and files exist, tables equal their result files."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoModelForImageTextToText
from typer.testing import CliRunner

from sparsight.cli import app
from sparsight.cli.methods import write_methods_page
from sparsight.cli.models import write_models_page
from sparsight.families import families
from sparsight.models.embedded import is_prepared
from tests.support import tiny

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "training" / "README.md"]


REPOSITORY = "https://github.com/sparsight/sparsight/blob/main/"


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands(program):
    lines = [
        line.split("  #")[0].strip() for block in blocks("bash") for line in block.splitlines()
    ]
    return [shlex.split(line)[1:] for line in lines if line.startswith(program + " ")]


def test_first_snippet_runs(monkeypatch):
    model = tiny.tiny_llava()
    monkeypatch.setattr(AutoModelForImageTextToText, "from_pretrained", lambda *_, **__: model)
    # the tiny model has 8 layers and 36 visual tokens, so the snippet's budget is scaled with it
    source = blocks("python")[0].replace("sparsify(model, 192)", "sparsify(model, 0.5)")
    scope = {"inputs": tiny.batch([["image", 6]]).inputs}
    exec(source, scope)  # noqa: S102
    assert scope["output"].shape[1] == scope["inputs"]["input_ids"].shape[1] + 64
    assert scope["run"].stats.mean_visual_tokens <= 18


@pytest.mark.embedded
@pytest.mark.skipif(
    not is_prepared(), reason="the embedded model is not prepared; run `sparsight prepare`"
)
def test_whole_program_and_chat_snippet_run(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    scope = {}
    exec(blocks("python")[1], scope)  # noqa: S102
    lines = capsys.readouterr().out.splitlines()
    assert lines[0]
    assert lines[1].startswith("(576,) 12")
    assert 0 < float(lines[2]) < 0.5

    exec(blocks("python")[2], scope)  # noqa: S102
    assert all(capsys.readouterr().out.splitlines())
    assert len(scope["chat"].messages) == 4


@pytest.mark.parametrize("arguments", commands("sparsight"), ids=" ".join)
def test_commands_exist(arguments):
    result = CliRunner().invoke(app, [arguments[0], "--help"])
    assert result.exit_code == 0
    options = [argument for argument in arguments if argument.startswith("--")]
    plain = re.sub(r"\x1b\[[0-9;]*m", "", result.output)
    assert [option for option in options if option not in plain] == []


@pytest.mark.parametrize("target", sorted({argument[0] for argument in commands("make")}))
def test_make_targets_exist(target):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", text)
    own = [
        ROOT / target.removeprefix(REPOSITORY)
        for target in targets
        if target.startswith(REPOSITORY)
    ]
    near = [page.parent / target for target in targets if not re.match("https?://", target)]
    assert [path for path in own + near if not path.exists()] == []
    assert page != ROOT / "README.md" or (own and not near), (
        "an index page shows README.md without the files beside it"
    )


def test_tables_equal_the_result_files():
    done = subprocess.run(
        [sys.executable, "benchmarks/table.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("name", "write"), [("models", write_models_page), ("methods", write_methods_page)]
)
def test_written_pages_are_up_to_date(name, write):
    page = ROOT / "docs" / f"{name}.md"
    assert page.read_text(encoding="utf-8") == write(), (
        f"run: sparsight {name} --markdown > docs/{name}.md"
    )


def test_readme_counts_the_families():
    assert len(families()) == 21
    assert f"[twenty-one families]({REPOSITORY}docs/models.md)" in README
