"""The PyTorch column: on the host, under `torch.compile`, on a CUDA device. No NumPy: PyTorch does not require it."""

from __future__ import annotations

import ctypes
import os
import shutil
import sysconfig
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any

import torch

from posenc import torch_impl
from posenc.conformance.cases import PHASE, ROWS
from posenc.conformance.protocol import DTYPES, Answer, NotRun, Positions, Table
from posenc.spec.distance_plan import DistanceSpec
from posenc.spec.plan import PhaseSpec, RotarySpec
from posenc.spec.resampling import Method
from posenc.spec.row_plan import RowSpec


class Eager:
    """`posenc.torch_impl`, called as it is."""

    def __init__(self, device: str = "cpu") -> None:
        self._device = device

    def phase(self, spec: PhaseSpec, positions: Positions) -> Answer:
        return _answer(torch_impl.phase(spec, self._places(positions)))

    def encode(self, spec: PhaseSpec, positions: Positions, dtype: str) -> Answer:
        return _answer(torch_impl.encode(spec, self._places(positions), dtype=getattr(torch, dtype)))

    def add(self, spec: PhaseSpec, x: Answer, positions: Positions | None) -> Answer:
        places = None if positions is None else self._places(positions)
        return _answer(torch_impl.add(spec, _tensor(x).to(self._device), places))

    def table(self, spec: RotarySpec, positions: Positions, dtype: str) -> Table:
        return Table(*map(_answer, torch_impl.table(spec, self._places(positions), dtype=getattr(torch, dtype))))

    def rotate(self, spec: RotarySpec, x: Answer, table: Table, head_axis: int | None) -> Answer:
        entries, *pair = (_tensor(part).to(self._device) for part in (x, *table))
        return _answer(torch_impl.rotate(spec, entries, torch_impl.Table(*pair), head_axis=head_axis))

    def rows(self, spec: DistanceSpec, query: Positions, key: Positions) -> Answer:
        return _answer(torch_impl.rows(spec, self._places(query), self._places(key)))

    def bias(self, spec: DistanceSpec, query: Positions, key: Positions, weights: Answer | None, dtype: str) -> Answer:
        own = None if weights is None else _tensor(weights).to(self._device)
        places = self._places(query), self._places(key)
        return _answer(torch_impl.bias(spec, *places, weights=own, dtype=getattr(torch, dtype)))

    def lookup(self, spec: RowSpec, weights: Answer, positions: Positions) -> Answer:
        return _answer(torch_impl.lookup(spec, _tensor(weights).to(self._device), self._places(positions)))

    def resize(self, spec: RowSpec, weights: Answer, shape: tuple[int, ...], method: Method) -> Answer:
        return _answer(torch_impl.resize(spec, _tensor(weights).to(self._device), shape, method=method))

    def _places(self, positions: Positions) -> range | torch.Tensor:
        if isinstance(positions.values, range) and self._device == "cpu":
            return positions.values  # which has a path of its own
        return _places(positions).to(self._device)


