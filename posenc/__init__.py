"""The reference for transformer positional encodings.

Specifications live here; arrays come from the column of your framework: `from posenc.torch_impl import encode`, and
likewise `numpy_impl`, `jax_impl`, `tf_impl`. A column's functions, the same in all four:

    phase(spec, positions)                         `(*P, pairs, 3)` upper 32-bit words of each phase
    encode(spec, positions, *, dtype=float32)      `(*P, dim)` encoding vectors
    add(spec, x, positions=None)                   `x` plus its encoding; None means `range(x.shape[-2])`
    table(spec, positions, *, dtype=float32)       `Table(cos, sin)`, each `(*P, pairs)`, of a rotation
    rotate(spec, x, table, *, head_axis)           queries or keys `x` turned by a table
    rows(spec, query_positions, key_positions)     `(*B, Q, K)` int32: the row of a relative table, -1 where none is
    bias(spec, query_positions, key_positions, *, weights=None, dtype=float32)
                                                   `(*B, heads, Q, K)` added to attention scores; never a mask
    lookup(spec, weights, positions)               `(*P, dim)` rows of a learned table
    resize(spec, weights, shape, *, method)        a learned table for another grid

`encode` and `add` take a Sinusoidal, `table` and `rotate` a Rope, `phase` either; `bias` takes an Alibi, a T5Bias or a
SwinIndex, `rows` the last two and ShawClip, DebertaBuckets, TransformerXLIndex and MusicTransformerIndex; `lookup` and
`resize` take a Learned.

`positions`: a number, a range, a (nested) list or an array of integers, float32 or float64, of magnitude below 2^31;
`posenc.positions` makes those of padded, packed, cached and sharded batches. In `add` they broadcast to
`x.shape[:-1]`. `rows`, `bias` and `lookup` take integers only. Queries `(*B, Q)` and keys `(*B, K)` (with a last axis
of coordinates where a specification has several) have the same leading axes, or 1 in place of a size, or one of them
has none. `dtype`, and that of `x` and `weights`: float64, float32, bfloat16 or float16, as the framework's object or,
for `dtype`, its name. `x`, `weights`: an array of the framework; weights have the shape `spec.weight_shape`.
`head_axis`: the axis of `x` that holds the heads, None if there is none; without it and the last one `x` has the axes
of the positions, and those of the table are none (one position), the last of them (shared by all batch rows) or all of
them, each with the size of `x` or 1. What is refused raises ValueError (for a specification its subclass SpecError)
with one sentence: where, what was expected, what was received.

The numerical contract, by its clauses:

- N1, exact: from positions on the host, outside a trace, `encode`, `table` and the `bias` of slopes in float32,
  bfloat16 and float16 are correctly rounded at integer positions, identical in all columns; float64 is within 4 units
  in the last place plus 2^-62, a bias of slopes within one unit; at float positions a value is within half a unit
  plus 2^-48 times the magnitude (the output scale, or that of the scaling). A learned bias is the weight, rounded
  once to the dtype; `lookup` is the row itself, times the output scale if that is not 1; `resize` computes in
  float64, in the order that `ResizePlan` states, and rounds once: identical bits in all columns, but for those of a
  NaN.
- N2, fused: in a trace or on an accelerator, phases and rows are the same integers, a float32 value errs by at most
  2^-23 times the magnitude (2^-22 at float positions), a bias of slopes by at most 2^-22 of itself (none at the query
  and in float32 one beside it), a resized value, of at most n inputs or outputs an axis, by at most n * 2^-22 times
  the greatest input, and a half-precision output adds one rounding; float64 on a CPU is as in N1, a resized value
  within n * 2^-51 times the greatest input. Values of positions are not checked, unless they are known while tracing:
  a position outside a learned table gives NaN, as does the bias of a pair without a row. JAX and TensorFlow take
  subnormal weights for zero there.
- N3, rotation: products in float32 (float64 for float64), one rounding to the dtype of `x`: on the table given, an
  error of at most 2^-22 (2^-51 for float64) times the magnitude times max(|u|, |v|), plus half a unit of the output;
  two columns or modes differ by at most twice that. The same bits, but for those of a NaN, however an array is split,
  within one column and one mode; and in all columns outside a trace on a CPU, where numbers are not subnormal: JAX and
  TensorFlow take subnormal float32, bfloat16 and float64 numbers in `x` for zero.
- N4, no history: a result depends on the arguments alone.
- N5, positions are explicit: none is inferred, but for the one convenience of `add`.
- N6, decisions are exact: what a formula truncates, clamps or compares is decided in integers or exact arithmetic.
- N7, gradients: that of `add` with respect to `x` passes unchanged, that of `rotate` is turned back, that of `bias`,
  `lookup` and `resize` is the sum over what read a weight, but none through the padding row that a specification
  freezes; encodings, tables of rotations and slopes are constants.
"""

from posenc.spec import (
    Alibi,
    DebertaBuckets,
    DynamicNtk,
    Learned,
    Linear,
    Llama3,
    LongRope,
    MusicTransformerIndex,
    Ntk,
    Proportional,
    Rope,
    ShawClip,
    Sinusoidal,
    SpecError,
    SwinIndex,
    T5Bias,
    TransformerXLIndex,
    Yarn,
    YarnPaper,
    from_json,
    to_json,
)

__version__ = "0.1.0"
__all__ = [
    "Alibi",
    "DebertaBuckets",
    "DynamicNtk",
    "Learned",
    "Linear",
    "Llama3",
    "LongRope",
    "MusicTransformerIndex",
    "Ntk",
    "Proportional",
    "Rope",
    "ShawClip",
    "Sinusoidal",
    "SpecError",
    "SwinIndex",
    "T5Bias",
    "TransformerXLIndex",
    "Yarn",
    "YarnPaper",
    "__version__",
    "from_json",
    "to_json",
]
