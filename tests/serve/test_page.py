"""docs/serve.md names the options, limits, fields and metrics that there are."""

import inspect
import re
from pathlib import Path

from sparsight.cli.serve import serve_command
from sparsight.serve.server.metrics import Metrics
from sparsight.serve.server.settings import MEGABYTE, Limits
from sparsight.serve.server.wire import NEUTRAL, ChatRequest, Pruning
from tests.support import server
from tests.support.server import asks, picture, post

PAGE = (Path(__file__).parents[2] / "docs" / "serve.md").read_text(encoding="utf-8")
DEFAULTS = {
    name: parameter.default
    for name, parameter in inspect.signature(serve_command).parameters.items()
}


def section(title):
    return PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]


def rows(title):
    """Cells of the tables of a section."""
    lines = re.findall(r"^\| `.*\|$", section(title), re.MULTILINE)
    return [re.split(r" *\| *", line.strip("| ")) for line in lines]


def test_limits():
    listed = {cells[0].strip("`"): float(cells[1]) for cells in rows("Limits")}
    options = {f"--{name.replace('_', '-')}": value for name, value in DEFAULTS.items()}
    limits = {name for name in options if name.startswith("--max-") or "-seconds" in name}
    assert set(listed) == limits
    assert all(options[name] == value for name, value in listed.items())


def test_options_have_the_defaults_of_the_library():
    plain = Limits()
    assert DEFAULTS["max_body_mb"] * MEGABYTE == plain.body_bytes
    assert DEFAULTS["max_megapixels"] * MEGABYTE == plain.pixels
    names = {"images", "tokens", "queue", "batch"}
    assert {name: DEFAULTS[f"max_{name}"] for name in names} == {
        name: getattr(plain, name) for name in names
    }
    for name in ("queue", "answer", "body", "stop"):
        assert DEFAULTS[f"{name}_seconds"] == getattr(plain, f"{name}_seconds")
    text = section("Limits")
    assert f"{plain.fetch_bytes // MEGABYTE} MB and {plain.fetch_seconds:g}" in " ".join(
        text.split()
    )


def test_refused_fields():
    text = PAGE.split("<!-- refused -->")[1].split("<!-- end of refused -->")[0]
    assert re.findall(r"`(\w+)`", text) == list(NEUTRAL)


def test_fields_that_are_understood():
    text = section("A request").split("Served are")[1]
    others = {"model", "sparsight", "user", "safety_identifier", "prompt_cache_key"}
    for name in set(ChatRequest.model_fields) - others:
        assert f"`{name}" in text, name


def test_fields_of_sparsight():
    named = [
        name for cells in rows("The field `sparsight`") for name in re.findall(r"`(\w+)`", cells[0])
    ]
    with server.serving(*server.tiny_pair()) as service:
        reply = post(service, asks(picture(), max_tokens=1))[0].json()["sparsight"]
    assert named == [*Pruning.model_fields, *reply]


def test_metrics():
    named = [name for cells in rows("Metrics") for name in re.findall(r"`(\w+)`", cells[0])]
    metrics = Metrics()
    families = {
        family.name + ("_total" if family.type == "counter" else "")
        for family in metrics.registry.collect()
    }
    assert set(named) == families
