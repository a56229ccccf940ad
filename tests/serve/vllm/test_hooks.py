"""What we build on in vLLM is looked for by name, and its release is checked. Needs no vLLM."""

import pytest

from sparsight.errors import UnsupportedError
from sparsight.serve.vllm.hooks import require_hooks
from sparsight.serve.vllm.registering import ARCHITECTURES, check_version, refuse_version


class Owner:
    def apply(self, inputs, timing_ctx):
        raise NotImplementedError


def test_what_is_there_passes():
    require_hooks(Owner, {"apply": ("inputs", "timing_ctx")})


def test_a_method_that_is_gone_is_named():
    with pytest.raises(UnsupportedError, match=r"vLLM's Owner has no embed\(\)"):
        require_hooks(Owner, {"apply": (), "embed": ()})


def test_an_argument_that_was_renamed_is_named():
    with pytest.raises(UnsupportedError, match=r"apply\(\) of vLLM's Owner takes no words"):
        require_hooks(Owner, {"apply": ("inputs", "words")})


@pytest.mark.parametrize("version", ["0.32.0", "0.32.1", "0.32"])
def test_tested_releases_pass(version):
    assert refuse_version(version) is None
    check_version(version)


@pytest.mark.parametrize("version", ["0.31.9", "0.33.0", "0.320.0", "1.0", "dev"])
def test_other_releases_are_refused_by_name(version):
    with pytest.raises(UnsupportedError, match=f"vLLM {version} was never tested"):
        check_version(version)


def test_architectures_are_ours_by_name():
    assert all(name.startswith("Sparsight") for name in ARCHITECTURES)
