"""`python -m posenc`: the `posenc` command."""

from posenc.cli import main

main()
