"""Writes the uv index of all frames: points, pixels, status and confidence. No model is loaded.

    python scripts/build_uv_index.py data.root=/data/scans sampling=mesh uv_index=outputs/uv_index num_workers=8
    clipfeat-extract                 data.root=/data/scans sampling=mesh uv_index=outputs/uv_index

It takes the keys of clipfeat-extract: clipfeat-extract --help lists them, and --cfg job shows what this command would
use. The same command again does only what is missing.
"""

import sys

from clipfeat.cli.main import pipe_may_close
from clipfeat.cli.run import run_command
from clipfeat.extraction.config import ExtractConfig


def build(cfg: ExtractConfig) -> None:
    """Imported late, so that --help answers at once."""
    from clipfeat.extraction.uv_index import write_uv_index

    write_uv_index(cfg)


@pipe_may_close()
def main() -> None:
    """Runs the command."""
    if {"--help", "-h"}.intersection(sys.argv[1:]):  # Hydra's would be clipfeat-extract's
        print(__doc__)
    else:
        run_command("extract", build)


if __name__ == "__main__":
    main()
