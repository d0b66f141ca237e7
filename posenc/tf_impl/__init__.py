"""Encodings, rotations, biases and learned tables as TensorFlow tensors.

The Keras layers are in `posenc.tf_impl.layers` and `posenc.tf_impl.attention`. Eager, with positions on the host,
encodings, tables of rotations and slopes are correctly rounded; in a `tf.function`, or with tensors on an accelerator,
they come from fused float32 kernels (N1 and N2 of the contract in `posenc`).
"""

from posenc.spec import checks

checks.framework("posenc.tf_impl", "tensorflow", "TensorFlow", "tf")

# the sentence about a missing framework comes first
from posenc.tf_impl.distance import bias, rows  # noqa: E402
from posenc.tf_impl.learned import lookup, resize  # noqa: E402
from posenc.tf_impl.phase import Table, add, encode, phase, table  # noqa: E402
from posenc.tf_impl.rotation import rotate  # noqa: E402

__all__ = ["Table", "add", "bias", "encode", "lookup", "phase", "resize", "rotate", "rows", "table"]
