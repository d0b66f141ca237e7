"""Encodings as TensorFlow tensors: `phase`, `encode`, `add`; the Keras layer is in `posenc.tf_impl.layers`.

Eager, with positions on the host, results are correctly rounded; in a `tf.function`, or with tensors on an accelerator,
they come from fused float32 kernels (N1 and N2 of the contract in `posenc`).
"""

from posenc.spec import checks

checks.framework("posenc.tf_impl", "tensorflow", "TensorFlow", "tf")

from posenc.tf_impl.phase import add, encode, phase  # noqa: E402 - the sentence about a missing framework comes first

__all__ = ["add", "encode", "phase"]