class Compiled:
    """`posenc.torch_impl` under `torch.compile`, as one graph.

    A compilation takes seconds: one graph answers for the phases and all dtypes, and later questions read from it.
    `aside` are the dtypes of sums and rotations, and of what is asked at float positions.
    """

    def __init__(self, backend: str, aside: tuple[str, ...] = DTYPES) -> None:
        self._backend, self._aside = backend, aside
        self._known: dict[Hashable, dict[str, tuple[Answer, ...]]] = {}
        self._last: tuple[Hashable, Callable[..., Any] | None] = None, None

    def phase(self, spec: PhaseSpec, positions: Positions) -> Answer:
        (words,) = self._waves(spec, positions)[PHASE]
        return words

    def encode(self, spec: PhaseSpec, positions: Positions, dtype: str) -> Answer:
        (encoding,) = self._waves(spec, positions)[dtype]
        return encoding

    def table(self, spec: RotarySpec, positions: Positions, dtype: str) -> Table:
        return Table(*self._waves(spec, positions)[dtype])

    def add(self, spec: PhaseSpec, x: Answer, positions: Positions | None) -> Answer:
        entries = _tensor(x)
        key = (
            spec,
            x.shape,
            tuple(entries.double().flatten().tolist()),
            positions and (positions.shape, *positions.values),
        )
        wide = [entries.to(getattr(torch, dtype)) for dtype in self._aside]
        places = [] if positions is None else [_places(positions)]

        def sums(wide: list[torch.Tensor], *places: torch.Tensor) -> list[torch.Tensor]:
            return [torch_impl.add(spec, e, *places) for e in wide]

        (total,) = self._answers(key, self._aside, sums, wide, *places)[x.dtype]
        return total

    def rotate(self, spec: RotarySpec, x: Answer, table: Table, head_axis: int | None) -> Answer:
        entries, pair = _tensor(x), torch_impl.Table(*map(_tensor, table))
        # float64 takes another table than the rest, and asks for a graph of its own
        names = [x.dtype] if x.dtype == "float64" else [name for name in self._aside if name != "float64"]
        key = (spec, x.shape, tuple(entries.double().flatten().tolist()), table, head_axis, x.dtype == "float64")
        kinds = [entries.to(getattr(torch, name)) for name in names]

        def turned(kinds: list[torch.Tensor], pair: torch_impl.Table) -> list[torch.Tensor]:
            return [torch_impl.rotate(spec, e, pair, head_axis=head_axis) for e in kinds]

        (result,) = self._answers(key, names, turned, kinds, pair)[x.dtype]
        return result

    def rows(self, spec: DistanceSpec, query: Positions, key: Positions) -> Answer:
        def numbers(*places: torch.Tensor) -> list[torch.Tensor]:
            return [torch_impl.rows(spec, *places)]

        shapes = spec, query.shape, key.shape
        question = *shapes, tuple(query.values), tuple(key.values)
        places = _places(query), _places(key)
        (result,) = self._answers((ROWS, *question), (ROWS,), numbers, *places, graph=(ROWS, *shapes))[ROWS]
        return result

    def bias(self, spec: DistanceSpec, query: Positions, key: Positions, weights: Answer | None, dtype: str) -> Answer:
        own = None if weights is None else _tensor(weights)

        def biases(query: torch.Tensor, key: torch.Tensor, own: torch.Tensor | None) -> list[torch.Tensor]:
            kinds = [getattr(torch, name) for name in self._aside]
            return [torch_impl.bias(spec, query, key, weights=own, dtype=kind) for kind in kinds]

        shapes = "bias", spec, query.shape, key.shape, weights and (weights.dtype, weights.shape)
        question = *shapes, tuple(query.values), tuple(key.values), weights
        places = _places(query), _places(key)
        (result,) = self._answers(question, self._aside, biases, *places, own, graph=shapes)[dtype]
        return result

    def lookup(self, spec: RowSpec, weights: Answer, positions: Positions) -> Answer:
        def read(kinds: list[torch.Tensor], places: torch.Tensor) -> list[torch.Tensor]:
            return [torch_impl.lookup(spec, own, places) for own in kinds]

        numbers, kinds = self._kinds(weights)
        question = "lookup", spec, numbers, positions.shape, tuple(positions.values)
        graph = "lookup", spec, positions.shape
        (result,) = self._answers(question, self._aside, read, kinds, _places(positions), graph=graph)[weights.dtype]
        return result

    def resize(self, spec: RowSpec, weights: Answer, shape: tuple[int, ...], method: Method) -> Answer:
        def resized(kinds: list[torch.Tensor]) -> list[torch.Tensor]:
            return [torch_impl.resize(spec, own, shape, method=method) for own in kinds]

        numbers, kinds = self._kinds(weights)
        graph = "resize", spec, shape, method
        (result,) = self._answers((*graph, numbers), self._aside, resized, kinds, graph=graph)[weights.dtype]
        return result

    def _kinds(self, weights: Answer) -> tuple[tuple[float, ...], list[torch.Tensor]]:
        """The numbers of a table, and the table in every dtype that one graph answers for."""
        own = _tensor(weights)
        numbers = tuple(own.double().flatten().tolist())
        return numbers, [own.to(getattr(torch, name)) for name in self._aside]

    def _waves(self, spec: PhaseSpec, positions: Positions) -> dict[str, tuple[Answer, ...]]:
        dtypes = DTYPES if positions.dtype == "integer" else self._aside
        rotary = spec if isinstance(spec, RotarySpec) else None

        def wave(places: torch.Tensor, dtype: torch.dtype) -> Any:
            if rotary is not None:
                return torch_impl.table(rotary, places, dtype=dtype)
            return torch_impl.encode(spec, places, dtype=dtype)

        def waves(places: torch.Tensor) -> list[Any]:
            return [torch_impl.phase(spec, places), *(wave(places, getattr(torch, dtype)) for dtype in dtypes)]

        key = spec, positions.dtype, positions.shape, tuple(positions.values)
        return self._answers(key, (PHASE, *dtypes), waves, _places(positions))

    def _answers(
        self,
        key: Hashable,
        names: Sequence[str],
        function: Callable[..., list[Any]],
        *arguments: Any,
        graph: Hashable = None,
    ) -> dict[str, tuple[Answer, ...]]:
        """The answers to one question; the graph of the last one is used again where `graph` says it is the same."""
        if key not in self._known:
            last, compiled = self._last
            if compiled is None or graph is None or graph != last:
                torch._dynamo.reset()  # else the graphs of earlier questions count against the recompile limit
                compiled = torch.compile(function, backend=self._backend, fullgraph=True)
                self._last = graph, compiled
            results = compiled(*arguments)
            self._known[key] = {name: _answers(result) for name, result in zip(names, results, strict=True)}
        return self._known[key]


def host() -> Eager:
    return Eager()


def aot_eager() -> Compiled:
    return Compiled("aot_eager")


def inductor() -> Compiled:
    """Each dtype is a kernel of its own, which takes the C++ compiler seconds."""
    if compiler() is None:
        raise NotRun("no C++ compiler, or no Python headers")
    return Compiled("inductor", aside=("float32", "bfloat16"))


def compiler() -> str | None:
    """The C++ compiler that Inductor takes; None without one, or without Python's headers, which it includes."""
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        return None
    return shutil.which(os.environ.get("CXX", "g++"))


def cuda() -> Eager:
    if not torch.cuda.is_available():
        raise NotRun("no CUDA device")
    return Eager("cuda")


def _places(positions: Positions) -> torch.Tensor:
    dtype = torch.int64 if positions.dtype == "integer" else getattr(torch, positions.dtype)
    return torch.tensor(list(positions.values), dtype=dtype).reshape(positions.shape)


def _tensor(x: Answer) -> torch.Tensor:
    return torch.frombuffer(bytearray(x.data), dtype=getattr(torch, x.dtype)).reshape(x.shape)


def _answers(result: torch.Tensor | torch_impl.Table) -> tuple[Answer, ...]:
    """One, or those of both halves of a table."""
    return (_answer(result),) if isinstance(result, torch.Tensor) else tuple(map(_answer, result))


def _answer(result: torch.Tensor) -> Answer:
    result = result.detach().cpu().contiguous()
    size = result.numel() * result.element_size()
    data = ctypes.string_at(result.data_ptr(), size) if size else b""
    return Answer(str(result.dtype).removeprefix("torch."), tuple(result.shape), data)
