"""The environment that published packages are loaded in: imported before the first of them."""

from __future__ import annotations

import os
import tempfile

os.environ.setdefault("KERAS_HOME", tempfile.mkdtemp(prefix="posenc-peers-"))  # Keras writes a file there
os.environ.setdefault("KERAS_BACKEND", "torch")  # loaded anyway
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
