"""Deliberately wrong implementations: each is the mechanism of a published report, and each has to be caught.

They share `plain.Plain`, which is right but for the values that float64 cannot round.
"""
