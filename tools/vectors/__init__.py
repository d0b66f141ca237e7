"""The generator of the conformance vectors, in parts; nothing here imports posenc."""
