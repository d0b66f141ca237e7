"""Deliberately wrong implementations: each is the mechanism of a published report, or one that is as likely.

Each family has a plain one that is right (`plain`, `rotary_plain`, `distance_plain`, `learned_plain`), of which the
wrong ones change one step; every one has to be caught.
"""
