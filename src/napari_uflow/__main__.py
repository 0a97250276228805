"""``python -m napari_uflow`` is the command line."""

import sys

from napari_uflow.cli import main

sys.exit(main())
