"""The judge is shown learned tables, right and wrong: each mechanism of a report is caught, by its case."""

from __future__ import annotations

import inspect
import math
import struct
from fractions import Fraction
from typing import NamedTuple

import pytest
import torch

from posenc import Learned
from posenc.conformance.bounds import N1, N2, N2_ACCELERATOR, Mode, limit
from posenc.conformance.cases import NAN, vectors
from posenc.conformance.judge import Disagreement, judge
from posenc.conformance.protocol import DTYPES, WIDTHS, decoded
from posenc.spec.resampling import METHODS
from posenc.torch_impl import lookup, resize
from posenc.torch_impl.modules import LearnedEncoding
from tests.wrong import learned_rows, learned_shells, resized
from tests.wrong.learned_plain import PlainTable
from tests.wrong.learned_shells import PlainShell

VECTORS = vectors("learned")
CASES = {case.id: (group, case) for group in VECTORS.groups for case in group.cases}


class Wrong(NamedTuple):
    subject: type[PlainTable]
    dtype: str
    case: str
    flag: str
    mode: Mode = N1


BICUBIC, CORNERS, SMOOTH = "torch_bicubic", "torch_bilinear_align_corners", "torch_bicubic_antialias"
WRONG = [
    Wrong(learned_rows.OffsetForgotten, "float32", "opt.lookup/0003", "OffsetRows"),
    Wrong(learned_rows.OffsetForgotten, "float32", "bart.lookup/0001", "OffsetRows"),
    Wrong(learned_rows.OffsetTwice, "float32", "offset.lookup/0001", "OffsetRows"),
    Wrong(learned_rows.PaddingIndex, "float32", "fairseq.lookup/0002", "PaddingIdx"),
    Wrong(learned_rows.AlwaysTwo, "float32", "fairseq.lookup/0006", "PaddingIdx"),
    Wrong(learned_rows.RowsWithoutOffset, "float32", "roberta.lookup/0001", "LastPosition", N2),
    Wrong(learned_rows.LastRefused, "float32", "plain.lookup/0002", "LastPosition", N2),
    Wrong(learned_rows.PaddingZero, "float32", "fairseq.lookup/0003", "PaddingRow"),
    Wrong(learned_rows.PaddingCounted, "float32", "plain.lookup/0007", "PaddedLeft"),
    Wrong(learned_rows.PaddingCounted, "float32", "opt.lookup/0001", "PaddedLeft"),
    Wrong(learned_rows.PaddingGoesOn, "float32", "opt.lookup/0002", "PaddedRight"),
    Wrong(learned_rows.EveryOffsetHasPadding, "float32", "bart.lookup/0002", "NoPaddingRow"),
    Wrong(learned_rows.FirstRow, "float32", "plain.lookup/0003", "OwnPositions"),
    Wrong(learned_rows.WrongAxis, "float32", "plain.lookup/0004", "EqualSizes"),
    Wrong(learned_rows.PackedOn, "float32", "plain.lookup/0005", "Packed"),
    Wrong(learned_rows.Contiguous, "float32", "plain.lookup/0006", "Gaps"),
    Wrong(learned_rows.TableOfCall, "float32", "plain.lookup/0006", "Gaps", N2),
    Wrong(learned_rows.StepFromZero, "float32", "opt.lookup/0003", "OnePosition"),
    Wrong(learned_rows.StepOneOff, "float32", "opt.lookup/0003", "OnePosition"),
    Wrong(learned_rows.RangeFromZero, "float32", "plain.lookup/0011", "Offset"),
    Wrong(learned_rows.StaleRange, "float32", "plain.lookup/0011", "Offset"),
    Wrong(learned_rows.RingBuffer, "float32", "long.lookup/0001", "PastBfloat16"),
    Wrong(learned_rows.Bfloat16Positions, "float32", "long.lookup/0001", "PastBfloat16"),
    Wrong(learned_rows.Float16Positions, "float32", "long.lookup/0001", "PastFloat16"),
    Wrong(learned_rows.ScalarAxis, "float32", "plain.lookup/0002", "Scalar"),
    Wrong(learned_rows.TokensForgotten, "float32", "patches.lookup/0001", "ClassToken"),
    Wrong(learned_rows.Clamped, "float32", "plain.lookup/0012", "PastTheEnd"),
    Wrong(learned_rows.Clamped, "float32", "fairseq.lookup/0001", "FarOutside", N2),
    Wrong(learned_rows.ClampedBelow, "float32", "plain.lookup/0013", "BelowZero", N2),
    Wrong(learned_rows.FromTheEnd, "float32", "plain.lookup/0013", "BelowZero"),
    Wrong(learned_rows.BoundOfRows, "float32", "fairseq.lookup/0005", "BelowZero"),
    Wrong(learned_rows.Modulo, "float32", "roberta.lookup/0002", "PastTheEnd", N2),
    Wrong(learned_rows.Zeros, "float32", "plain.lookup/0012", "PastTheEnd", N2),
    Wrong(learned_rows.Overflow, "float32", "fairseq.lookup/0001", "FarOutside", N2),
    Wrong(learned_rows.Answers, "float32", "plain.lookup/0012", "PastTheEnd"),
    Wrong(learned_rows.ScaleForgotten, "float32", "scale.lookup/0001", "Scale"),
    Wrong(learned_rows.ScaleTwice, "float32", "scale.lookup/0001", "Scale"),
    Wrong(learned_rows.ScaleDivides, "float32", "scale.lookup/0001", "Scale"),
    Wrong(learned_rows.ScaleNarrow, "float16", "scale.lookup/0002", "ScaleInFloat32", N2),
    Wrong(learned_rows.TwoEncodings, "float32", "plain.lookup/0001", "Plain"),
    Wrong(resized.SquareRoot, "float32", f"{BICUBIC}.resize/0001", "NotSquare", N2),
    Wrong(resized.SquareRoot, "float32", "torch_bilinear.resize/0002", "UpAndDown", N2),
    Wrong(resized.SquareGrid, "float32", f"{BICUBIC}.resize/0001", "NotSquare", N2),
    Wrong(resized.Transposed, "float32", f"{BICUBIC}.resize/0006", "Axes", N2),
    Wrong(resized.WidthFirst, "float32", f"{BICUBIC}.resize/0007", "Axes", N2),
    Wrong(resized.ChannelsForRows, "float32", f"{BICUBIC}.resize/0003", "Channels", N2),
    Wrong(resized.TokensResampled, "float32", f"{BICUBIC}.resize/0015", "ClassToken", N2),
    Wrong(resized.TokensDropped, "float32", f"{BICUBIC}.resize/0001", "ClassToken", N2),
    Wrong(resized.OffsetResampled, "float32", f"{BICUBIC}.resize/0015", "OffsetRows", N2),
    Wrong(resized.NotUsed, "float32", f"{BICUBIC}.resize/0001", "Up", N2),
    Wrong(resized.SameCount, "float32", f"{BICUBIC}.resize/0006", "SameCount", N2),
    Wrong(resized.StaysUnread, "float32", "dino_bicubic.resize/0005", "OneAxisStays", N2),
    Wrong(resized.UnchangedResampled, "float32", "dino_bicubic.resize/0004", "Unchanged", N2),
    Wrong(resized.FactorFloor, "float32", "dino_bicubic.resize/0010", "FactorFloor", N2),
    Wrong(resized.TwoAxes, "float32", f"{BICUBIC}.resize/0016", "ThreeAxes", N2),
    Wrong(resized.NoAntialias, "float32", "torch_bilinear_antialias.resize/0002", "UpAndDown", N2),
    Wrong(resized.NoAntialias, "float32", f"{SMOOTH}.resize/0009", "Down", N2),
    Wrong(resized.NoAntialias, "float32", "jax_cubic.resize/0003", "JaxCubic", N2),
    Wrong(resized.NoAntialias, "float32", "jax_linear.resize/0003", "JaxLinear", N2),
    Wrong(resized.NoAntialias, "float32", "tf_bilinear_antialias.resize/0003", "TfBilinearAntialias", N2),
    Wrong(resized.Antialias, "float32", "torch_bilinear.resize/0009", "Down", N2),
    Wrong(resized.Antialias, "float32", "jax_linear_no_antialias.resize/0009", "JaxLinearNoAntialias", N2),
    Wrong(resized.Corners, "float32", "torch_bilinear.resize/0008", "TorchBilinear", N2),
    Wrong(resized.Corners, "float32", f"{BICUBIC}.resize/0008", "TorchBicubic", N2),
    Wrong(resized.Corners, "float32", "tf_bilinear.resize/0008", "TfBilinear", N2),
    Wrong(resized.NoCorners, "float32", f"{CORNERS}.resize/0008", "TorchBilinearAlignCorners", N2),
    Wrong(
        resized.NoCorners,
        "float32",
        "torch_bilinear_antialias_align_corners.resize/0009",
        "TorchBilinearAntialiasAlignCorners",
        N2,
    ),
    Wrong(resized.NoCorners, "float32", "torch_bicubic_align_corners.resize/0008", "TorchBicubicAlignCorners", N2),
    Wrong(
        resized.NoCorners,
        "float32",
        "torch_bicubic_antialias_align_corners.resize/0009",
        "TorchBicubicAntialiasAlignCorners",
        N2,
    ),
    Wrong(resized.Linear, "float32", f"{BICUBIC}.resize/0001", "TorchBicubic", N2),
    Wrong(resized.Cubic, "float32", "torch_bilinear.resize/0001", "TorchBilinear", N2),
    Wrong(resized.KeysForTorch, "float32", f"{BICUBIC}.resize/0008", "TorchBicubic", N2),
    Wrong(resized.KeysForTorch, "float32", "dino_bicubic.resize/0008", "DinoBicubic", N2),
    Wrong(resized.TorchForKeys, "float32", f"{SMOOTH}.resize/0008", "TorchBicubicAntialias", N2),
    Wrong(resized.TorchForKeys, "float32", "jax_cubic_no_antialias.resize/0008", "JaxCubicNoAntialias", N2),
    Wrong(resized.EdgesRepeated, "float32", "jax_cubic_no_antialias.resize/0008", "JaxCubicNoAntialias", N2),
    Wrong(resized.EdgesRepeated, "float32", "torch_bilinear_antialias.resize/0009", "TorchBilinearAntialias", N2),
    Wrong(resized.EdgesDropped, "float32", f"{BICUBIC}.resize/0008", "TorchBicubic", N2),
    Wrong(resized.NoTable, "float32", "tf_bicubic.resize/0008", "TfBicubic", N2),
    Wrong(resized.SizeForFactor, "float32", "dino_bicubic.resize/0008", "DinoBicubic", N2),
    Wrong(resized.EdgesLost, "float32", "tf_bicubic_antialias.resize/0003", "TfBicubicAntialias", N2),
    Wrong(resized.OneFactor, "float32", f"{SMOOTH}.resize/0006", "Axes", N2),
    Wrong(resized.InBfloat16, "bfloat16", f"{BICUBIC}.resize/0002", "Digits", N2),
    Wrong(resized.InFloat32, "float32", f"{BICUBIC}.resize/0002", "Digits"),
    Wrong(resized.InFloat32, "float64", f"{BICUBIC}.resize/0002", "Digits", N2),
    Wrong(resized.LastAxisFirst, "float64", f"{SMOOTH}.resize/0002", "Digits"),
    Wrong(resized.Fused, "float64", f"{BICUBIC}.resize/0002", "Digits"),
    Wrong(resized.TapsDescending, "float64", f"{SMOOTH}.resize/0002", "Digits"),
    Wrong(resized.TwoRoundings, "bfloat16", "torch_bilinear.resize/0016", "DoubleRounding"),
    Wrong(resized.TwoRoundings, "float16", "torch_bilinear.resize/0017", "DoubleRounding"),
]


