"""The table of generation modes is up to date; a test is marked with the name of each row."""

import ast
from pathlib import Path

from typer.testing import CliRunner

from sparsight.cli import app
from sparsight.cli.modes import MODES, write_modes_page
from sparsight.engine.generate_guard import DRAFTED, REFUSED

ROOT = Path(__file__).parents[2]


def test_the_page_is_up_to_date():
    page = (ROOT / "docs" / "modes.md").read_text(encoding="utf-8")
    assert page == write_modes_page(), "run: sparsight modes --markdown > docs/modes.md"
    assert CliRunner().invoke(app, ["modes", "--markdown"]).output == page
    assert "prompt_lookup_num_tokens" in CliRunner().invoke(app, ["modes"]).output.replace("\n", "")


def marked():
    """Names of the modes that tests are marked with."""
    for path in (ROOT / "tests").rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                for call in (part for part in node.decorator_list if isinstance(part, ast.Call)):
                    if ast.unparse(call.func) == "pytest.mark.mode":
                        yield ast.literal_eval(call.args[0])


def test_every_row_has_a_test_and_every_mark_a_row():
    assert set(marked()) == {mode.name for mode in MODES}


def test_rows_are_distinct_and_say_why():
    assert len({(mode.name, mode.note) for mode in MODES}) == len(MODES)
    assert all(mode.note for mode in MODES if mode.verdict != "works")


def test_options_that_are_refused_have_a_row():
    named = " ".join(f"{mode.name} {mode.note}" for mode in MODES)
    assert [option for option in (*REFUSED, *DRAFTED) if option not in named] == []
