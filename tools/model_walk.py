"""Compare every rotary embedding of the installed transformers with posenc built from the same configuration.

    python tools/model_walk.py [--output docs/models.md]

Runs in an environment of its own (`make peers`). Every rotary class that can be built from a configuration alone is,
from the default configuration of its model; those that a search by name misses are listed by hand, and what nobody
lists is an error. Compared are its frequencies, its table, and queries and keys turned by the model's own function.
The bounds within which they agree are derived in tools/model_rotation.py.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib
import importlib.metadata
import inspect
import os
import re
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
from model_rotation import POSITIONS, Agreement, Case, checked
from transformers import PreTrainedConfig

from posenc import Rope, SpecError
from posenc.interop.huggingface import layer_types

MODELS = Path(transformers.__file__).parent / "models"
ROTARY_NAME = re.compile("Rotary|Rope|RoPE")
ROTARY_FUNCTION = re.compile("apply_.*(rotary|rope)|rotate_(half|every|pairwise|queries)|rotary_position_embeddings")
NOT_DECLARED = {  # classes of attention that read two axes, and classes whose argument is no configuration of a model
    "EdgeTamVideoRoPECrossAttention": "several axes: not yet",
    "EdgeTamVideoRoPESelfAttention": "several axes: not yet",
    "EsmFold2RotaryEmbedding": "several axes: not yet (atoms in space)",
    "Sam2VideoRoPEAttention": "several axes: not yet",
    "Sam3TrackerVideoRoPEAttention": "several axes: not yet",
    "Sam3ViTRoPEAttention": "several axes: not yet",
    "VJEPA2RopeAttention": "several axes: not yet",
}
BY_HAND = ("codegen", "gptj", "roformer")
"""Rotations of one axis in functions that no rotary class goes with."""
OTHER_AXES = {"lightglue": "several axes: not yet (learned projection of two coordinates)"}
SWITCHED_ON = {
    "esm": {"position_embedding_type": "rotary"},
    "granitemoehybrid": {"position_embedding_type": "rope"},
    "seamless_m4t": {"position_embeddings_type": "rotary"},
    "wav2vec2-bert": {"position_embeddings_type": "rotary"},
    "wav2vec2-conformer": {"position_embeddings_type": "rotary"},
    "zamba2": {"use_mem_rope": True},
}
"""Without these the default configuration has no rotation."""
INSTEAD = {
    "hunyuan_v1_dense": ({"head_dim": 128}, "its default head size is null, which some rules fail on: with 128"),
    "hunyuan_v1_moe": ({"head_dim": 128}, "its default head size is null, which some rules fail on: with 128"),
    "glm4_moe": ({"head_dim": 128}, "its default head size is 4096 / 96: compared with 128"),
    "minimax_m3_vl_text": (
        {"rope_parameters": {"rope_type": "default", "rope_theta": 5e6, "partial_rotary_factor": 0.5}},
        "its default has rotary_dim = 64, which transformers does not read: compared with partial_rotary_factor 0.5",
    ),
}
REASONS = {
    "several axes are not supported yet": "several axes: not yet",
    "whose frequencies the configuration says": "frequencies times weights, which no configuration says",
}
SCALINGS: tuple[dict[str, Any], ...] = (
    {"rope_type": "linear", "factor": 4.0},
    {"rope_type": "dynamic", "factor": 2.0},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048},
    {
        "rope_type": "yarn",
        "factor": 40.0,
        "original_max_position_embeddings": 1024,
        "mscale": 0.707,
        "mscale_all_dim": 1.0,
        "beta_fast": 16.0,
        "beta_slow": 2.0,
    },
    {
        "rope_type": "yarn",
        "factor": 8.0,
        "original_max_position_embeddings": 512,
        "attention_factor": 1.25,
        "truncate": False,
    },
    {"rope_type": "longrope", "factor": 4.0, "original_max_position_embeddings": 2048},
    {
        "rope_type": "llama3",
        "factor": 8.0,
        "original_max_position_embeddings": 1024,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
    },
    {"rope_type": "proportional", "partial_rotary_factor": 0.25},
)
"""Tried on families whose code has the general rules."""
OWN_RULES: dict[str, tuple[dict[str, Any], ...]] = {
    **dict.fromkeys(
        ("hunyuan_v1_dense", "hunyuan_v1_moe"), ({"rope_type": "dynamic", "factor": 1.0, "alpha": 1000.0},)
    ),
    "phi3": (SCALINGS[5],),
    "phimoe": (
        {
            "rope_type": "longrope",
            "original_max_position_embeddings": 8192,
            "short_mscale": 1.125,
            "long_mscale": 1.25,
        },
    ),
}
"""Rules that only these have, or that they are known for."""


# What there is


def modules() -> Iterator[tuple[str, ModuleType]]:
    for path in sorted(MODELS.glob("*/modeling_*.py")):
        if re.search("rotary|rope|rotate", path.read_text(encoding="utf-8"), re.IGNORECASE):
            yield path.parent.name, importlib.import_module(f"transformers.models.{path.parent.name}.{path.stem}")


def configurations(family: str) -> list[type[PreTrainedConfig]]:
    found: dict[type[PreTrainedConfig], None] = {}
    for path in sorted((MODELS / family).glob("configuration_*.py")):
        module = importlib.import_module(f"transformers.models.{family}.{path.stem}")
        for kind in vars(module).values():
            if inspect.isclass(kind) and issubclass(kind, PreTrainedConfig) and kind.__module__ == module.__name__:
                found[kind] = None
    return list(found)


def rotary_classes(module: ModuleType) -> dict[str, type[torch.nn.Module]]:
    return {
        name: kind
        for name, kind in vars(module).items()
        if inspect.isclass(kind)
        and issubclass(kind, torch.nn.Module)
        and kind.__module__ == module.__name__
        and ROTARY_NAME.search(name)
    }


def annotated(module: ModuleType, kind: type[torch.nn.Module]) -> list[type[PreTrainedConfig]]:
    """The configuration that the class says it takes."""
    found = []
    for parameter in inspect.signature(kind.__init__).parameters.values():
        hint = parameter.annotation
        hint = getattr(module, hint, None) if isinstance(hint, str) else hint
        if inspect.isclass(hint) and issubclass(hint, PreTrainedConfig):
            found.append(hint)
    return found


def used_with(module: ModuleType, classes: dict[str, type[torch.nn.Module]]) -> Iterator[tuple[str, str]]:
    """Rotary classes, and the names of the configurations of the modules that make them."""
    for kind in ast.parse(Path(module.__file__ or "").read_text(encoding="utf-8")).body:
        for method in kind.body if isinstance(kind, ast.ClassDef) else ():
            if not isinstance(method, ast.FunctionDef) or method.name != "__init__":
                continue
            hints = [ast.unparse(item.annotation) for item in method.args.args if item.annotation is not None]
            calls = {ast.unparse(node.func) for node in ast.walk(method) if isinstance(node, ast.Call)}
            yield from ((name, hint) for name in classes.keys() & calls for hint in hints)


def cases(family: str, module: ModuleType) -> list[Case]:
    """Every rotary class with the configurations of its models, and the family's others with the nearest class."""
    classes, known = rotary_classes(module), {config.__name__: config for config in configurations(family)}
    pairs = [(name, known[hint]) for name, hint in used_with(module, classes) if hint in known]
    pairs += [(name, config) for name, kind in classes.items() for config in annotated(module, kind)]
    found: dict[tuple[str, type[PreTrainedConfig] | None], None] = {}
    for name, config in pairs:
        taken = any(config is other for _, other in found)
        if name not in NOT_DECLARED and not taken and not composite(config) and builds(classes[name], config):
            found[name, config] = None
    for config in known.values():
        near = [name for name in classes if name not in NOT_DECLARED and builds(classes[name], config)]
        if near and not composite(config) and not any(config is other for _, other in found):
            found[max(near, key=lambda name: shared(name, config.__name__)), config] = None
    for name in classes.keys() - {name for name, _ in found}:
        declared = [config for config in annotated(module, classes[name]) if name not in NOT_DECLARED]
        found[name, declared[-1] if declared else None] = None
    return sorted((Case(family, name, module, config) for name, config in found), key=str)


