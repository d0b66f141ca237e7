"""A plan held against what is there: every tensor accounted for, and each step with its shapes and dtypes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping

from posenc.interop import tensor_patterns
from posenc.interop.contents import Entry
from posenc.interop.port_plan import UNDECIDED, Move, Plan, Rotary
from posenc.interop.port_step import Sizes, Step, UnfitError, after, looks_positional, sizes
from posenc.interop.safetensors_header import CheckpointError
from posenc.interop.tensor_names import listed, summary
from posenc.spec import SpecError

__all__ = ["Step", "steps"]

_UNFIT = Entry((), "unfit")
"""Of a step that is complained about already."""
Complain = Callable[[str, Iterable[str]], None]


def steps(plan: Plan, source: Mapping[str, Entry], target: Mapping[str, Entry] | None = None) -> list[Step]:
    """Every tensor of the port, in the order of the plan and of the source.

    `target` is what the target has: names, shapes and dtypes are then those, and what is not filled is `kept`. None:
    the moves alone say it. Raises CheckpointError with all that does not fit: tensors of the source that are neither
    moved nor left out, tensors of the target that are neither filled nor kept, patterns that no tensor has, shapes,
    dtypes, tensors that look positional without `rotary`, `rows` or `plain`, and two layouts of one rotation.
    """
    complaints: dict[str, list[str]] = {}

    def complain(about: str, names: Iterable[str]) -> None:
        names = list(names)
        if names:
            complaints.setdefault(about, []).extend(names)

    for name, reasons in (("left_out", plan.left_out), ("kept", plan.kept)):
        undecided = [pattern for pattern, reason in reasons.items() if reason.strip().lower() == UNDECIDED]
        complain(f"expected a move, or a reason in {name}, received {UNDECIDED!r}", undecided)
    made = list(_made(plan, source, complain))
    if plan.moves and source and not made:
        backwards = any(tensor_patterns.matching(move.target, source) for move in plan.moves)
        hint = "; the targets of its moves do: are source and target exchanged?" if backwards else ""
        some = ", ".join(f"{name!r:.200}" for name in list(summary(source))[:3])
        raise CheckpointError(
            f"port: expected moves whose sources are tensors of the source ({some}, ...), received a plan of which "
            f"no move fits{hint}"
        )
    sources, targets = {step.source for step in made}, Counter(step.target for step in made)
    left_out = _matching(plan.left_out, source, complain, "expected a tensor of the source for left_out, received none")
    both, told = sources & left_out, sources | left_out
    complain("expected to be moved or left out, received both", [name for name in source if name in both])
    left = [name for name in source if name not in told]
    complain("expected a move or a reason in left_out for this tensor of the source, received neither", left)
    _check_layouts(made, complain)
    several = [name for name, times in targets.items() if times > 1]
    complain("expected one source for this target, received several", several)
    if target is None:
        complain("expected a target that has the tensors to be kept, received none", plan.kept)
    else:
        kept = _matching(plan.kept, target, complain, "expected a tensor of the target for kept, received none")
        unknown = [name for name in targets if name not in target]
        left = [name for name in target if name not in kept and name not in targets]
        complain("expected to be filled or kept, received both", [name for name in targets if name in kept])
        complain("expected a move or a reason in kept for this tensor of the target, received neither", left)
        complain("expected a name that the target has, received a move to it", unknown)
        for step in made:
            for text in _differing(step.after, target.get(step.target, step.after)):
                complain(text, [step.target])
    if complaints:
        raise CheckpointError(f"port: {listed(complaints)}")
    return made


def _made(plan: Plan, source: Mapping[str, Entry], complain: Complain) -> Iterator[Step]:
    for move in plan.moves:
        found = tensor_patterns.matching(move.source, source)
        complain("expected a tensor of the source for this move, received none", [] if found else [move.source])
        rows = _sizes(move, complain)
        for name, each in found.items():
            target, before = tensor_patterns.written(move.target, each), source[name]
            bare = move.rotary is None and move.rows is None and move.plain is None
            if bare and any(looks_positional(text, before.shape) for text in (name, target)):
                complain("expected rotary, rows or plain for what looks positional, received none of them", [name])
            result = _UNFIT
            try:
                if move.rows is None or rows is not None:
                    result = after(move, before, rows)
            except UnfitError as reason:
                complain(str(reason), [name])
            yield Step(move, name, target, before, result)


def _check_layouts(made: Iterable[Step], complain: Complain) -> None:
    """What one rotation turns has one layout, before and after: a query in another one than its key is noise."""
    firsts: dict[tuple[object, ...], tuple[str, Rotary]] = {}
    for step in made:
        if step.move.rotary is None:
            continue
        rotary, spec = step.move.rotary, step.move.rotary.spec
        # in multi-head latent attention queries and keys have specifications of different widths
        angles = spec.rotation().pairs, spec.base, spec.scaling, spec.direction, spec.length
        name, first = firsts.setdefault(angles, (step.source, rotary))
        had, has = first.spec.rotation().reads, spec.rotation().reads
        for said, expected, received in (("has", had, has), ("gets", first.to, rotary.to)):
            if expected != received:
                other = f"which {name!r:.200} {said}, turned by the same angles, received {received}"
                complain(f"expected the layout {expected}, {other}", [step.source])


def _sizes(move: Move, complain: Complain) -> Sizes | None:
    try:
        return None if move.rows is None else sizes(move.rows)
    except SpecError as error:
        complain(str(error), [move.source])
        return None


def _matching(patterns: Iterable[str], there: Mapping[str, Entry], complain: Complain, missing: str) -> set[str]:
    found: set[str] = set()
    for pattern in patterns:
        names = tensor_patterns.matching(pattern, there)
        complain(missing, [] if names else [pattern])
        found.update(names)
    return found


def _differing(made: Entry, there: Entry) -> Iterator[str]:
    if made == _UNFIT:
        return
    if made.shape != there.shape:
        yield f"expected the shape {there.shape}, which the target has, received {made.shape}"
    if made.dtype != there.dtype:
        said = f"expected {there.dtype}, which the target has, or dtype={there.dtype!r} in the move"
        yield f"{said}, received {made.dtype}"
