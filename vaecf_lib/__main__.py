"""``python -m vaecf_lib`` is ``vaecf``."""

from .cli import main

main()
