"""What keeps the code readable: small files, short and plain functions, docstrings, rooms."""

import ast
import itertools
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from radon.complexity import cc_visit

from sparsight.errors import TESTED

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
PROGRAMS = [
    path for room in ("benchmarks", "training") for path in sorted((ROOT / room).glob("*.py"))
]
TESTS = sorted((ROOT / "tests").rglob("*.py"))
LONGEST_FILE = 300
LONGEST_TEST = 400
LONGEST_FUNCTION = 60
MOST_COMPLEX = 12  # by radon
# spelt in parts, so that this file does not name what it looks for
PLACES = ("work", "root", "tmp", "home")
REGISTRIES = ("pip" + r"\.conf", "--index-" + "url", "arti" + "factory")
MACHINE = re.compile("|".join([*(rf"(?<![\w.~])/{place}/" for place in PLACES), *REGISTRIES]))


def names(paths):
    return [str(path.relative_to(ROOT)) for path in paths]


def functions(tree):
    return [
        node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


@pytest.mark.parametrize("path", SOURCES, ids=names(SOURCES))
def test_sizes(path):
    source = path.read_text()
    lines = source.count("\n")
    assert lines <= LONGEST_FILE, f"{lines} lines: split it"
    for node in functions(ast.parse(source)):
        length = node.end_lineno - node.lineno + 1
        assert length <= LONGEST_FUNCTION, f"{node.name} has {length} lines"


@pytest.mark.parametrize("path", SOURCES, ids=names(SOURCES))
def test_public_things_say_what_they_are(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree) or not tree.body, "the module says nothing"
    for holder in [tree, *(node for node in tree.body if isinstance(node, ast.ClassDef))]:
        for node in holder.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                assert ast.get_docstring(node), f"{node.name} says nothing"


def test_no_tracked_file_names_a_machine():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode:
        pytest.skip("no git checkout")
    found = []
    for name in filter(None, listed.stdout.decode().split("\0")):
        path = ROOT / name
        if not path.is_file() or b"\0" in path.read_bytes()[:4096]:
            continue
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            if MACHINE.search(line):
                found.append(f"{name}:{number}: {line.strip()[:120]}")
    assert not found, "\n".join(found)


def test_tests_are_short_too():
    long = [path.name for path in TESTS if path.read_text().count("\n") > LONGEST_TEST]
    assert not long


def test_direct_dependencies_are_pinned_within_their_ranges():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *itertools.chain.from_iterable(project["optional-dependencies"].values()),
    ]
    pins = [
        line.split("==")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    ]
    pinned = {canonicalize_name(name): version for name, version in pins}
    for requirement in map(Requirement, wanted):
        name = canonicalize_name(requirement.name)
        assert name in pinned, f"{name} is not pinned"
        assert requirement.specifier.contains(pinned[name]), (
            f"{name} {pinned[name]} is not in {requirement.specifier}"
        )


def test_transformers_is_bounded_by_the_newest_tested_release():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    bound = next(
        Requirement(text) for text in project["dependencies"] if text.startswith("transformers")
    )
    major, minor = TESTED
    assert f"<{major}.{minor + 1}" in str(bound.specifier)
    assert f"transformers=={major}.{minor}." in (ROOT / "constraints.txt").read_text()


