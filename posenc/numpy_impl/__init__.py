"""Encodings as NumPy arrays: always computed on the host, always correctly rounded.

bfloat16 is the dtype of `ml_dtypes`, which the extra `numpy` installs.
"""

from posenc.spec import checks

checks.framework("posenc.numpy_impl", "numpy", "NumPy", "numpy")
checks.framework("posenc.numpy_impl", "ml_dtypes", "ml_dtypes", "numpy")

from posenc.numpy_impl.phase import add, encode, phase  # noqa: E402

__all__ = ["add", "encode", "phase"]
