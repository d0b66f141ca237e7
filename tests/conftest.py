"""What every test needs before a framework is loaded, and the header that says what runs."""

from __future__ import annotations

import os
import sys
import tempfile

# Importing Keras writes a settings file into its home; Inductor workers that share a cache folder spoil it.
_scratch = tempfile.mkdtemp(prefix="posenc-tests-")
os.environ["KERAS_HOME"] = os.path.join(_scratch, "keras")
os.environ["TORCHINDUCTOR_CACHE_DIR"] = os.path.join(_scratch, "inductor")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

import pytest
import torch  # before TensorFlow: the other order has crashed
from hypothesis import settings

settings.register_profile("posenc", derandomize=True, deadline=None, print_blob=True)
settings.load_profile("posenc")


def pytest_report_header():
    from tests.columns import LEFT_OUT

    return LEFT_OUT


@pytest.fixture(autouse=True)
def fresh_dynamo():
    """A test's compiled graphs count against the recompile limit of the next one unless they are dropped."""
    yield
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()
