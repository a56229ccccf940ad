"""Runs the tests of the plug-in for vLLM, and writes what passed for each family and mode.

python benchmarks/vllm_equality.py --out benchmarks/results/vllm-equality-cpu.json

It needs an environment with vLLM, such as `make vllm-test` makes. It ends with the exit code of the
tests, and its last line is the JSON that it wrote.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).parent.parent
TESTS = "tests/serve/vllm/engines"  # the others need no vLLM, which changes transformers' classes
PACKAGES = ("torch", "transformers", "sparsight")


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=None, help="JSON file of the results")
    parser.add_argument("--select", default="", help="run tests whose names have these words only")
    parser.add_argument(
        "--reports", type=Path, nargs="+", default=[], help="count these in place of a run"
    )
    return parser.parse_args()


def run_tests(select: str, report: Path) -> int:
    """Run the tests and return their exit code.

    Args:
        select: words of names; "" for all.
        report: file to write, in JUnit's format.
    """
    command = [sys.executable, "-m", "pytest", "-q", "--tb=short", TESTS]
    # vLLM's own imports warn about torch and others
    command += ["-o", "filterwarnings=ignore", f"--junitxml={report}"]
    command += ["-k", select] if select else []
    return subprocess.run(command, cwd=ROOT, check=False).returncode  # noqa: S603


def read(reports: Sequence[Path]) -> dict[tuple[str, str], str]:
    """Return the outcome of each test, by module and name; of a later report where two have it."""
    outcomes = {}
    for report in reports:
        for case in ElementTree.parse(report).getroot().iter("testcase"):  # noqa: S314  # our own
            module = case.get("classname", "").rpartition(".")[2]
            outcome = next((child.tag for child in case if child.tag in OUTCOMES), "passed")
            outcomes[module, case.get("name", "")] = outcome
    return outcomes


def time_of(reports: Sequence[Path]) -> float:
    """Return the seconds that the runs of some reports took."""
    suites = [ElementTree.parse(report).getroot().find("testsuite") for report in reports]  # noqa: S314
    return sum(float(suite.get("time", 0)) for suite in suites if suite is not None)


def count(outcomes: Mapping[tuple[str, str], str]) -> dict[str, Any]:
    """Return how many tests passed, by module, and by family, method and mode for equality."""
    totals: Counter[str] = Counter()
    modules: dict[str, Counter[str]] = {}
    equality: dict[str, dict[str, str]] = {}
    for (module, full), outcome in outcomes.items():
        name, _, variant = full.partition("[")
        totals[outcome] += 1
        modules.setdefault(module, Counter())[outcome] += 1
        if module == "test_equality":
            equality.setdefault(variant.rstrip("]"), {})[name.removeprefix("test_")] = outcome
    return {
        "tests": dict(totals),
        "modules": {module: dict(counts) for module, counts in sorted(modules.items())},
        "equality": dict(sorted(equality.items())),
    }


OUTCOMES = ("failure", "error", "skipped")


def read_vllm() -> str:
    """Return the release of vLLM, which has more than one name in registries."""
    code = "import vllm; print(vllm.__version__)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    return done.stdout.split()[-1]


def main() -> None:
    """Run, write and print."""
    given = parse()
    with tempfile.TemporaryDirectory() as folder:
        reports, code = given.reports, 0
        if not reports:
            reports = [Path(folder) / "report.xml"]
            code = run_tests(given.select, reports[0])
        result = count(read(reports))
        result["runs"], result["seconds"] = len(reports), round(time_of(reports), 1)
    result["load"] = [round(value, 1) for value in os.getloadavg()]
    result["versions"] = {name: version(name) for name in PACKAGES}
    result["versions"] |= {"vllm": read_vllm(), "python": platform.python_version()}
    text = json.dumps(result, indent=2)
    if given.out is not None:
        given.out.write_text(text + "\n", encoding="utf-8")
    print(json.dumps(result))
    sys.exit(code)


if __name__ == "__main__":
    main()
