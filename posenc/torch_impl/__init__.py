"""Positional encodings as PyTorch tensors: eager, under torch.compile, torch.export and torch.func."""

from posenc.spec import checks

checks.framework("posenc.torch_impl", "torch", "PyTorch", "torch")

from posenc.torch_impl.phase import add, encode, phase  # noqa: E402

__all__ = ["add", "encode", "phase"]