def test_the_source_distribution_holds_all_that_is_tracked():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode:
        pytest.skip("no git checkout")
    tracked = {name.split("/")[0] for name in listed.stdout.decode().split("\0") if name}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    included = {
        name.removeprefix("/")
        for name in project["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    }
    built_in = {"pyproject.toml", ".gitignore"}  # hatchling adds them
    assert included == {name for name in tracked if not name.startswith(".")} - built_in
    assert set(project["project"]["license-files"]) <= included
    for url in project["project"]["urls"].values():
        page = url.partition("/main/")[2]
        assert (ROOT / page).exists()


# ---- plain steps: what a ceiling on lines must not push into the line

COMPREHENSION = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp


def inside(tree, where=""):
    """Yield every node below the root of a tree, and the names of functions and classes around."""
    for node in ast.iter_child_nodes(tree):
        named = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        name = ".".join(filter(None, [where, node.name])) if named else where
        yield node, name
        yield from inside(node, name)


def packs_steps(node):
    """Whether a node assigns more than two values at once; unpacking one value is plain."""
    if not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Tuple):
        return False
    many = isinstance(node.value, ast.Tuple | COMPREHENSION)
    return many and len(node.targets[0].elts) > 2


def nests_comprehensions(node):
    """Whether a node is a comprehension with another one inside."""
    below = itertools.islice(ast.walk(node), 1, None)
    return isinstance(node, COMPREHENSION) and any(isinstance(n, COMPREHENSION) for n in below)


def keeps_a_lambda(node):
    """Whether a node returns a lambda or binds it to a name."""
    bound = isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    return (bound or isinstance(node, ast.Return)) and isinstance(node.value, ast.Lambda)


def offenders(paths, breaks):
    """Names, as file:function, of what holds a node that breaks a rule."""
    found = set()
    for path in paths:
        for node, where in inside(ast.parse(path.read_text())):
            if breaks(node):
                found.add(f"{path.relative_to(ROOT)}:{where or 'module'}")
    return found


def test_complexity():
    found = set()
    for path in [*SOURCES, *PROGRAMS]:
        for block in cc_visit(path.read_text()):
            if block.letter != "C" and block.complexity > MOST_COMPLEX:
                found.add(f"{path.relative_to(ROOT)}:{block.fullname}")
    assert not found


@pytest.mark.parametrize("breaks", [packs_steps, nests_comprehensions, keeps_a_lambda])
def test_steps_are_plain(breaks):
    assert not offenders([*SOURCES, *PROGRAMS, *TESTS], breaks)


@pytest.mark.parametrize(
    ("code", "breaks"),
    [
        ("a, b, c = 1, 2, 3", packs_steps),
        ("a, b, c = (f(x) for x in y)", packs_steps),
        ("a = [[y for y in x] for x in z]", nests_comprehensions),
        ("f = lambda: 1", keeps_a_lambda),
        ("def f():\n    return lambda: 1", keeps_a_lambda),
    ],
)
def test_the_rules_bite(code, breaks):
    assert any(breaks(node) for node, _ in inside(ast.parse(code)))


@pytest.mark.parametrize(
    "code", ["a, b = 1, 2", "a, b, c = x.shape", "a = [x for x in y]", "f(key=lambda: 1)"]
)
def test_plain_steps_keep_the_rules(code):
    for node, _ in inside(ast.parse(code)):
        broken = [packs_steps(node), nests_comprehensions(node), keeps_a_lambda(node)]
        assert not any(broken)


# ---- rooms

# a room may import from rooms on its own floor or below; a floor is written above those that it
# stands on
FLOORS = (
    ("cli", "serve", "evaluate", "bench", "lmms"),
    ("chat", "inputs", "messages"),
    ("sparsify", "run", "models", "picture", "images", "pixels", "videos"),
    ("engine",),
    ("families",),
    ("sequence",),
    ("methods",),
    ("counts",),
    ("errors", "needs"),
)
HEIGHT = {room: -number for number, floor in enumerate(FLOORS) for room in floor}
PURE = ("counts", "methods", "sequence")


def imported(path):
    """Names of the modules that a file imports, at its top or inside a function."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names)


def room_of(path):
    return path.relative_to(ROOT / "src" / "sparsight").with_suffix("").parts[0]


HOUSE = [path for path in SOURCES if not room_of(path).startswith("__")]


@pytest.mark.parametrize("path", HOUSE, ids=names(HOUSE))
def test_imports_run_one_way(path):
    room = room_of(path)
    for module in imported(path):
        if module.startswith("sparsight."):
            other = module.split(".")[1]
            assert HEIGHT[other] <= HEIGHT[room], f"{room} stands below {other}"
        assert room not in PURE or module.split(".")[0] != "transformers", (
            f"{room} knows no transformers"
        )


def test_methods_are_imported_without_transformers():
    code = "import sys, sparsight.methods; print('transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
