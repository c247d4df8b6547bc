#!/usr/bin/env bash
# OpenCV 5 gives None for a PLY whose coordinates are doubles, where its documentation promises an error.
#
# Versions: opencv-python-headless 5.0.0.93.
# Belief: loadPointCloud reads PLY's coordinates in either float type, or throws, as its documentation says of a cloud
#   that can't be read.
# Behaviour: three times None come back, and a line in the log says what it expected. The next step fails, or draws an
#   empty scene. Writers that keep numpy's type, meshio for one, write doubles.
# Seen:
#   float [1.0, 2.0, 3.0]
#   double None
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-deps opencv-python-headless==5.0.0.93 numpy==2.4.6
venv/bin/python - <<'PY' | tee seen
from pathlib import Path

import cv2

cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
for kind in ("float", "double"):
    axes = "".join(f"property {kind} {axis}\n" for axis in "xyz")
    Path("cloud.ply").write_text(f"ply\nformat ascii 1.0\nelement vertex 1\n{axes}end_header\n1 2 3\n")
    points, _, _ = cv2.loadPointCloud("cloud.ply")
    print(kind, points if points is None else points.ravel().tolist())
PY
diff seen - <<'EXPECTED'
float [1.0, 2.0, 3.0]
double None
EXPECTED