def disagreement(subject, identifier, dtype, mode):
    """What the judge says of one case, after the cases before it in its group."""
    group, _ = CASES[identifier]
    for verdict in judge(subject, mode, group, dtype):
        if verdict.case.id == identifier:
            return verdict.disagreement
    raise KeyError(identifier)


@pytest.mark.parametrize("wrong", WRONG, ids=lambda w: f"{w.subject.__name__}-{w.case}-{w.dtype}-{w.mode.name}")
def test_a_wrong_table_is_caught_by_the_case_that_hunts_it(wrong):
    identifier, refuses = f"learned.{wrong.case}", wrong.mode is N1
    found = disagreement(wrong.subject(refuses=refuses), identifier, wrong.dtype, wrong.mode)
    assert isinstance(found, Disagreement)
    assert found.where.startswith(identifier)
    assert wrong.flag in CASES[identifier][1].flags
    right = disagreement(PlainTable(refuses=refuses), identifier, wrong.dtype, wrong.mode)
    assert right is None  # so it is this step that is wrong


def test_every_wrong_table_is_tried_and_says_where_it_comes_from():
    kinds = {
        kind
        for module in (learned_rows, resized)
        for kind in vars(module).values()
        if inspect.isclass(kind) and issubclass(kind, PlainTable) and "reports" in vars(kind) and kind is not PlainTable
    }
    assert kinds == {wrong.subject for wrong in WRONG}
    for kind in kinds:
        assert all(report.startswith(("https://", "no report: ")) for report in kind.reports), kind


