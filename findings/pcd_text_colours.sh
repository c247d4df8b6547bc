#!/usr/bin/env bash
# pypcd4 writes all colours of a text PCD as black; the binary ones are right.
#
# Versions: pypcd4 1.5.1.
# Belief: a point cloud's file has the same content in each of PCD's encodings.
# Behaviour: PCL packs a colour's bytes into a float. Most such floats are tiny, and as text they are written with a
#   fixed number of decimals: 0.000. Points stay right, so that nothing tells, and every colour comes back (0, 0, 0).
# Seen:
#   binary points True colours [[255, 128, 7], [1, 2, 3]]
#   binary_compressed points True colours [[255, 128, 7], [1, 2, 3]]
#   ascii points True colours [[0, 0, 0], [0, 0, 0]]
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-deps pypcd4==1.5.1 numpy==2.4.6 pydantic==2.14.4 pydantic_core==2.50.5 annotated-types==0.8.0 typing_extensions==4.16.0 typing-inspection==0.4.5 python-neo-lzf==0.3.5
venv/bin/python - <<'PY' | tee seen
import numpy as np
from pypcd4 import Encoding, PointCloud

points = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], np.float32)
colors = PointCloud.encode_rgb(np.array([[255, 128, 7], [1, 2, 3]], np.uint8))
cloud = PointCloud.from_xyzrgb_points(np.column_stack([points, colors]))
for encoding in (Encoding.BINARY, Encoding.BINARY_COMPRESSED, Encoding.ASCII):
    cloud.save("cloud.pcd", encoding=encoding)
    back = PointCloud.from_path("cloud.pcd")
    same = np.array_equal(back.numpy(("x", "y", "z")), points)
    print(encoding.value, "points", same, "colours", PointCloud.decode_rgb(back.pc_data["rgb"]).tolist())
PY
diff seen - <<'EXPECTED'
binary points True colours [[255, 128, 7], [1, 2, 3]]
binary_compressed points True colours [[255, 128, 7], [1, 2, 3]]
ascii points True colours [[0, 0, 0], [0, 0, 0]]
EXPECTED
