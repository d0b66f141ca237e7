"""The Keras layers of encodings, rotary embeddings, biases and learned tables, for Keras on TensorFlow."""

from __future__ import annotations

from typing import Any

import numpy as np

from posenc.spec.checks import framework

framework("posenc.tf_impl.layers", "keras", "Keras", "tf")

import keras  # noqa: E402 - the sentence about a missing framework comes first
import tensorflow as tf  # noqa: E402 - as above

from posenc.spec import checks, weight_checks  # noqa: E402 - as above
from posenc.spec.distance_plan import DistanceSpec, bias_plan  # noqa: E402 - as above
from posenc.spec.plan import PhaseSpec, RotarySpec, encoding_plan, rotation_plan, table_plan  # noqa: E402 - as above
from posenc.spec.row_plan import RowSpec, row_plan  # noqa: E402 - as above
from posenc.spec.serialise import from_json, to_json  # noqa: E402 - as above
from posenc.tf_impl import inputs  # noqa: E402 - as above
from posenc.tf_impl.distance import bias  # noqa: E402 - as above
from posenc.tf_impl.formats import narrowed_sum, summed_arrays  # noqa: E402 - as above
from posenc.tf_impl.inputs import Shape, Tensor  # noqa: E402 - as above
from posenc.tf_impl.learned import check_rows, lookup  # noqa: E402 - as above
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
        shapes = self.compute_output_shape(q.shape, k.shape, _shape_of("table", positions))
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


@keras.saving.register_keras_serializable(package="posenc")
class RelativeBias(keras.layers.Layer):  # type: ignore[misc]  # Keras ships no usable types
    """`RelativeBias(spec)(query_positions, key_positions)` is `bias(...)` in the layer's compute dtype, or in `dtype`.

    Where the specification has a `weight_shape`, the layer owns a variable `weights` of it, `self.table`: at first
    normal, with mean 0 and standard deviation `std`. Positions are never cast. In a functional model they have to
    come from an input: of positions that are at hand Keras makes a constant, which is not trained.
    """

    def __init__(self, spec: DistanceSpec, *, std: float = 0.02, **options: Any) -> None:
        plan = bias_plan("RelativeBias", spec)
        self.spec, self.std = spec, checks.non_negative("RelativeBias.std", std)
        self.axes, self.heads = len(plan.axes), plan.heads
        # the variable is rounded once, to the dtype of the result
        super().__init__(autocast=False, **options)
        self._convert_input_args = False  # positions in a NumPy array are known, in a graph too
        self._allow_non_tensor_positional_args = True  # a range of positions need not be named
        start = keras.initializers.RandomNormal(stddev=self.std)
        shape = (plan.rows, plan.heads)
        self.table = (
            None
            if plan.rows is None
            else self.add_weight(name="weights", shape=shape, initializer=start, autocast=False)
        )

    def call(self, query_positions: Any, key_positions: Any, *, dtype: Any = None) -> Tensor:
        dtype = self.compute_dtype if dtype is None else dtype
        return bias(self.spec, query_positions, key_positions, weights=self.table, dtype=dtype)

    def compute_output_shape(self, query_positions_shape: Shape, key_positions_shape: Shape) -> Shape:
        tail = 1 if self.axes == 1 else 2
        lead = weight_checks.pair_lead("bias", query_positions_shape[:-tail], key_positions_shape[:-tail])
        return (*lead, self.heads, query_positions_shape[-tail], key_positions_shape[-tail])

    def compute_output_spec(self, query_positions: Any, key_positions: Any, *, dtype: Any = None) -> Any:
        shapes = []
        for name, positions in (("query", query_positions), ("key", key_positions)):
            shape = _shape_of(f"bias.{name}_positions", positions)
            if len(shape) < (1 if self.axes == 1 else 2) or (self.axes > 1 and shape[-1] not in (self.axes, None)):
                raise weight_checks.pair_shape_error(f"bias.{name}_positions", self.axes, shape)
            shapes.append(shape)
        chosen = self.compute_dtype if dtype is None else inputs.read_dtype("bias", dtype).name
        return keras.KerasTensor(self.compute_output_shape(*shapes), dtype=chosen)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "spec": to_json(self.spec), "std": self.std}  # type: ignore[arg-type]  # as above

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> RelativeBias:
        return cls(**{**config, "spec": from_json(config.get("spec", "no specification"))})


