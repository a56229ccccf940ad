"""Runs the tests of the plug-in for vLLM, and writes what passed for each family and mode.

python benchmarks/vllm_equality.py --out benchmarks/results/vllm-equality-cpu.json

It needs an environment with vLLM, such as `make vllm-test` makes. It ends with the exit code of the
tests, and its last line is the JSON that it wrote.
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).parent.parent
TESTS = "tests/serve/vllm"
PACKAGES = ("torch", "transformers", "sparsight")


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=None, help="JSON file of the results")
    parser.add_argument("--select", default="", help="run tests whose names have these words only")
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


def count(report: Path) -> dict[str, Any]:
    """Return how many tests passed, by module, and by family, method and mode for equality."""
    totals: Counter[str] = Counter()
    modules: dict[str, Counter[str]] = {}
    equality: dict[str, dict[str, str]] = {}
    for case in ElementTree.parse(report).getroot().iter("testcase"):  # noqa: S314  # our own
        outcome = next((child.tag for child in case if child.tag in OUTCOMES), "passed")
        module = case.get("classname", "").rpartition(".")[2]
        name, _, variant = case.get("name", "").partition("[")
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
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        code = run_tests(given.select, report)
        result = count(report)
    result["seconds"] = round(time.monotonic() - start, 1)
    result["versions"] = {name: version(name) for name in PACKAGES}
    result["versions"] |= {"vllm": read_vllm(), "python": platform.python_version()}
    text = json.dumps(result, indent=2)
    if given.out is not None:
        given.out.write_text(text + "\n", encoding="utf-8")
    print(json.dumps(result))
    sys.exit(code)


if __name__ == "__main__":
    main()
