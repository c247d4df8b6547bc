#!/usr/bin/env bash
# OpenCV 5 writes 8-bit colours of a point cloud times 255 into a PLY's bytes.
#
# Versions: opencv-python-headless 5.0.0.93.
# Belief: savePointCloud takes colours as pictures have them, 0 to 255 in bytes, and loadPointCloud gives them back.
# Behaviour: any colours are taken for 0 to 1: 255 is written as 65025 in a property of type uchar, which no reader
#   can hold. OpenCV itself reads the lowest 8 bits: orange comes back blue. No error, no warning. Colours of 0 to 1
#   in floats come back right.
# Seen:
#   bytes: '0 0 0 65025 32640 1785' of 'property uchar red', back [1, 128, 249]
#   floats: '0 0 0 255 128 7' of 'property uchar red', back [255, 128, 7]
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-deps opencv-python-headless==5.0.0.93 numpy==2.4.6
venv/bin/python - <<'PY' | tee seen
from pathlib import Path

import cv2
import numpy as np

points = np.zeros((1, 1, 3), np.float32)
orange = np.array([[[255, 128, 7]]], np.uint8)
for name, colors in (("bytes", orange), ("floats", (orange / 255).astype(np.float32))):
    cv2.savePointCloud("cloud.ply", points, rgb=colors)
    _, _, back = cv2.loadPointCloud("cloud.ply")
    lines = Path("cloud.ply").read_text().splitlines()
    print(f"{name}: '{lines[-1]}' of '{lines[7]}', back {np.rint(back.ravel() * 255).astype(int).tolist()}")
PY
diff seen - <<'EXPECTED'
bytes: '0 0 0 65025 32640 1785' of 'property uchar red', back [1, 128, 249]
floats: '0 0 0 255 128 7' of 'property uchar red', back [255, 128, 7]
EXPECTED
