"""Fuses planted features of the demo's rooms by clipfeat and by another project's own code, and compares the results.

    python scripts/compare_peers.py openscene PATH_OF_CHECKOUT                 vertices of a mesh
    python scripts/compare_peers.py rayfronts PATH_OF_CHECKOUT                 voxels
    python scripts/compare_peers.py openscene PATH_OF_CHECKOUT --noise 0.002 --holes 0.1 --step 16

Both get the same pictures of 640×480 with depth, poses and maps, in which each cell holds the vector of the class that
its pixel shows. So the figures tell arithmetic and geometry, and nothing of the quality of a network. docs/peers.md has
them.
"""

import argparse
import logging
import os
import sys
import tempfile
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))  # where the planted model lives


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=["openscene", "rayfronts"], help="whose code")
    parser.add_argument("checkout", type=Path, help="folder of its repository")
    parser.add_argument("--frames", type=int, default=10, help="a room; there are two (default 10)")
    parser.add_argument("--noise", type=float, default=0.0, help="of the depth, as data.depth_noise (default 0)")
    parser.add_argument("--holes", type=float, default=0.0, help="of the depth, as data.depth_holes (default 0)")
    parser.add_argument("--step", type=int, default=1, help="pixels that a cell of the maps is wide (default 1)")
    parser.add_argument("--voxel-size", type=float, default=0.05, help="metres, for rayfronts (default 0.05)")
    arguments = parser.parse_args()
    if not arguments.checkout.is_dir():
        parser.error(f"{arguments.checkout}: no such folder; give a checkout of {arguments.peer}'s repository")
    os.environ.setdefault("TQDM_DISABLE", "1")
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    from peers import openscene, rayfronts
    from peers.room import Recording

    with tempfile.TemporaryDirectory(prefix="clipfeat-peers-") as work:
        recording = Recording(Path(work), arguments.frames, arguments.noise, arguments.holes, arguments.step)
        if arguments.peer == "openscene":
            openscene.compare(recording, arguments.checkout)
        else:
            rayfronts.compare(recording, arguments.checkout, arguments.voxel_size)


if __name__ == "__main__":
    main()