def test_every_flag_and_every_method_has_a_wrong_table_that_it_catches():
    hunted = {wrong.flag for wrong in WRONG}
    used = {flag for group in VECTORS.groups for case in group.cases for flag in case.flags}
    assert used - hunted == {"OneAxis", "SizeOne"}  # shapes on which a wrong table mostly raises
    assert {case.method for group in VECTORS.groups for case in group.cases if case.method} == METHODS.keys()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mode", [N1, N2], ids=["host", "trace"])
def test_a_plain_table_is_right(mode, dtype):
    count = 0
    for group in VECTORS.groups:
        if dtype in group.dtypes:
            found = [verdict.disagreement for verdict in judge(PlainTable(refuses=mode is N1), mode, group, dtype)]
            assert found == [None] * len(group.cases)
            count += len(found)
    assert count >= 280


# --- What the judge asks of an answer ---


class Liar(PlainTable):
    """The plain table, after `change`."""

    def __init__(self, change, *, refuses=True):
        super().__init__(refuses=refuses)
        self.change = change

    def lookup(self, *question):
        return self.change(super().lookup(*question))

    def resize(self, *question):
        return self.change(super().resize(*question))


def moved(index, steps):
    """An answer with one entry moved by some units in the last place."""

    def change(answer):
        width = WIDTHS[answer.dtype]
        word = (answer.pattern(index) + steps).to_bytes(width, "little")
        return answer._replace(data=answer.data[: index * width] + word + answer.data[(index + 1) * width :])

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a._replace(dtype="float64"), "expected one of float32, received an array of float64"),
        (lambda a: a._replace(shape=(7, 2)), "expected shape (8, 2), received shape (7, 2)"),
        (lambda a: a._replace(data=a.data[:-4]), "expected 64 bytes, received 60 bytes"),
        (moved(5, 1), "entry 5, float32"),
        (lambda a: a._replace(data=struct.pack("<f", math.nan) + a.data[4:]), "received nan"),
    ],
    ids=["dtype", "shape", "short", "unit", "nan"],
)
def test_a_lying_lookup_is_caught(change, message):
    for mode in (N1, N2):
        found = disagreement(Liar(change), "learned.plain.lookup/0001", "float32", mode)
        assert message in str(found)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_outside_is_nan_in_every_channel_and_no_other_is(dtype):
    identifier = "learned.fairseq.lookup/0001"
    group, case = CASES[identifier]
    width, size = WIDTHS[dtype], len(case.channels)
    outside = [index for index in range(size) if case.expected[dtype][index] == NAN]
    assert len(outside) == 3 * group.spec.dim
    right = PlainTable(refuses=False).lookup(group.spec, case.weights.answer(dtype), case.positions)
    nan = right.data[outside[0] * width :][:width]
    assert math.isnan(decoded(int.from_bytes(nan, "little"), dtype))
    for index in range(size):
        other = bytes(width) if index in outside else nan
        change = lambda a, i=index, new=other: a._replace(data=a.data[: i * width] + new + a.data[(i + 1) * width :])  # noqa: E731
        found = disagreement(Liar(change, refuses=False), identifier, dtype, N2)
        assert f"entry {index}, {dtype}" in str(found)


