"""Encodings, rotations, biases and tables as NumPy arrays: always computed on the host, always correctly rounded.

bfloat16 is the dtype of `ml_dtypes`, which the extra `numpy` installs.
"""

from posenc.spec import checks

checks.framework("posenc.numpy_impl", "numpy", "NumPy", "numpy")
checks.framework("posenc.numpy_impl", "ml_dtypes", "ml_dtypes", "numpy")

from posenc.numpy_impl.distance import bias, rows  # noqa: E402
from posenc.numpy_impl.learned import lookup, resize  # noqa: E402
from posenc.numpy_impl.phase import Table, add, encode, phase, table  # noqa: E402
from posenc.numpy_impl.rotation import rotate  # noqa: E402

__all__ = ["Table", "add", "bias", "encode", "lookup", "phase", "resize", "rotate", "rows", "table"]
