"""JAX: positional encodings as functions of arrays, traced or not.

Specifications are registered as static pytrees: they pass through `jax.jit`, `jax.vmap` and `jax.lax.scan` as they are.
"""

from posenc.spec import checks

checks.framework("posenc.jax_impl", "jax", "JAX", "jax")

import jax  # noqa: E402  # only now is it known to be there
import jax.export  # noqa: E402

from posenc.jax_impl.distance import bias, rows  # noqa: E402
from posenc.jax_impl.learned import lookup, resize  # noqa: E402
from posenc.jax_impl.phase import Table, add, encode, phase, table  # noqa: E402
from posenc.jax_impl.rotation import rotate  # noqa: E402
from posenc.spec import serialise  # noqa: E402

for _specification in serialise.FAMILIES.values():
    jax.tree_util.register_static(_specification)
jax.export.register_namedtuple_serialization(Table, serialized_name="posenc.Table")

__all__ = ["Table", "add", "bias", "encode", "lookup", "phase", "resize", "rotate", "rows", "table"]
