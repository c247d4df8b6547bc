#!/usr/bin/env bash
# A HEIC takes 16-bit depth, is said to be 16-bit again, and has kept 10 bits, also when it is lossless.
#
# Versions: pillow-heif 1.8.1 with Pillow 13.0.0.
# Belief: quality=-1 is lossless, and a picture of mode I;16 that is saved and read in that mode has its values.
# Behaviour: HEVC in it has at most 10 bits here: the lower 6 are cut off, so depth in millimetres comes back in steps
#   of 64 mm. No error and no warning; the bit depth stands in the info of pillow_heif.open_heif alone.
# Seen:
#   I;16 [1000, 1010, 1020, 1030, 2000, 2010, 2020, 2030] back [960, 1024, 1984]
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-deps pillow-heif==1.8.1 pillow==13.0.0 numpy==2.4.6
venv/bin/python - <<'PY' | tee seen
import numpy as np
import pillow_heif
from PIL import Image

pillow_heif.register_heif_opener()
depth_mm = np.array([[1000, 1010, 1020, 1030], [2000, 2010, 2020, 2030]], np.uint16).repeat(16, axis=0).repeat(16, axis=1)
Image.fromarray(depth_mm).save("depth.heic", quality=-1)
with Image.open("depth.heic") as picture:
    back = np.asarray(picture)
    print(picture.mode, np.unique(depth_mm).tolist(), "back", np.unique(back).tolist())
PY
diff seen - <<'EXPECTED'
I;16 [1000, 1010, 1020, 1030, 2000, 2010, 2020, 2030] back [960, 1024, 1984]
EXPECTED
