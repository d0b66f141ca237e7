"""The moves of a port: which tensor becomes which, and what happens to its positions on the way."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, fields
from typing import Any, Literal

from posenc.interop import tensor_patterns
from posenc.spec import Rope, SpecError, checks
from posenc.spec.distance_plan import DistanceSpec, rows_plan
from posenc.spec.plan import lowered
from posenc.spec.row_plan import RowPlan, RowSpec

LAYOUTS = ("half", "interleaved")
CASTS = ("float64", "float32", "bfloat16", "float16")


@dataclass(frozen=True, slots=True)
class Rotary:
    """The tensor is a projection, bias or norm of queries or keys, whose channels `spec` turns.

    Parameters
    ----------
    spec : of the source: its layout is the one that these weights have.
    to : the pair layout that the weights get; that of `spec` where they stay as they are.
    heads : of this tensor, keys may have fewer; of a fused projection, True or False for each of its heads
        (`posenc.interop.layouts.concatenated`, `grouped`).
    axis : the axis of the source that has the channels, or `(heads, channels)`: as in `posenc.interop.layouts.permute`.
    """

    spec: Rope
    _: KW_ONLY
    to: Literal["half", "interleaved"]
    heads: int | tuple[bool, ...]
    axis: int | tuple[int, int] = 0

    def __post_init__(self) -> None:
        if not isinstance(self.spec, Rope):
            raise SpecError(f"Rotary.spec: expected a Rope, received {checks.shown(self.spec)}")
        checks.choice("Rotary.to", self.to, LAYOUTS)
        if isinstance(self.heads, list | tuple):
            if not self.heads or any(turns is not True and turns is not False for turns in self.heads):
                expected = "an integer >= 1, or True or False for every head"
                raise SpecError(f"Rotary.heads: expected {expected}, received {checks.shown(self.heads)}")
            object.__setattr__(self, "heads", tuple(self.heads))
        else:
            object.__setattr__(self, "heads", checks.integer("Rotary.heads", self.heads, minimum=1))
        object.__setattr__(self, "axis", _axis("Rotary.axis", self.axis))


@dataclass(frozen=True, slots=True)
class Rows:
    """The tensor is a table of trained rows: learned positions, or a bias.

    Parameters
    ----------
    source, target : the specifications that say what its rows are, before and after: two of `Learned`, or two of a
        bias by distance (`T5Bias`, `SwinIndex`, `ShawClip`, ...) in any combination. Each row of the target gets the
        row that the source reads for the same position or distance. None: those of the source stay as they are.
    axis : the axis of the source that has the rows: 1 for t5x, whose tables are `(heads, buckets)`.
    fill : what rows get that no position of the source reads: `zeros`. None: there are no such rows, else it is an
        error.
    """

    source: RowSpec | DistanceSpec
    target: RowSpec | DistanceSpec = None  # type: ignore[assignment]  # never None once it is made
    _: KW_ONLY
    axis: int = 0
    fill: Literal["zeros"] | None = None

    def __post_init__(self) -> None:
        if self.target is None:
            object.__setattr__(self, "target", self.source)
        for name in ("source", "target"):
            spec = getattr(self, name)
            if lowered(spec, RowPlan) is None:
                try:
                    rows_plan("Rows", spec)
                except SpecError:
                    expected = "a specification of a table of rows such as Learned(512, 768) or T5Bias(...)"
                    raise SpecError(f"Rows.{name}: expected {expected}, received {checks.shown(spec)}") from None
        object.__setattr__(self, "axis", checks.integer("Rows.axis", self.axis))
        checks.choice("Rows.fill", self.fill, ("zeros", None))


@dataclass(frozen=True, slots=True)
class Move:
    """Tensors whose names match `source` become those that `target` names.

    Done in this order: what `rotary` or `rows` says, the transposition `axes`, the new `shape`, the cast to `dtype`.

    Parameters
    ----------
    source, target : patterns of names: `{layer}` stands for a number, the same in both; `{layer:suffix}` writes it as
        Keras does in its files, nothing for 0, then `_1`, `_2`, ...
    rotary, rows : what the tensor has to do with positions; at most one of them.
    plain : why a tensor whose name looks positional (`q_proj`, `position_embeddings`) is moved as it is.
    axes : as of `numpy.transpose`: (1, 0) for the weight of a PyTorch `Linear` that becomes a kernel.
    shape : of the result, by a reshape: (64, 8, 16) for a kernel whose heads have an axis. None: as it comes.
    dtype : float64, float32, bfloat16 or float16, each number rounded once. None: as it is.
    """

    source: str
    target: str
    _: KW_ONLY
    rotary: Rotary | None = None
    rows: Rows | None = None
    plain: str | None = None
    axes: tuple[int, ...] | None = None
    shape: tuple[int, ...] | None = None
    dtype: str | None = None

    def __post_init__(self) -> None:
        source = tensor_patterns.fields("Move.source", self.source)
        target = tensor_patterns.fields("Move.target", self.target)
        if source != target:
            raise SpecError(f"Move.target: expected the words of {self.source!r}, received {checks.shown(self.target)}")
        for name, kind in (("rotary", Rotary), ("rows", Rows)):
            if not isinstance(getattr(self, name), kind | None):
                raise SpecError(
                    f"Move.{name}: expected {kind.__name__}(...), received {checks.shown(getattr(self, name))}"
                )
        said = [name for name in ("rotary", "rows", "plain") if getattr(self, name) is not None]
        if len(said) > 1:
            raise SpecError(f"Move.{said[1]}: expected one of rotary, rows and plain, received {' and '.join(said)}")
        check_reason("Move.plain", self.plain, optional=True)
        if self.axes is not None:
            axes = tuple(self.axes) if isinstance(self.axes, list | tuple) else self.axes
            if isinstance(axes, tuple):
                axes = tuple(checks.integer(f"Move.axes[{i}]", axis) for i, axis in enumerate(axes))
            if not isinstance(axes, tuple) or sorted(axes) != list(range(len(axes))):
                raise SpecError(
                    f"Move.axes: expected every axis once, such as (1, 0), received {checks.shown(self.axes)}"
                )
            object.__setattr__(self, "axes", axes)
        if self.shape is not None:
            if not isinstance(self.shape, list | tuple):
                raise SpecError(
                    f"Move.shape: expected a sequence of integers >= 0, received {checks.shown(self.shape)}"
                )
            shape = tuple(checks.integer(f"Move.shape[{i}]", n, minimum=0) for i, n in enumerate(self.shape))
            object.__setattr__(self, "shape", shape)
        checks.choice("Move.dtype", self.dtype, (*CASTS, None))


def told(move: Move) -> list[str]:
    """What a move does, in words."""
    told = []
    if move.rotary is not None:
        reads = move.rotary.spec.rotation().reads
        heads = move.rotary.heads
        count = heads if isinstance(heads, int) else f"{sum(heads)} of {len(heads)}"
        layout = f"stays {reads}" if reads == move.rotary.to else f"{reads} to {move.rotary.to}"
        told.append(f"{layout}, {count} heads of {move.rotary.spec.head_dim}")
    if move.rows is not None:
        same = move.rows.source == move.rows.target
        told.append(
            f"rows of {_short(move.rows.source)}" + ("" if same else f" to those of {_short(move.rows.target)}")
        )
        if move.rows.fill is not None:
            told.append(f"{move.rows.fill} where no position reads")
    if move.plain is not None:
        told.append(f"as it is ({move.plain})")
    if move.axes is not None:
        told.append(f"axes {list(move.axes)}")
    if move.shape is not None:
        told.append(f"shape {list(move.shape)}")
    if move.dtype is not None:
        told.append(f"to {move.dtype}")
    return told


def _short(spec: Any) -> str:
    """A specification without the fields that have their default."""
    said = [one.name for one in fields(spec) if one.name != "_" and getattr(spec, one.name) != one.default]
    return f"{type(spec).__name__}({', '.join(f'{name}={getattr(spec, name)!r}' for name in said)})"


def check_reason(where: str, reason: object, *, optional: bool = False) -> None:
    if not (optional and reason is None) and (not isinstance(reason, str) or not reason.strip()):
        raise SpecError(f"{where}: expected a reason in words, received {checks.shown(reason)}")


def _axis(where: str, axis: Any) -> int | tuple[int, int]:
    if not isinstance(axis, list | tuple):
        return checks.integer(where, axis)
    if len(axis) != 2:
        raise SpecError(f"{where}: expected one axis, or two: heads and channels, received {checks.shown(axis)}")
    return checks.integer(f"{where}[0]", axis[0]), checks.integer(f"{where}[1]", axis[1])
