"""The standard: what each encoding is, exactly. It needs the standard library alone, and can be read alone."""

from posenc.spec.checks import SpecError
from posenc.spec.plan import PhasePlan
from posenc.spec.serialise import from_json, to_json
from posenc.spec.sinusoidal import Sinusoidal

__all__ = ["PhasePlan", "Sinusoidal", "SpecError", "from_json", "to_json"]
