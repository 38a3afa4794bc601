"""``python -m jepsen.mutants``: see `launch`."""

import sys

from jepsen.mutants.launch import main

sys.exit(main(sys.argv[1:]))
