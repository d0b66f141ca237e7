"""Compare published sinusoidal encodings with posenc, each under the convention it is documented to follow.

    python tools/sinusoidal_peers.py [--length 4096]

Runs in an environment of its own (`make peers`). A peer computes its phases in float32, so its error grows with the
position; it agrees where every element is within

    position * frequency * (3 + ln(base) / 2) * 2^-24  +  2^-22

of the correctly rounded value: a frequency by float32 powers, the rounding of the product, and two roundings of sine
and sum. The table prints the worst difference as a part of that bound; a wrong convention is thousands of times it.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import math
import sys
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import peer_environment  # noqa: F401 - before the packages
import torch

from posenc import Sinusoidal
from posenc.numpy_impl import encode

DIM = 64
Array = np.ndarray


class Peer(NamedTuple):
    """A published implementation and the specification that it is documented to follow."""

    package: str
    name: str
    spec: Sinusoidal
    table: Callable[[int], Array]
    """The rows of positions 0 to n - 1, as the package computes them."""


def positional_encodings(length: int) -> Array:
    from positional_encodings.torch_encodings import PositionalEncoding1D

    return PositionalEncoding1D(DIM)(torch.zeros(1, length, DIM))[0].numpy()


def x_transformers(length: int) -> Array:
    from x_transformers.x_transformers import ScaledSinusoidalEmbedding

    return ScaledSinusoidalEmbedding(DIM)(torch.zeros(1, length, DIM)).detach().numpy()


def keras_hub(length: int) -> Array:
    from keras_hub.layers import SinePositionEncoding

    return np.asarray(SinePositionEncoding()(np.zeros((1, length, DIM), np.float32)))[0]


def diffusers_timesteps(**options: float | bool) -> Callable[[int], Array]:
    def table(length: int) -> Array:
        from diffusers.models.embeddings import get_timestep_embedding

        return get_timestep_embedding(torch.arange(length), DIM, **options).numpy()

    return table


def diffusers_positions(length: int) -> Array:
    from diffusers.models.embeddings import SinusoidalPositionalEmbedding

    return SinusoidalPositionalEmbedding(DIM, length)(torch.zeros(1, length, DIM))[0].numpy()


def m2m_100(length: int) -> Array:
    from transformers.models.m2m_100.modeling_m2m_100 import M2M100SinusoidalPositionalEmbedding

    table = M2M100SinusoidalPositionalEmbedding.get_embedding(length + 2, DIM, 1)
    return table[2:].numpy()


def m2m_100_padding(length: int) -> Array:
    from transformers.models.m2m_100.modeling_m2m_100 import M2M100SinusoidalPositionalEmbedding

    return M2M100SinusoidalPositionalEmbedding.get_embedding(length + 2, DIM, 1)[1:2].numpy()


def marian(length: int) -> Array:
    from transformers.models.marian.modeling_marian import MarianSinusoidalPositionalEmbedding

    module = MarianSinusoidalPositionalEmbedding(length, DIM)
    weight = module.create_weight() if hasattr(module, "create_weight") else module.weight
    return weight.detach().numpy()


def musicgen(length: int) -> Array:
    from transformers.models.musicgen.modeling_musicgen import MusicgenSinusoidalPositionalEmbedding

    return MusicgenSinusoidalPositionalEmbedding.get_embedding(length, DIM).numpy()


def speecht5(length: int) -> Array:
    from transformers.models.speecht5.modeling_speecht5 import SpeechT5ScaledPositionalEncoding

    return SpeechT5ScaledPositionalEncoding(0.0, DIM, length)(torch.zeros(1, length, DIM))[0].detach().numpy()


def whisper(length: int) -> Array:
    from transformers.models.whisper.modeling_whisper import sinusoids

    return sinusoids(length, DIM).numpy()


SIN_COS = Sinusoidal(DIM, layout="sin_cos", denominator_shift=0)
PEERS = [
    Peer("positional-encodings", "PositionalEncoding1D", Sinusoidal.vaswani(DIM), positional_encodings),
    Peer("keras-hub", "SinePositionEncoding", Sinusoidal.vaswani(DIM), keras_hub),
    Peer("diffusers", "SinusoidalPositionalEmbedding", Sinusoidal.vaswani(DIM), diffusers_positions),
    Peer("diffusers", "get_timestep_embedding", Sinusoidal.ddpm(DIM), diffusers_timesteps()),
    Peer(
        "diffusers",
        "get_timestep_embedding (Stable Diffusion)",
        Sinusoidal.diffusers(DIM, layout="cos_sin", denominator_shift=0),
        diffusers_timesteps(flip_sin_to_cos=True, downscale_freq_shift=0),
    ),
    Peer(
        "x-transformers",
        "ScaledSinusoidalEmbedding",
        Sinusoidal(DIM, layout="sin_cos", denominator_shift=0, output_scale=DIM**-0.5),
        x_transformers,
    ),
    Peer("transformers", "M2M100", Sinusoidal.fairseq(DIM), m2m_100),
    Peer("transformers", "Marian", SIN_COS, marian),
    Peer("transformers", "MusicGen", Sinusoidal(DIM, layout="cos_sin", denominator_shift=1), musicgen),
    Peer("transformers", "SpeechT5", Sinusoidal.vaswani(DIM), speecht5),
    Peer("transformers", "Whisper", Sinusoidal.whisper(DIM), whisper),
]


def bound(spec: Sinusoidal, length: int) -> Array:
    """Largest error of float32 phases, `(length, dim)`."""
    plan = spec.plan()
    pair = np.array([2 * math.pi * increment / 2**128 for increment in plan.increments])
    channel = np.repeat(pair, 2) if spec.layout == "interleaved" else np.tile(pair, 2)
    position = np.abs(np.arange(length) + spec.position_offset)[:, None]
    relative = (3 + math.log(spec.base) / 2) * 2**-24
    return spec.output_scale * (position * channel * relative + 2**-22)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", type=int, default=4096)
    length = parser.parse_args().length
    failed = 0
    print(f"{'package':24}{'version':10}{'what':44}{'worst difference':>18}{'part of bound':>16}")
    for peer in PEERS:
        ours = encode(peer.spec, range(length), dtype=np.float64)
        difference = np.abs(peer.table(length).astype(np.float64) - ours)
        part = (difference / bound(peer.spec, length)).max()
        failed += not part <= 1
        verdict = "" if part <= 1 else "   DIFFERS"
        version = importlib.metadata.version(peer.package)
        print(f"{peer.package:24}{version:10}{peer.name:44}{difference.max():18.2e}{part:16.2f}{verdict}")
    padding = m2m_100_padding(8)
    if padding.any() or encode(Sinusoidal.fairseq(DIM), -1).any():
        failed += 1
        print("transformers M2M100: the padding row is not zero in both")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
