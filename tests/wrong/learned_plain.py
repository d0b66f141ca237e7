"""A plain table in Python: one row after the other; resizing by exact weights, one sum after the other.

The wrong ones change one step of it. What `PlainTable` gets right and they get wrong is due to that step.
"""

# ruff: noqa: ARG002 - a step takes what any of its variants needs
from __future__ import annotations

import math
from typing import ClassVar

import numpy as np

from posenc.spec import resampling
from posenc.spec.resampling import METHODS
from tests.wrong.plain import answer, numpy_dtype, once


class PlainTable:
    """Right: `refuses` as a host has to, or else with NaN where there is no row, as a trace has to."""

    reports: ClassVar[tuple[str, ...]] = ()

    def __init__(self, *, refuses=True):
        self.refuses = refuses

    # --- Lookup ---

    def lookup(self, spec, weights, positions):
        table = array(weights)
        rows = []
        for place in self.places(spec, positions.shape, list(positions.values)):
            row = self.row(spec, place)
            if row is None and self.refuses:
                raise ValueError(f"position {place} is outside the table")
            rows.append(np.full(spec.dim, np.nan, table.dtype) if row is None else self.read(spec, table, row, place))
        found = np.array(rows, table.dtype).reshape(*positions.shape, spec.dim)
        return answer(found if spec.output_scale == 1 else self.scaled(spec, found))

    def places(self, spec, shape, values):
        """What is looked up, row-major."""
        return values

    def row(self, spec, place):
        """The row of a position, None where there is none."""
        low = 0 if spec.padding is None else -1
        return place + spec.offset if low <= place < spec.length else None

    def read(self, spec, table, row, place):
        return table[row]

    def scaled(self, spec, found):
        wide = np.float64 if found.dtype == np.float64 else np.float32
        return (found.astype(wide) * wide(spec.output_scale)).astype(found.dtype)

    # --- Resizing ---

    def resize(self, spec, weights, shape, method):
        table = array(weights)
        if self.early(spec, shape, method):
            return weights
        kept, grid = self.kept(spec), self.grid(spec)
        values = table[kept : kept + math.prod(grid)].astype(self.arithmetic()).reshape(*grid, spec.dim)
        for axis, m in self.axes(self.target(spec, shape)):
            values = self.along(values, axis, m, method)
        resized = self.rounded(values, weights.dtype).reshape(-1, spec.dim)
        return answer(np.concatenate([table[:kept], resized]))

    def early(self, spec, shape, method):
        """Whether the table is returned as it is."""
        return METHODS[method].enlarged and self.grid(spec) == tuple(shape)

    def kept(self, spec):
        return spec.offset + spec.tokens

    def grid(self, spec):
        return spec.grid or (spec.length - spec.tokens,)

    def target(self, spec, shape):
        return shape

    def axes(self, shape):
        """The axes and their sizes, in the order in which they are resized."""
        return list(enumerate(shape))

    def arithmetic(self):
        return np.float64

    def along(self, values, axis, m, method):
        values = np.moveaxis(values, axis, 0)
        lines = []
        for row in self.weights(len(values), m, method):
            taps = [(values.dtype.type(float(row[tap])), tap) for tap in self.order(row)]
            total = taps[0][0] * values[taps[0][1]]
            for weight, tap in taps[1:]:
                total = total + weight * values[tap]
            lines.append(total)
        return np.moveaxis(np.array(lines, values.dtype), 0, axis)

    def order(self, row):
        return sorted(row)

    def weights(self, n, m, method):
        """Of every output the weights of the inputs, exactly."""
        resampler = self.resampler(method)
        return [resampling._normal(resampling._weights(resampler, n, m, output)) for output in range(m)]

    def resampler(self, method):
        return METHODS[method]

    def rounded(self, values, dtype):
        return once(values.astype(np.float64), dtype)


def array(of):
    return np.frombuffer(of.data, numpy_dtype(of.dtype)).reshape(of.shape)
