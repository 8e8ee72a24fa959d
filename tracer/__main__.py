"""`python -m tracer` is `gradtrace`."""

import sys

from tracer.cli import main

sys.exit(main())