def shared(a: str, b: str) -> int:
    """How many characters two names begin with alike."""
    return next((index for index, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def composite(config: type[PreTrainedConfig]) -> bool:
    """A model whose parts have the rotations, and configurations of their own."""
    return bool(config.sub_configs) and "rope_parameters" not in config().to_dict()


def builds(kind: type[torch.nn.Module], config: type[PreTrainedConfig]) -> bool:
    with contextlib.suppress(Exception):  # most pairs are not meant for one another, and say so in many ways
        kind(config())
        return True
    return False


def missed(family: str, module: ModuleType) -> str | None:
    """Why a module with functions that rotate has no case; an empty text: nobody knows."""
    tree = ast.parse(Path(module.__file__ or "").read_text(encoding="utf-8"))
    functions = {
        node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and ROTARY_FUNCTION.search(node.name)
    }
    if not functions or rotary_classes(module):
        return None
    if family in OTHER_AXES:
        return OTHER_AXES[family]
    if family in BY_HAND:
        return None
    calls = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    inner = {"rotate_half", "rotate_every_two"}
    return "" if functions & calls - inner else "no rotation: its functions are defined and never called"


# The walk


class Row(NamedTuple):
    """One line of the report."""

    family: str
    name: str
    model_type: str = ""
    layer_type: str = ""
    spec: Rope | None = None
    agreement: Agreement | None = None
    tried: str = ""
    remark: str = ""
    failed: bool = False


def walk() -> Iterator[Row]:
    """Every family, in the order of their names."""
    seen: set[tuple[str, str]] = set()
    for family, module in modules():
        reason = missed(family, module)
        if reason is not None:
            yield Row(family, "functions", remark=reason or "not walked", failed=not reason)
        for case in by_hand(family, module) if family in BY_HAND else cases(family, module):
            key = code_of(case)
            for row in rows_of(case):
                yield row if row.spec is None or row.failed else others(case, row, every=key not in seen)
            seen.add(key)


def by_hand(family: str, module: ModuleType) -> list[Case]:
    (config,) = (kind for kind in configurations(family) if kind.model_type == family)
    return [Case(family, "functions", module, config)]


def code_of(case: Case) -> tuple[str, str]:
    """The code of a rotary class and of the function that turns, without names: of equals one is tried in full."""
    items = (getattr(case.module, name, None) for name in (case.name, "apply_rotary_pos_emb"))
    a, b = (re.sub(r"[A-Z]\w+|#.*", "", inspect.getsource(item)) if item else "" for item in items)
    return a, b


def compared_as(kind: type[PreTrainedConfig]) -> tuple[PreTrainedConfig, str]:
    """The configuration that is compared, and what differs from the default of its model."""
    if kind.model_type in INSTEAD:
        keys, remark = INSTEAD[kind.model_type]
        return kind(**keys), remark
    keys = SWITCHED_ON.get(kind.model_type, {})
    return kind(**keys), ", ".join(f"with {key} = {value!r}" for key, value in keys.items())


def rows_of(case: Case) -> Iterator[Row]:
    start = Row(case.family, case.name)
    if case.config is None:
        reason = NOT_DECLARED.get(case.name)
        yield start._replace(remark=reason or "not walked", failed=reason is None)
        return
    config, remark = compared_as(case.config)
    said = config.to_dict()
    start = start._replace(model_type=case.config.model_type, remark=remark)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            labels = sorted(layer_types(said)) or [None]  # some configurations have them from a set
    except SpecError as error:
        reason = next((reason for part, reason in REASONS.items() if part in str(error)), None)
        yield start._replace(remark=reason or str(error), failed=reason is None)
        return
    for label in labels:
        row = start._replace(layer_type=label or "")
        config, said = with_layer(config, label)
        try:
            found = checked(case, config, said, label)
        except SpecError as error:
            yield row._replace(remark=str(error), failed=True)
            continue
        if found is None:
            yield row._replace(remark="no rotation in these layers")
            continue
        row = row._replace(spec=found[0], agreement=found[1])
        yield row if found[1].agrees else row._replace(remark=f"differs: {found[1]}", failed=True)


def with_layer(config: PreTrainedConfig, label: str | None) -> tuple[PreTrainedConfig, dict[str, Any]]:
    """The same model with a layer of type `label`, where it has a rotation for one and no such layer."""
    said = config.to_dict()
    kinds, nested = said.get("layer_types"), (said.get("rope_parameters") or {}).get(label)
    if not isinstance(nested, dict) or not kinds or label in kinds or hasattr(config, "_rope_type_labels"):
        return config, said
    said["layer_types"] = [*kinds[:-1], label]
    said["sliding_window"] = said.get("sliding_window") or 1024
    return type(config).from_dict(dict(said)), said


def others(case: Case, row: Row, *, every: bool) -> Row:
    """`row` with the other scalings that its family accepts: all of them, or one, by the name of the family."""
    code = getattr(case.module, case.name, None)
    if case.config is None or code is None or "ROPE_INIT_FUNCTIONS" not in inspect.getsource(code):
        return row
    chosen = SCALINGS if every else (SCALINGS[sum(map(ord, row.family)) % len(SCALINGS)],)
    agree: list[str] = []
    refused: list[str] = []
    for scaling in (*chosen, *OWN_RULES.get(row.model_type, ())):
        said = scaled(case.config, row, scaling)
        try:
            config = case.config.from_dict(dict(said))
            getattr(case.module, case.name)(config)
        except Exception:  # noqa: S112 - the family has no such rule, and says so in one of many ways
            continue
        name = scaling["rope_type"] + (" with alpha" if "alpha" in scaling else "")
        try:
            found = checked(case, config, said, row.layer_type or None)
        except SpecError:  # such as one fraction for a part of the head and for a part of its pairs
            refused.append(name)
            continue
        if found is None or not found[1].agrees:
            return row._replace(remark=f"differs with {scaling}: {found and found[1]}", failed=True)
        agree.append(name)
    tried = ", ".join(dict.fromkeys(agree))
    return row._replace(tried=f"{tried}; refused: {', '.join(refused)}" if refused else tried)


def scaled(kind: type[PreTrainedConfig], row: Row, scaling: dict[str, Any]) -> dict[str, Any]:
    """The configuration of `row` with another scaling of the same base."""
    said = with_layer(compared_as(kind)[0], row.layer_type or None)[1]
    nested = said["rope_parameters"].get(row.layer_type)
    before = nested or said["rope_parameters"]
    kept = ("rope_theta",) if before.get("rope_type") == "proportional" else ("rope_theta", "partial_rotary_factor")
    now = {key: before[key] for key in kept if key in before} | scaling
    if scaling["rope_type"] == "longrope":
        pairs = row.spec.pairs if row.spec is not None else 0
        now |= {"short_factor": [1 + j / 64 for j in range(pairs)], "long_factor": [1 + j / 4 for j in range(pairs)]}
    if scaling["rope_type"] == "dynamic":
        said[kind.attribute_map.get("max_position_embeddings", "max_position_embeddings")] = 2048
    if nested:
        now.pop("truncate", None)  # transformers does not read it there
        said["rope_parameters"][row.layer_type] = now
    else:
        said["rope_parameters"] = now
    return said


# The report


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent.parent / "docs" / "models.md")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = list(walk())
    for row in rows:
        print(f"{row.family:28} {row.name:44} {verdict(row)}")
    arguments.output.write_text(report(rows), encoding="utf-8")
    failed = [row for row in rows if row.failed]
    print(summary(rows))
    return 1 if failed else 0


def verdict(row: Row) -> str:
    if row.failed:
        return f"DIFFERS: {row.remark}"
    return "agrees" if row.agreement is not None else row.remark


def summary(rows: list[Row]) -> str:
    """How many families agree, and why the others are not compared."""
    reasons: dict[str, str] = {}
    for row in sorted(rows, key=lambda row: (row.agreement is not None, row.failed)):  # what is compared, last
        why = "differ" if row.failed else "agree" if row.agreement is not None else row.remark
        reasons[row.family] = "read several axes" if "several axes" in why else why
    counts = {why: list(reasons.values()).count(why) for why in ("agree", "differ", "read several axes")}
    none = sum("no rotation" in why for why in reasons.values())
    learned = len(reasons) - none - sum(counts.values())
    return (
        f"{len(reasons)} families whose code has a rotation: {counts['agree']} agree, {counts['differ']} differ, "
        f"{counts['read several axes']} read several axes alone, {learned} learns its frequencies, {none} have "
        "functions that are never called."
    )


def report(rows: list[Row]) -> str:
    named = ((name, importlib.metadata.version(name)) for name in ("transformers", "torch", "numpy"))
    versions = ", ".join(f"{name} {version.partition('+')[0]}" for name, version in named)  # not how it was built: +cpu
    lines = [
        "# Rotary embeddings of transformers, model by model",
        "",
        f"Written by `tools/model_walk.py` (`make peers`) with {versions}.",
        "",
        summary(rows),
        "",
        "Every rotary class of the installed transformers that can be built from a configuration alone is built from",
        "the default configuration of its model, and compared with",
        "`posenc.interop.huggingface.from_config(config.to_dict(), layer_type=...)`: its frequencies, its table, and",
        f"queries and keys that its own function turns at positions {', '.join(map(str, POSITIONS))}.",
        "",
        "- **Frequencies**: the worst relative difference, and that difference as a part of its bound,",
        "  (2 + ln(base) / 2) * 2^-24: the error of the float32 formula of transformers itself. A scaling adds three",
        "  roundings, and a blend of two frequencies the error of its weight.",
        "- **q, k**: the worst difference of a rotated value, and the worst as a part of its own bound,",
        "  magnitude * (|u| + |v|) * (position * frequency * (e + 2^-24) + 2^-21), with e the bound of the frequency:",
        "  the product's rounding, then those of sine, magnitude, products and sum. Channels that do not turn have the",
        "  bound 0. A wrong convention is thousands of times the bound.",
        "- **Others tried**: rules, other than the default one, that the family accepts and that agree as well. All",
        "  are tried on one family of each distinct code, one on every other.",
        "",
        "Families with several position axes (time, height, width) are listed below the table.",
        "",
        "| family | class | model_type | layers | scaling | layout | frequencies | q, k | others tried | remark |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [line(row) for row in rows if row.agreement is not None or "no rotation in" in row.remark or row.failed]
    lines += ["", "## Not compared", "", "| family | class | model_type | reason |", "|---|---|---|---|"]
    rest = [row for row in rows if row.agreement is None and "no rotation in" not in row.remark and not row.failed]
    unread = [f"| {row.family} | `{row.name}` | {row.model_type} | {row.remark} |" for row in rest]
    lines += dict.fromkeys(unread)  # what two models of a family share is one line
    return "\n".join(lines) + "\n"


def line(row: Row) -> str:
    scaling, turned, frequency, rotated = "", "", "", ""
    if row.spec is not None and row.agreement is not None:
        scaling = "none" if row.spec.scaling is None else type(row.spec.scaling).__name__
        turned = layout(row.spec)
        frequency = f"{row.agreement.frequency:.1e}, {row.agreement.frequency_part:.2f}"
        rotated = f"{row.agreement.rotated:.1e}, {row.agreement.rotated_part:.2f}"
    cells = (row.family, f"`{row.name}`", row.model_type, row.layer_type, scaling, turned, frequency, rotated)
    return "| " + " | ".join((*cells, row.tried, row.remark)) + " |"


def layout(spec: Rope) -> str:
    """With what else is unusual."""
    parts: list[str] = [spec.layout]
    if 2 * spec.pairs < spec.head_dim:
        parts.append(f"{spec.rotary_channels} {2 * spec.pairs} of {spec.head_dim}")
    if spec.direction == "negative":
        parts.append("negative angle")
    return ", ".join(parts)


if __name__ == "__main__":
    sys.exit(main())
