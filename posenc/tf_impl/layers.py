"""The Keras layer of sinusoidal encodings, for Keras on TensorFlow."""

from __future__ import annotations

from typing import Any

from posenc.spec.checks import framework

framework("posenc.tf_impl.layers", "keras", "Keras", "tf")

import keras  # noqa: E402 - the sentence about a missing framework comes first
import tensorflow as tf  # noqa: E402

from posenc.spec import checks  # noqa: E402
from posenc.spec.plan import PhaseSpec, phase_plan  # noqa: E402
from posenc.spec.serialise import from_json, to_json  # noqa: E402
from posenc.tf_impl.inputs import Tensor  # noqa: E402
from posenc.tf_impl.phase import add  # noqa: E402

if keras.backend.backend() != "tensorflow":
    raise ImportError(
        "posenc.tf_impl.layers: expected Keras on the TensorFlow backend, received the backend "
        f"{keras.backend.backend()!r}: call posenc.jax_impl.add or posenc.torch_impl.add in a layer of your own"
    )

Shape = tuple[int | None, ...]


@keras.saving.register_keras_serializable(package="posenc")
class SinusoidalEncoding(keras.layers.Layer):  # type: ignore[misc]  # Keras ships no usable types
    """`SinusoidalEncoding(spec)(x, positions=None)` is `add(spec, x, positions)` on `x` in the layer's compute dtype.

    It owns no tensors: what is saved is the specification's canonical JSON text. Positions are never cast: under a
    half-precision policy too they keep their own dtype. A mask passes through.
    """

    def __init__(self, spec: PhaseSpec, **options: Any) -> None:
        self.dim = phase_plan("SinusoidalEncoding", spec).dim
        self.spec = spec
        # Keras would cast float positions to the compute dtype along with x
        super().__init__(autocast=False, **options)
        self.supports_masking = True
        self._allow_non_tensor_positional_args = True  # a range of positions need not be named

    def call(self, x: Tensor, positions: Any = None) -> Tensor:
        floating = tf.as_dtype(getattr(x, "dtype", tf.float32)).is_floating
        return add(self.spec, tf.cast(x, self.compute_dtype) if floating else x, positions)

    def compute_output_shape(self, x_shape: Shape, positions_shape: Shape | None = None) -> Shape:  # noqa: ARG002
        if not x_shape or x_shape[-1] not in (self.dim, None):
            raise checks.x_shape_error("add", self.dim, x_shape)
        return (*x_shape[:-1], self.dim)

    def compute_output_spec(self, x: Any, positions: Any = None) -> Any:  # noqa: ARG002
        return keras.KerasTensor(self.compute_output_shape(x.shape), dtype=self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "spec": to_json(self.spec)}  # type: ignore[arg-type]  # other specifications are refused there

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> SinusoidalEncoding:
        return cls(**{**config, "spec": from_json(config.get("spec", "no specification"))})
