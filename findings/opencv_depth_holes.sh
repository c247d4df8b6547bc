#!/usr/bin/env bash
# A hole in a depth picture is a hole for OpenCV 5 in millimetres, and a point in the camera in metres.
#
# Versions: opencv-python-headless 5.0.0.93.
# Belief: 0 means no depth in either of the units that depthTo3d takes, and so does 65535, as 7-Scenes writes it.
# Behaviour: of 16-bit depth 0 becomes NaN; the same picture in float metres gives points at (0, 0, 0), all holes of a
#   frame on one spot at the camera. 65535 becomes a wall at 65.5 m. And x points right, though the documentation of
#   depthTo3d says left.
# Seen:
#   millimetres [[-0.002, 0.0, 1.0], [nan, nan, nan], [0.131, 0.0, 65.535]]
#   metres [[-0.002, 0.0, 1.0], [0.0, 0.0, 0.0], [0.131, 0.0, 65.535]]
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-deps opencv-python-headless==5.0.0.93 numpy==2.4.6
venv/bin/python - <<'PY' | tee seen
import cv2
import numpy as np

K = np.array([[500.0, 0.0, 1.0], [0.0, 500.0, 0.0], [0.0, 0.0, 1.0]])
depth_mm = np.array([[1000, 0, 65535]], np.uint16)
for name, depth in (("millimetres", depth_mm), ("metres", (depth_mm / 1000).astype(np.float32))):
    points = cv2.depthTo3d(depth, K)[0, :, :3]
    print(name, [[round(float(x), 3) for x in point] for point in points + 0.0])
PY
diff seen - <<'EXPECTED'
millimetres [[-0.002, 0.0, 1.0], [nan, nan, nan], [0.131, 0.0, 65.535]]
metres [[-0.002, 0.0, 1.0], [0.0, 0.0, 0.0], [0.131, 0.0, 65.535]]
EXPECTED
