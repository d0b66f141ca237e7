"""The reference for transformer positional encodings.

Specifications live here; arrays come from the column of your framework: `from posenc.torch_impl import encode`, and
likewise `numpy_impl`, `jax_impl`, `tf_impl`.
"""

from posenc.spec import Sinusoidal, SpecError, from_json, to_json

__version__ = "0.1.0"
__all__ = ["Sinusoidal", "SpecError", "__version__", "from_json", "to_json"]
