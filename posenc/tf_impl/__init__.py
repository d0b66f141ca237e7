"""Encodings and rotations as TensorFlow tensors; the Keras layers are in `posenc.tf_impl.layers`.

Eager, with positions on the host, encodings and tables are correctly rounded; in a `tf.function`, or with tensors on an
accelerator, they come from fused float32 kernels (N1 and N2 of the contract in `posenc`).
"""

from posenc.spec import checks

checks.framework("posenc.tf_impl", "tensorflow", "TensorFlow", "tf")

# the sentence about a missing framework comes first
from posenc.tf_impl.phase import Table, add, encode, phase, table  # noqa: E402
from posenc.tf_impl.rotation import rotate  # noqa: E402

__all__ = ["Table", "add", "encode", "phase", "rotate", "table"]
