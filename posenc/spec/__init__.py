"""The standard: what each encoding is, exactly. It needs the standard library alone, and can be read alone."""

from posenc.spec.checks import SpecError
from posenc.spec.long_rope import LongRope
from posenc.spec.plan import PhasePlan, RotationPlan
from posenc.spec.rope import Rope
from posenc.spec.rope_scaling import DynamicNtk, Linear, Llama3, Ntk, Proportional
from posenc.spec.serialise import from_json, to_json
from posenc.spec.sinusoidal import Sinusoidal
from posenc.spec.yarn import Yarn, YarnPaper

__all__ = [
    "DynamicNtk",
    "Linear",
    "Llama3",
    "LongRope",
    "Ntk",
    "PhasePlan",
    "Proportional",
    "Rope",
    "RotationPlan",
    "Sinusoidal",
    "SpecError",
    "Yarn",
    "YarnPaper",
    "from_json",
    "to_json",
]
