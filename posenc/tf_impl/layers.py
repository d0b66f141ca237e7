"""The Keras layers of sinusoidal encodings and of rotary embeddings, for Keras on TensorFlow."""

from __future__ import annotations

from typing import Any

from posenc.spec.checks import framework

framework("posenc.tf_impl.layers", "keras", "Keras", "tf")

import keras  # noqa: E402 - the sentence about a missing framework comes first
import tensorflow as tf  # noqa: E402 - as above

from posenc.spec import checks  # noqa: E402 - as above
from posenc.spec.plan import PhaseSpec, RotarySpec, encoding_plan, rotation_plan, table_plan  # noqa: E402 - as above
from posenc.spec.serialise import from_json, to_json  # noqa: E402 - as above
from posenc.tf_impl.inputs import Shape, Tensor  # noqa: E402 - as above
from posenc.tf_impl.phase import add, table  # noqa: E402 - as above
from posenc.tf_impl.rotation import check_fit, rotate  # noqa: E402 - as above

if keras.backend.backend() != "tensorflow":
    raise ImportError(
        "posenc.tf_impl.layers: expected Keras on the TensorFlow backend, received the backend "
        f"{keras.backend.backend()!r}: use the functions of posenc.jax_impl or posenc.torch_impl in a layer of your own"
    )


def _computed(layer: Any, x: Any) -> Any:
    """Numbers in the layer's compute dtype; what is no float is left to be refused."""
    floating = tf.as_dtype(getattr(x, "dtype", tf.float32)).is_floating
    return tf.cast(x, layer.compute_dtype) if floating else x


@keras.saving.register_keras_serializable(package="posenc")
class SinusoidalEncoding(keras.layers.Layer):  # type: ignore[misc]  # Keras ships no usable types
    """`SinusoidalEncoding(spec)(x, positions=None)` is `add(spec, x, positions)` on `x` in the layer's compute dtype.

    It owns no tensors: what is saved is the specification's canonical JSON text. Positions are never cast: under a
    half-precision policy too they keep their own dtype. A mask passes through.
    """

    def __init__(self, spec: PhaseSpec, **options: Any) -> None:
        self.dim = encoding_plan("SinusoidalEncoding", spec).dim
        self.spec = spec
        # Keras would cast float positions to the compute dtype along with x
        super().__init__(autocast=False, **options)
        self.supports_masking = True
        self._allow_non_tensor_positional_args = True  # a range of positions need not be named

    def call(self, x: Tensor, positions: Any = None) -> Tensor:
        return add(self.spec, _computed(self, x), positions)

    def compute_output_shape(self, x_shape: Shape, positions_shape: Shape | None = None) -> Shape:  # noqa: ARG002 - the arguments of `call`
        if not x_shape or x_shape[-1] not in (self.dim, None):
            raise checks.x_shape_error("add", self.dim, x_shape)
        return (*x_shape[:-1], self.dim)

    def compute_output_spec(self, x: Any, positions: Any = None) -> Any:  # noqa: ARG002 - the arguments of `call`
        return keras.KerasTensor(self.compute_output_shape(x.shape), dtype=self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "spec": to_json(self.spec)}  # type: ignore[arg-type]  # other specifications are refused there

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> SinusoidalEncoding:
        return cls(**{**config, "spec": from_json(config.get("spec", "no specification"))})


@keras.saving.register_keras_serializable(package="posenc")
class RotaryEmbedding(keras.layers.Layer):  # type: ignore[misc]  # Keras ships no usable types
    """`RotaryEmbedding(spec, head_axis=...)(q, k, positions)` turns both by one table, in the layer's compute dtype.

    `k` may have fewer heads. The layer owns no tensors: what is saved is the specification's canonical JSON text and
    the axis. Positions are never cast, and masks pass through, each from its own tensor.
    """

    def __init__(self, spec: RotarySpec, *, head_axis: int | None, **options: Any) -> None:
        table_plan("RotaryEmbedding", spec)  # refuses what has no table
        self.spec, self.head_axis = spec, checks.layer_head_axis("RotaryEmbedding", head_axis)
        # Keras would cast float positions to the compute dtype along with q and k
        super().__init__(autocast=False, **options)
        self.supports_masking = True
        self._allow_non_tensor_positional_args = True  # a range of positions need not be named

    def call(self, q: Tensor, k: Tensor, positions: Any) -> tuple[Tensor, Tensor]:
        wide = tf.float64 if self.compute_dtype == "float64" else tf.float32
        angles = table(self.spec, positions, dtype=wide)
        turned = [rotate(self.spec, _computed(self, x), angles, head_axis=self.head_axis) for x in (q, k)]
        for x in turned:
            self._turned_shape(tuple(x.shape), tuple(angles.cos.shape[:-1]))  # one position for all tokens is refused
        return turned[0], _masked(turned[1], k)

    def compute_output_shape(self, q_shape: Shape, k_shape: Shape, positions_shape: Shape) -> tuple[Shape, Shape]:
        return self._turned_shape(q_shape, positions_shape), self._turned_shape(k_shape, positions_shape)

    def compute_output_spec(self, q: Any, k: Any, positions: Any) -> tuple[Any, Any]:
        listed = checks.position_list("table", positions)
        if isinstance(positions, range) or listed is not None:
            place: Shape = (len(positions),) if listed is None else listed.shape
        else:
            place = tuple(positions.shape)
        shapes = self.compute_output_shape(q.shape, k.shape, place)
        turned = [keras.KerasTensor(shape, dtype=self.compute_dtype) for shape in shapes]
        return turned[0], _masked(turned[1], k)

    def _turned_shape(self, shape: Shape, positions: Shape) -> Shape:
        plan = rotation_plan("rotate", self.spec)
        if not shape or shape[-1] not in (plan.head_dim, None):
            raise checks.x_shape_error("rotate", plan.head_dim, shape)
        heads = checks.head_axis("rotate", self.head_axis, len(shape))
        check_fit(shape, heads, positions)
        lengths = [1 if size is None else size for axis, size in enumerate(shape[:-1]) if axis != heads]
        if not positions and lengths and lengths[-1] > 1:
            raise checks.one_position_error("RotaryEmbedding", lengths[-1])
        return (*shape[:-1], plan.head_dim)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "spec": to_json(self.spec), "head_axis": self.head_axis}  # type: ignore[arg-type]  # as above

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> RotaryEmbedding:
        return cls(**{**config, "spec": from_json(config.get("spec", "no specification"))})


def _masked(result: Any, source: Any) -> Any:
    """`result` with the mask of `source`: Keras itself passes on the first argument's only."""
    mask = getattr(source, "_keras_mask", None)
    if mask is not None:
        result._keras_mask = mask
    return result
