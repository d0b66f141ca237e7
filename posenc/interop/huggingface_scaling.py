"""One dict of rope parameters of transformers as a scaling rule of posenc."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from posenc.interop.huggingface_families import ORIGINAL_LENGTH
from posenc.interop.huggingface_layers import Layer
from posenc.interop.huggingface_notices import DefaultAssumed, LeftToTheModel, MeaningChanged, refuse, tell
from posenc.spec import (
    DynamicNtk,
    Linear,
    Llama3,
    LongRope,
    Ntk,
    Proportional,
    SpecError,
    Yarn,
    checks,
)
from posenc.spec.rope_scaling import Scaling

T = TypeVar("T")


class Lengths(NamedTuple):
    """What a configuration says outside of its rope parameters."""

    where: str
    remedy: str
    """What helps where a key is absent."""
    longest: object
    """`max_position_embeddings`."""
    original: object
    """`original_max_position_embeddings`, of the configuration itself."""


LIMIT = 2**31
"""Of lengths: positions end there."""
ALWAYS = ("rope_type", "type", "rope_theta", "partial_rotary_factor")
KEYS: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor", "original_max_position_embeddings"),
    "yarn": (
        "factor",
        "original_max_position_embeddings",
        "attention_factor",
        "beta_fast",
        "beta_slow",
        "mscale",
        "mscale_all_dim",
        "truncate",
    ),
    "longrope": ("short_factor", "long_factor", "original_max_position_embeddings", "factor", "attention_factor"),
    "llama3": ("factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"),
    "proportional": ("factor",),
}
OLDER_TYPES = {"su": "longrope"}
AXES = ("mrope_section", "mrope_interleaved", "xdrope_section", "interleaved")
AXES_TYPES = ("mrope", "axial", "xdrope")
DEAD_BESIDE_ALPHA = ("beta_fast", "beta_slow", "mscale", "mscale_all_dim")


def rope_type(where: str, given: Mapping[str, Any], model_type: str) -> tuple[str, str]:
    """The type by its name of today, and a remark for errors where that is another one."""
    names: dict[str, Any] = {key: given[key] for key in ("rope_type", "type") if given.get(key) is not None}
    remark = ""
    for key, name in names.items():
        if name in AXES_TYPES:
            refuse(f"{where}.{key}", "one position axis (several axes are not supported yet)", name)
        checks.choice(f"{where}.{key}", name, (*KEYS, *OLDER_TYPES))
    today = {OLDER_TYPES.get(name, name) for name in names.values()}
    if model_type in ("phi3", "phi4_multimodal") and "yarn" in today:  # its LongRoPE had that name
        remark = f"'yarn' of {model_type} is read as 'longrope', as transformers does"
        tell(MeaningChanged, f"{where}.rope_type: {remark}")
        today = {"longrope" if name == "yarn" else name for name in today}
    elif today != set(names.values()):
        tell(MeaningChanged, f"{where}.type: 'su' is read as 'longrope'; transformers 5 does so for phi3 alone")
    if len(today) > 1:
        refuse(f"{where}.type", f"what rope_type says, {names['rope_type']!r}", names["type"])
    return str(today.pop()) if today else "default", f" ({remark})" if remark else ""


def read_scaling(
    layer: Layer, given: Mapping[str, Any], lengths: Lengths, model_type: str, *, alpha: bool, softmax: bool
) -> Scaling | None:
    """The rule; None where there is none. `given` has no key of value None."""
    where = layer.where
    kind, remark = rope_type(where, given, model_type)
    allowed = (*ALWAYS, *KEYS[kind])
    if kind == "longrope" and model_type == "phimoe":
        allowed = (*ALWAYS, *KEYS[kind][:3], "short_mscale", "long_mscale")
    if kind == "dynamic" and alpha:
        allowed += ("alpha", *DEAD_BESIDE_ALPHA)
    for key in given:
        if key in AXES:
            refuse(f"{where}.{key}", "one position axis (several axes are not supported yet)", given[key])
        if key not in allowed:
            _refuse_typeless(layer, given, key)
            refuse(where, f"the keys {', '.join(allowed)} with rope_type {kind!r}{remark}", key)
    reader = _Reader(layer, given, lengths, model_type, remark)
    if kind == "dynamic" and given.get("alpha"):
        return reader.alpha()
    for key in DEAD_BESIDE_ALPHA:
        if kind == "dynamic" and key in given:
            refuse(where, f"the keys {', '.join((*ALWAYS, *KEYS[kind]))} with rope_type 'dynamic'", key)
    rules: dict[str, Callable[[], Scaling | None]] = {
        "default": lambda: None,
        "linear": lambda: Linear(reader.factor()),
        "dynamic": reader.dynamic,
        "yarn": lambda: reader.yarn(softmax),
        "longrope": reader.longrope,
        "llama3": reader.llama3,
        "proportional": reader.proportional,
    }
    return rules[kind]()


def _refuse_typeless(layer: Layer, given: Mapping[str, Any], key: str) -> None:
    """A key of some rule, where nothing says which rule."""
    rules = {"alpha", *(name for names in KEYS.values() for name in names)}
    if key in rules and not any(given.get(name) is not None for name in ("rope_type", "type")):
        raise SpecError(f"{layer.where}.rope_type: expected it beside {key!r}, received {layer.missing('rope_type')}")


class _Reader(NamedTuple):
    layer: Layer
    given: Mapping[str, Any]
    lengths: Lengths
    model_type: str
    remark: str

    def named(self, key: str) -> str:
        return self.layer.named(key)

    def need(self, key: str, expected: str) -> Any:
        if key not in self.given:
            received = self.layer.missing(key)
            raise SpecError(f"{self.named(key)}: expected {expected}{self.remark}, received {received}")
        return self.given[key]

    def factor(self, default: float | None = None) -> float:
        if default is not None and "factor" not in self.given:
            return default
        value = self.need("factor", "a finite number >= 1")
        return self.built(Linear, {"factor": "factor"}, {"factor": value}).factor

    def number(self, key: str) -> float:
        return checks.number(self.named(key), self.need(key, "a finite number > 0"))

    def longest(self, why: str) -> int:
        where = f"{self.lengths.where}.max_position_embeddings"
        if self.lengths.longest is None:
            raise SpecError(f"{where}: expected an integer >= 1 {why}, received no such key{self.lengths.remedy}")
        return checks.integer(where, self.lengths.longest, minimum=1, limit=LIMIT)

    def original(self) -> int:
        """The length that the model was trained for: of the configuration first, where it is not nested."""
        key = "original_max_position_embeddings"
        own, outer = self.given.get(key), self.lengths.original
        if own is not None:
            own = checks.integer(self.named(key), own, minimum=1, limit=LIMIT)
        if outer is not None:
            above = f"{self.lengths.where}.{key}"
            outer = checks.integer(above, outer, minimum=1, limit=LIMIT)
            if self.layer.nested and own != outer:
                refuse(above, f"it within each layer type, which is what transformers reads ({own})", outer)
            if own is not None and own != outer:
                tell(
                    MeaningChanged,
                    f"{above}: {outer} is taken, and not {own} of the rope parameters, as transformers does",
                )
            return outer
        default = ORIGINAL_LENGTH.get(self.model_type)
        if own is not None:
            if default not in (None, own):
                tell(MeaningChanged, f"{self.named(key)}: {own} is taken, as it is said; transformers takes {default}")
            return own
        if default is not None:
            tell(
                DefaultAssumed,
                f"{self.lengths.where}.{key}: absent; the default of transformers for {self.model_type} is taken, "
                f"{default}",
            )
            return default
        length = self.longest(f"where {key} is absent")
        tell(DefaultAssumed, f"{self.named(key)}: absent; max_position_embeddings is taken, {length}")
        return length

    def built(self, kind: Callable[..., T], names: Mapping[str, str], values: Mapping[str, Any]) -> T:
        """`kind` of `values`, where what it refuses is named by its key here."""
        try:
            return kind(**values)
        except SpecError as error:
            field, colon, rest = str(error).partition(":")
            name = field.partition(".")[2]
            stem = name.partition("[")[0]
            if not colon or stem not in names:
                raise
            raise SpecError(f"{self.named(names[stem] + name[len(stem) :])}:{rest}") from None

    def alpha(self) -> Ntk:
        if self.factor(1.0) != 1:
            refuse(self.named("factor"), "1 beside alpha, where it has no effect", self.given["factor"])
        for key in DEAD_BESIDE_ALPHA:
            if key in self.given:
                tell(LeftToTheModel, f"{self.named(key)}: has no effect beside alpha")
        return self.built(Ntk, {"factor": "alpha"}, {"factor": self.given["alpha"]})

    def dynamic(self) -> DynamicNtk:
        factor, longest = self.factor(), self.longest("with rope_type 'dynamic'")
        for value in (self.given.get("original_max_position_embeddings"), self.lengths.original):
            if value is not None and value != longest:
                name = self.named("original_max_position_embeddings")
                refuse(name, f"max_position_embeddings, {longest}, which alone the type 'dynamic' reads", value)
        return DynamicNtk(factor, original_length=longest)

    def yarn(self, softmax: bool) -> Yarn:
        given, original, factor = self.given, self.original(), self.factor()
        values: dict[str, Any] = {"factor": factor, "original_length": original}
        names = ("beta_fast", "beta_slow", "truncate", "mscale", "mscale_all_dim", "attention_factor")
        for key in names:
            if key in given:
                values[key] = given[key]
        for key, default in (("beta_fast", 32.0), ("beta_slow", 1.0)):
            if key in given and not given[key] and not isinstance(given[key], str | Sequence | Mapping | bool):
                tell(MeaningChanged, f"{self.named(key)}: 0 is read as {default:g}, as transformers does")
                values[key] = default
        if "truncate" in given and not given["truncate"] and self.layer.nested:
            tell(
                MeaningChanged,
                f"{self.named('truncate')}: read as it is said; transformers 5.23 does not read it in a layer type",
            )
        if any(key in values for key in ("mscale", "mscale_all_dim", "attention_factor")):
            values["magnitude_rule"] = "transformers"
            values["scale_softmax"] = softmax and bool(given.get("mscale_all_dim"))
            self._tell_magnitude()
        longest = self.lengths.longest
        if isinstance(longest, int) and longest not in (original, factor * original):
            tell(
                MeaningChanged,
                f"{self.named('factor')}: {factor:g} is taken, as it is said; some versions of transformers took "
                f"max_position_embeddings / original_max_position_embeddings, {longest}/{original}",
            )
        return self.built(Yarn, {name: name for name in names} | {"factor": "factor"}, values)

    def _tell_magnitude(self) -> None:
        one, other = bool(self.given.get("mscale")), bool(self.given.get("mscale_all_dim"))
        if "attention_factor" in self.given:
            tell(MeaningChanged, f"{self.named('attention_factor')}: honoured; some versions and libraries ignore it")
        elif one and other:
            if self.given["mscale"] != self.given["mscale_all_dim"]:
                tell(MeaningChanged, f"{self.named('mscale')}: honoured; earlier versions of transformers ignored it")
            else:
                tell(
                    MeaningChanged,
                    f"{self.named('mscale')}: equals mscale_all_dim, and so the magnitude is 1; earlier versions of "
                    "transformers ignored both",
                )
        elif one or other:
            tell(
                MeaningChanged,
                f"{self.named('mscale' if one else 'mscale_all_dim')}: has no effect on the magnitude without the "
                "other, in transformers; the released code of DeepSeek takes it",
            )

    def longrope(self) -> LongRope:
        given, original = self.given, self.original()
        values: dict[str, Any] = {
            "short_factors": self.need("short_factor", "a list of numbers, one a pair"),
            "long_factors": self.need("long_factor", "a list of numbers, one a pair"),
            "original_length": original,
        }
        names = {
            "short_factors": "short_factor",
            "long_factors": "long_factor",
            **{name: name for name in ("attention_factor", "short_mscale", "long_mscale", "extended_length", "factor")},
            "original_length": "original_max_position_embeddings",
        }
        if self.model_type == "phimoe":
            values |= {key: self.number(key) for key in ("short_mscale", "long_mscale")}
            tell(
                MeaningChanged,
                f"{self.layer.where}: long_factor is taken beyond the original length, as LongRoPE has it; "
                "transformers 5.23 keeps short_factor there",
            )
        elif "attention_factor" in given:
            values["attention_factor"] = given["attention_factor"]
        elif "factor" in given:
            values["factor"] = self.factor()
            longest = self.lengths.longest
            if self.lengths.original is not None and longest != values["factor"] * original:
                tell(
                    MeaningChanged,
                    f"{self.named('factor')}: {values['factor']:g} is taken, as it is said; some versions of "
                    "transformers took max_position_embeddings / original_max_position_embeddings, "
                    f"{checks.shown(longest)}/{original}",
                )
        else:
            values["extended_length"] = self.longest("where factor is absent")
            tell(
                MeaningChanged,
                f"{self.named('factor')}: absent, and so max_position_embeddings / original_max_position_embeddings, "
                f"{values['extended_length']}/{original}, decides the magnitude; a longer one changes it",
            )
        if "factor" in given:
            self.factor()  # refused below 1 even where attention_factor decides
        return self.built(LongRope, names, values)

    def llama3(self) -> Llama3:
        names = ("low_freq_factor", "high_freq_factor")
        values = {name: self.number(name) for name in names}
        values |= {"factor": self.factor(), "original_length": self.original()}
        return self.built(Llama3, {name: name for name in names}, values)

    def proportional(self) -> Proportional:
        name = "partial_rotary_factor"
        if name not in self.given:
            tell(DefaultAssumed, f"{self.named(name)}: absent; 1 is taken, with which every pair turns")
        values = {"fraction": self.given.get(name, 1.0), "factor": self.factor(1.0)}
        return self.built(Proportional, {"fraction": name}, values)
