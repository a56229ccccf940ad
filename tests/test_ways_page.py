"""The table of ways is up to date, and each of its rows names a test that exists."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sparsight.cli import app
from sparsight.cli.ways import WAYS, ways_page
from sparsight.engine.generate_guard import DRAFTED, REFUSED

ROOT = Path(__file__).parent.parent


def test_the_page_is_up_to_date():
    page = (ROOT / "docs" / "ways.md").read_text(encoding="utf-8")
    assert page == ways_page(), "run: sparsight ways --markdown > docs/ways.md"
    assert CliRunner().invoke(app, ["ways", "--markdown"]).output == page
    assert "prompt_lookup_num_tokens" in CliRunner().invoke(app, ["ways"]).output.replace("\n", "")


@pytest.mark.parametrize("test", sorted({way.test for way in WAYS}))
def test_rows_name_tests_that_exist(test):
    file, name = test.split("::")
    assert re.search(rf"^def {name}\(", (ROOT / "tests" / file).read_text(encoding="utf-8"), re.MULTILINE)


def test_rows_are_distinct_and_say_why():
    assert len({(way.name, way.note) for way in WAYS}) == len(WAYS)
    assert all(way.note for way in WAYS if way.verdict != "works")


def test_options_that_are_refused_have_a_row():
    named = " ".join(f"{way.name} {way.note}" for way in WAYS)
    assert [option for option in (*REFUSED, *DRAFTED) if option not in named] == []
