"""What becomes of the tensors of a BERT or a DistilBERT in encoder_nnx.py and encoder_keras.py."""

from __future__ import annotations

from encoder_sources import Source

from posenc import Learned, Sinusoidal
from posenc.interop.checkpoints import Move, Plan, Rows

NNX = {
    "words": "words.embedding",
    "types": "types.embedding",
    "positions": "positions",
    "norm": "norm",
    "query": "layers.{layer}.attention.query",
    "key": "layers.{layer}.attention.key",
    "value": "layers.{layer}.attention.value",
    "out": "layers.{layer}.attention.out",
    "attention_norm": "layers.{layer}.attention_norm",
    "up": "layers.{layer}.up",
    "down": "layers.{layer}.down",
    "output_norm": "layers.{layer}.norm",
    "head": "head.dense",
    "head_norm": "head.norm",
    "head_bias": "head.bias",
}
KERAS = {
    "words": "embeddings/words/vars/0",
    "types": "embeddings/types/vars/0",
    "positions": "embeddings/positions/vars/0",
    "norm": "embeddings/norm",
    "query": "blocks/block{layer:suffix}/query",
    "key": "blocks/block{layer:suffix}/key",
    "value": "blocks/block{layer:suffix}/value",
    "out": "blocks/block{layer:suffix}/out",
    "attention_norm": "blocks/block{layer:suffix}/attention_norm",
    "up": "blocks/block{layer:suffix}/up",
    "down": "blocks/block{layer:suffix}/down",
    "output_norm": "blocks/block{layer:suffix}/norm",
    "head": "head/dense",
    "head_norm": "head/norm",
    "head_bias": "head/vars/0",
}
PLAIN = "BERT turns no channels of queries and keys"


def plan_nnx(source: Source, spec: Learned | Sinusoidal) -> Plan:
    """To `encoder_nnx.Encoder(spec, **source.options)`: kernels `(inputs, outputs)`, heads on an axis of their own."""
    dim, heads = spec.dim, source.options["heads"]
    split = (heads, dim // heads)
    moves = tables(source, NNX, spec)
    for role, name in source.names.items():
        target = NNX[role]
        if role.endswith("norm"):
            moves += [Move(f"{name}.weight", f"{target}.scale"), Move(f"{name}.bias", f"{target}.bias")]
        elif role in ("query", "key", "value"):
            plain = None if role == "value" else PLAIN
            moves += [Move(f"{name}.weight", f"{target}.kernel", plain=plain, axes=(1, 0), shape=(dim, *split))]
            moves += [Move(f"{name}.bias", f"{target}.bias", plain=plain, shape=split)]
        elif role in ("out", "up", "down", "head"):
            shape = (*split, dim) if role == "out" else None
            moves += [Move(f"{name}.weight", f"{target}.kernel", axes=(1, 0), shape=shape)]
            moves += [Move(f"{name}.bias", f"{target}.bias")]
    return Plan(tuple(moves), left_out=source.left_out)


def plan_keras(source: Source, spec: Learned | Sinusoidal) -> Plan:
    """To `encoder_keras.Encoder(spec, **source.options)`: kernels `(inputs, outputs)`, heads side by side."""
    moves = tables(source, KERAS, spec)
    for role, name in source.names.items():
        target = KERAS[role]
        plain = PLAIN if role in ("query", "key") else None
        if role.endswith("norm"):
            moves += [Move(f"{name}.weight", f"{target}/vars/0"), Move(f"{name}.bias", f"{target}/vars/1")]
        elif role in ("query", "key", "value", "out", "up", "down", "head"):
            moves += [Move(f"{name}.weight", f"{target}/vars/0", plain=plain, axes=(1, 0))]
            moves += [Move(f"{name}.bias", f"{target}/vars/1", plain=plain)]
    return Plan(tuple(moves), left_out=source.left_out)


def tables(source: Source, targets: dict[str, str], spec: Learned | Sinusoidal) -> list[Move]:
    """What is moved row by row or as it is; the table of positions from the source's rows to those of `spec`."""
    names = source.names
    moves = [Move(f"{names[role]}.weight", targets[role]) for role in ("words", "types") if role in names]
    if "positions" in names:
        rows = Rows(source=source.spec, target=spec, fill="zeros" if source.spec != spec else None)
        moves.append(Move(f"{names['positions']}.weight", targets["positions"], rows=rows))
    if "head_bias" in names:
        moves.append(Move(f"{names['head_bias']}.bias", targets["head_bias"]))
    return moves