@keras.saving.register_keras_serializable(package="posenc")
class LearnedEncoding(keras.layers.Layer):  # type: ignore[misc]  # Keras ships no usable types
    """`LearnedEncoding(spec)(x, positions=None)` is `x` plus the rows that its positions read (None: 0, 1, 2, ...).

    The sum is rounded once, to the layer's compute dtype. The layer owns a variable `weights` of the specification's
    `weight_shape`, `self.table`: at first normal, with mean 0 and standard deviation `std`, and zeros in the row of a
    frozen position. Positions are never cast, and a mask passes through.
    """

    def __init__(self, spec: RowSpec, *, std: float = 0.02, **options: Any) -> None:
        plan = row_plan("LearnedEncoding", spec)
        self.spec, self.std, self.dim = spec, checks.non_negative("LearnedEncoding.std", std), plan.dim
        # the variable is added in its own dtype
        super().__init__(autocast=False, **options)
        self._convert_input_args = False  # positions in a NumPy array are known, in a graph too
        self.supports_masking = True
        self._allow_non_tensor_positional_args = True  # a range of positions need not be named

        def start(shape: Shape, dtype: Any) -> Tensor:
            values = keras.initializers.RandomNormal(stddev=self.std)(shape, dtype)
            if plan.frozen_position is None:
                return values
            thawed = tf.range(plan.rows) != plan.frozen_position + plan.offset
            return tf.where(thawed[:, None], values, tf.zeros((), values.dtype))

        self.table = self.add_weight(name="weights", shape=(plan.rows, plan.dim), initializer=start, autocast=False)

    def call(self, x: Tensor, positions: Any = None) -> Tensor:
        x = _computed(self, self.dtype_policy.convert_input(x, False, self.compute_dtype))
        x = inputs.read_x("LearnedEncoding", x, self.dim, rows=positions is None)
        if positions is None:
            length = None if x.shape.rank is None else x.shape[-2]
            positions = tf.range(tf.shape(x)[-2]) if length is None else range(length)
        else:
            positions = inputs.read_positions("lookup.positions", positions)
            _check_tokens(inputs.shape_of(positions), inputs.shape_of(x))
        return _plus(x, lookup(self.spec, self.table, positions))

    def compute_output_shape(self, x_shape: Shape, positions_shape: Shape | None = None) -> Shape:  # noqa: ARG002 - the arguments of `call`
        if not x_shape or x_shape[-1] not in (self.dim, None):
            raise checks.x_shape_error("LearnedEncoding", self.dim, x_shape)
        return (*x_shape[:-1], self.dim)

    def compute_output_spec(self, x: Any, positions: Any = None) -> Any:
        shape = self.compute_output_shape(x.shape)
        if positions is None:
            if len(shape) < 2:
                raise checks.x_rank_error("LearnedEncoding", self.dim, shape)
            known: inputs.Positions = range(shape[-2] or 0)
        elif isinstance(positions, keras.KerasTensor):
            known = range(0)
            _check_tokens(tuple(positions.shape), shape)
        else:
            known = inputs.read_positions("lookup.positions", positions)
            _check_tokens(inputs.shape_of(known), shape)
        if not tf.is_tensor(known):
            check_rows(row_plan("LearnedEncoding", self.spec), known)
        return keras.KerasTensor(shape, dtype=self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "spec": to_json(self.spec), "std": self.std}  # type: ignore[arg-type]  # as above

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> LearnedEncoding:
        return cls(**{**config, "spec": from_json(config.get("spec", "no specification"))})


def _check_tokens(positions: Shape | None, x: Shape | None) -> None:
    """Refuse positions that do not broadcast to the tokens of `x`, or one for several tokens."""
    inputs.check_broadcast("LearnedEncoding", positions, x)
    length = x[-2] if x is not None and len(x) > 1 else None
    if positions == () and length is not None and length > 1:
        raise checks.one_position_error("LearnedEncoding", length)


def _plus(x: Tensor, encoding: Tensor) -> Tensor:
    """`x` plus an encoding of any float dtype, rounded once to `x.dtype`."""
    wide = tf.float64 if tf.float64 in (x.dtype, encoding.dtype) else tf.float32
    encoding = tf.broadcast_to(encoding, tf.shape(x))  # fails where the encoding is the wider one
    if not (tf.executing_eagerly() and inputs.on_host(x) and inputs.on_host(encoding)):
        encoding = tf.cast(encoding, wide)
        return x + encoding if x.dtype == wide else narrowed_sum(x, encoding)

    @tf.custom_gradient  # type: ignore[untyped-decorator]  # as TensorFlow is
    def plus(x: Tensor, encoding: Tensor) -> tuple[Tensor, Any]:
        total = summed_arrays(np.asarray(x), np.asarray(encoding), x.dtype)
        return tf.constant(total), lambda upstream: (upstream, tf.cast(upstream, encoding.dtype))

    return plus(x, encoding)


def _shape_of(where: str, positions: Any) -> Shape:
    """The shape of positions that may be symbolic."""
    listed = checks.position_list(where, positions)
    if isinstance(positions, range) or listed is not None:
        return (len(positions),) if listed is None else listed.shape
    return tuple(positions.shape)