@pytest.mark.parametrize("mode", [N1, N2])
def test_the_bound_of_a_resized_table_holds_where_it_says(mode):
    """Kept rows and the host: identical bits. In a trace 5 * 2^-22 * max|x| is allowed, 20 units of the greatest."""
    identifier = "learned.torch_bicubic.resize/0001"
    _, case = CASES[identifier]
    index = max(range(2, len(case.truth)), key=lambda i: abs(case.truth[i]))
    assert disagreement(Liar(moved(0, 1)), identifier, "float32", mode).limit == "identical bits"
    for steps, allowed in ((1, mode is N2), (100, False)):
        found = disagreement(Liar(moved(index, steps)), identifier, "float32", mode)
        assert (found is None) == allowed, steps


def test_bounds_are_those_of_the_contract():
    group, case = CASES["learned.torch_bicubic.resize/0001"]  # (3, 2) to (4, 5), two channels behind one row
    for channel in (0, 1):
        widest = max(abs(Fraction(x)) for x in case.weights.values[2 + channel :: 2])
        assert limit(group, case, 2 + channel, "float32", N2)[0] == 5 * widest / 2**22
        assert limit(group, case, 2 + channel, "float64", N2)[0] == 5 * widest / 2**51
        assert limit(group, case, 2 + channel, "float64", N2_ACCELERATOR)[0] == 5 * widest / 2**22
        narrow = limit(group, case, 2 + channel, "bfloat16", N2)[0] - 5 * widest / 2**22
        assert narrow in {Fraction(1, 2**k) for k in range(2, 20)}
    for mode in (N1, N2, N2_ACCELERATOR):
        assert limit(group, case, 0, "float32", mode) == (0, "identical bits")
    assert limit(group, case, 2, "float64", N1) == (0, "identical bits")


