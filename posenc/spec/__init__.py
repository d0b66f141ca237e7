"""The standard: what each encoding is, exactly. It needs the standard library alone, and can be read alone."""

from posenc.spec.alibi import Alibi
from posenc.spec.checks import SpecError
from posenc.spec.deberta_buckets import DebertaBuckets
from posenc.spec.distance_plan import DistancePlan
from posenc.spec.learned import Learned
from posenc.spec.long_rope import LongRope
from posenc.spec.plan import PhasePlan, RotationPlan
from posenc.spec.relative_index import MusicTransformerIndex, ShawClip, TransformerXLIndex
from posenc.spec.rope import Rope
from posenc.spec.rope_scaling import DynamicNtk, Linear, Llama3, Ntk, Proportional
from posenc.spec.row_plan import ResizePlan, RowPlan
from posenc.spec.serialise import from_json, to_json
from posenc.spec.sinusoidal import Sinusoidal
from posenc.spec.swin_index import SwinIndex
from posenc.spec.t5_bias import T5Bias
from posenc.spec.yarn import Yarn, YarnPaper

__all__ = [
    "Alibi",
    "DebertaBuckets",
    "DistancePlan",
    "DynamicNtk",
    "Learned",
    "Linear",
    "Llama3",
    "LongRope",
    "MusicTransformerIndex",
    "Ntk",
    "PhasePlan",
    "Proportional",
    "ResizePlan",
    "Rope",
    "RotationPlan",
    "RowPlan",
    "ShawClip",
    "Sinusoidal",
    "SpecError",
    "SwinIndex",
    "T5Bias",
    "TransformerXLIndex",
    "Yarn",
    "YarnPaper",
    "from_json",
    "to_json",
]
