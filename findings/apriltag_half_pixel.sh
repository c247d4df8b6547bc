#!/usr/bin/env bash
# A tag's corner is half a pixel elsewhere, and another corner first, with AprilTag's detector than with OpenCV's.
#
# Versions: opencv-python-headless 5.0.0.93, pupil-apriltags 1.0.4.post11.
# Belief: two detectors give the same four corners of one tag in one picture; a pose found with either fits the same
#   K.
# Behaviour: AprilTag counts from the picture's edge, so the first pixel's centre is 0.5. So does OpenCV where it
#   refines corners by AprilTag's way, while its own refinement has centres on integers, as its K has: one setting
#   moves all corners by half a pixel. pupil-apriltags also starts at another corner.
# Seen:
#   black pixels: columns 120 to 319, so edges at 119.5 and 319.5 where centres are integers
#   opencv, SUBPIX: left edge 119.6, right edge 319.4, first corner top left
#   opencv, APRILTAG: left edge 120.0, right edge 320.0, first corner top left
#   pupil-apriltags: left edge 119.8, right edge 319.9, first corner top right
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-deps opencv-python-headless==5.0.0.93 pupil-apriltags==1.0.4.post11 numpy==2.4.6
venv/bin/python - <<'PY' | tee seen
import cv2
import numpy as np
from pupil_apriltags import Detector

tags = cv2.aruco.getPredefinedDictionary(cv2.aruco.DICT_APRILTAG_36h11)
picture = np.full((400, 400), 255, np.uint8)
picture[100:300, 120:320] = cv2.aruco.generateImageMarker(tags, 3, 200)
picture = cv2.GaussianBlur(picture, (0, 0), 1.0)  # as through a lens


def told(name, corners):
    first = ("top" if corners[0][1] < 200 else "bottom") + (" left" if corners[0][0] < 220 else " right")
    print(f"{name}: left edge {corners[:, 0].min():.1f}, right edge {corners[:, 0].max():.1f}, first corner {first}")


print("black pixels: columns 120 to 319, so edges at 119.5 and 319.5 where centres are integers")
for name in ("SUBPIX", "APRILTAG"):
    parameters = cv2.aruco.DetectorParameters()
    parameters.cornerRefinementMethod = getattr(cv2.aruco, f"CORNER_REFINE_{name}")
    corners, _, _ = cv2.aruco.ArucoDetector(tags, parameters).detectMarkers(picture)
    told(f"opencv, {name}", corners[0].reshape(4, 2))
[found] = Detector(families="tag36h11").detect(picture)
told("pupil-apriltags", found.corners)
PY
diff seen - <<'EXPECTED'
black pixels: columns 120 to 319, so edges at 119.5 and 319.5 where centres are integers
opencv, SUBPIX: left edge 119.6, right edge 319.4, first corner top left
opencv, APRILTAG: left edge 120.0, right edge 320.0, first corner top left
pupil-apriltags: left edge 119.8, right edge 319.9, first corner top right
EXPECTED
