"""`python -m systolith` is the command `systolith`."""

import sys

from systolith.cli import main

sys.exit(main())
