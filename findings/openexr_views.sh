#!/usr/bin/env bash
# OpenEXR writes other numbers than it was given, if the array is a view.
#
# Versions: OpenEXR 3.5.3.
# Belief: depth.T, or one channel pixels[..., 0] of a picture, is an array like any other, and its values end up in
#   the file.
# Behaviour: the writer takes the array's memory as it lies and ignores how the view steps through it: the file has
#   the right size and the wrong pixels, without an error. numpy.ascontiguousarray before it helps. Unsupported types
#   (float64, uint16) are refused, so one trusts it.
# Seen:
#   whole: given [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]], read [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
#   transposed: given [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]], read [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]
#   one channel of two: given [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]], read [[0.0, -0.0, 1.0], [-1.0, 2.0, -2.0]]
#   one channel, copied: [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-deps OpenEXR==3.5.3 numpy==2.4.6
venv/bin/python - <<'PY' | tee seen
import numpy as np
import OpenEXR


def through_a_file(pixels):
    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    with OpenEXR.File(header, {"Z": pixels}) as picture:
        picture.write("depth.exr")
    with OpenEXR.File("depth.exr") as picture:
        return picture.channels()["Z"].pixels


depth_m = np.arange(6, dtype=np.float32).reshape(2, 3)
both = np.stack([depth_m, -depth_m], axis=-1)
for name, pixels in (("whole", depth_m), ("transposed", depth_m.T), ("one channel of two", both[..., 0])):
    print(f"{name}: given {pixels.tolist()}, read {through_a_file(pixels).tolist()}")
print("one channel, copied:", through_a_file(np.ascontiguousarray(both[..., 0])).tolist())
PY
diff seen - <<'EXPECTED'
whole: given [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]], read [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
transposed: given [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]], read [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]
one channel of two: given [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]], read [[0.0, -0.0, 1.0], [-1.0, 2.0, -2.0]]
one channel, copied: [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
EXPECTED
