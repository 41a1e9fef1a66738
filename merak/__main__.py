"""`python -m merak` is the command `merak`."""

from merak.cli import main

raise SystemExit(main())
