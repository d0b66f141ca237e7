"""Positional encodings as PyTorch tensors: eager, under torch.compile, torch.export and torch.func."""

from posenc.spec import checks

checks.framework("posenc.torch_impl", "torch", "PyTorch", "torch")

from posenc.torch_impl.distance import bias, rows  # noqa: E402
from posenc.torch_impl.learned import lookup, resize  # noqa: E402
from posenc.torch_impl.phase import Table, add, encode, phase, table  # noqa: E402
from posenc.torch_impl.rotation import rotate  # noqa: E402

__all__ = ["Table", "add", "bias", "encode", "lookup", "phase", "resize", "rotate", "rows", "table"]
