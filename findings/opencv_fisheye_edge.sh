#!/usr/bin/env bash
# OpenCV bends the edge of a fisheye picture inwards when it undistorts points: it does not undo its own projection.
#
# Versions: opencv-python-headless 5.0.0.93.
# Belief: fisheye.undistortPoints undoes fisheye.projectPoints for each point in front of the camera, by its
#   iteration.
# Behaviour: the distorted angle is cut at 90 degrees before anything is solved. A lens that widens angles (k1 above
#   0) gets there before the ray does: a ray at 80 degrees comes back at 79.0, one at 85 at 79.7. Without distortion
#   it is right, so a try with zeros tells nothing.
# Seen:
#   no distortion: 60 degrees, distorted 60.0, back 60.0
#   no distortion: 80 degrees, distorted 80.0, back 80.0
#   no distortion: 85 degrees, distorted 85.0, back 85.0
#   widens: 60 degrees, distorted 65.4, back 60.0
#   widens: 80 degrees, distorted 91.7, back 79.0
#   widens: 85 degrees, distorted 98.3, back 79.7
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-deps opencv-python-headless==5.0.0.93 numpy==2.4.6
venv/bin/python - <<'PY' | tee seen
import cv2
import numpy as np

K = np.array([[300.0, 0.0, 600.0], [0.0, 300.0, 600.0], [0.0, 0.0, 1.0]])
for name, lens in (("no distortion", [0.0, 0.0, 0.0, 0.0]), ("widens", [0.07, 0.03, -0.02, 0.003])):
    for degrees in (60, 80, 85):
        ray = np.array([[[np.tan(np.radians(degrees)), 0.0, 1.0]]])
        pixel, _ = cv2.fisheye.projectPoints(ray, np.zeros(3), np.zeros(3), K, np.array(lens))
        back = cv2.fisheye.undistortPoints(pixel, K, np.array(lens)).ravel()[0]
        distorted = (pixel.ravel()[0] - 600) / 300
        print(f"{name}: {degrees} degrees, distorted {np.degrees(distorted):.1f}, back {np.degrees(np.arctan(back)):.1f}")
PY
diff seen - <<'EXPECTED'
no distortion: 60 degrees, distorted 60.0, back 60.0
no distortion: 80 degrees, distorted 80.0, back 80.0
no distortion: 85 degrees, distorted 85.0, back 85.0
widens: 60 degrees, distorted 65.4, back 60.0
widens: 80 degrees, distorted 91.7, back 79.0
widens: 85 degrees, distorted 98.3, back 79.7
EXPECTED