# --- What no vector shows: the life of a layer around a table ---

FROZEN = Learned.fairseq(6, 4)
BATCH = torch.tensor([[0, 1, 2, 3], [-1, -1, 0, 1]])


def trained(shell):
    """AdamW, with decay, over padded batches: the frozen row keeps its zeros, and all that was read moves."""
    optimiser = torch.optim.AdamW(shell.parameters(), lr=0.1, weight_decay=0.5)
    before = shell.weights.detach().clone()
    assert (before[1] == 0).all()
    for _ in range(3):
        optimiser.zero_grad()
        shell(torch.ones(2, 4, 4), BATCH).sin().sum().backward()
        assert (shell.weights.grad[[0, 1, 6, 7]] == 0).all()
        optimiser.step()
    assert (shell.weights[1] == 0).all()
    assert (shell.weights[2:6] != before[2:6]).all()


def kept(shell):
    """A checkpoint has the table, and nothing else."""
    assert list(shell.state_dict()) == ["weights"]
    shell.load_state_dict({"weights": torch.ones(shell.spec.weight_shape)}, strict=True)


def emptied(shell):
    """Made on the meta device, given memory, and drawn again."""
    with torch.device("meta"):
        other = type(shell)(shell.spec)
    other.to_empty(device="cpu")
    torch.nn.init.constant_(other.weights, math.nan)
    other.reset_parameters()
    assert torch.isfinite(other.weights).all()
    assert (other.weights[1] == 0).all()
    assert 0 < other.weights[2:].std() < 0.1
    assert torch.equal(other(torch.zeros(4, 4)), other.weights[2:6])


def cast(shell):
    """A cast rounds the table, and no position."""
    spec = Learned(590, 4)
    other = type(shell)(spec).to(torch.bfloat16)
    assert torch.equal(other(torch.zeros(590, 4, dtype=torch.bfloat16)), other.weights)


def resized_and_loaded(shell):
    """The resized table of a checkpoint is what the layer of the resized specification reads."""
    spec = Learned.patches((2, 3), 4)
    table = resize(spec, torch.arange(28.0).reshape(7, 4), (3, 4), method="torch_bicubic")
    other = type(shell)(spec.resized((3, 4)))
    other.load_state_dict({"weights": table})
    assert torch.equal(other(torch.zeros(13, 4)), table)


def added(shell):
    """Each row once, to the input as it is."""
    x = torch.full((2, 4, 4), 0.5)
    assert torch.equal(shell(x, BATCH), x + lookup(FROZEN, shell.weights, BATCH))


LIVES = (trained, kept, emptied, cast, resized_and_loaded, added)
WRONG_LIVES = {
    learned_shells.FrozenTrained: trained,
    learned_shells.FrozenDecayed: trained,
    learned_shells.NothingTrained: trained,
    learned_shells.PositionsKept: kept,
    learned_shells.PositionsCast: cast,
    learned_shells.EmptyPositions: emptied,
    learned_shells.FrozenForgotten: emptied,
    learned_shells.LoadedElsewhere: resized_and_loaded,
    learned_shells.InputScaled: added,
    learned_shells.AddedTwice: added,
}


@pytest.mark.parametrize("life", LIVES, ids=lambda life: life.__name__)
@pytest.mark.parametrize("kind", [LearnedEncoding, PlainShell])
def test_the_life_of_a_layer(kind, life):
    torch.manual_seed(0)
    life(kind(FROZEN))


@pytest.mark.parametrize("kind", WRONG_LIVES, ids=lambda kind: kind.__name__)
def test_a_wrong_life_is_seen(kind):
    assert all(report.startswith(("https://", "no report: ")) for report in kind.reports)
    torch.manual_seed(0)
    with pytest.raises((AssertionError, RuntimeError)):
        WRONG_LIVES[kind](kind(FROZEN))


def test_every_wrong_life_is_tried():
    kinds = {kind for kind in vars(learned_shells).values() if inspect.isclass(kind) and issubclass(kind, PlainShell)}
    assert kinds - {PlainShell} == WRONG_LIVES.keys()
