#!/usr/bin/env bash
# depthai's K for a picture of another shape follows another rule for taller ones, and for 1280x720 a third.
#
# Versions: depthai 3.12.0.
# Belief: getCameraIntrinsics of another size scales to fill it and crops the middle of what is too much, as its
#   documentation says; so the middle of the picture stays the middle.
# Behaviour: a wider size is filled and cropped. A taller one (640x480 of 1280x720) is not: the scale is that of the
#   width, as if black bars were added. And 640x400 of 1280x720 is scaled to 711x400 and K not moved by the crop: cx
#   is 36 px off the middle, while the same of 1920x1080 has it in the middle. No camera is needed to try it.
# Seen:
#   1920x1080 to 640x360: filled 0.333, K 0.333, centre 320 180
#   1920x1080 to 640x320: filled 0.333, K 0.333, centre 320 160
#   1920x1080 to 640x400: filled 0.370, K 0.370, centre 320 200
#   1920x1080 to 640x480: filled 0.444, K 0.333, centre 320 240
#   1280x720 to 640x360: filled 0.500, K 0.500, centre 320 180
#   1280x720 to 640x320: filled 0.500, K 0.500, centre 320 160
#   1280x720 to 640x400: filled 0.556, K 0.556, centre 356 200
#   1280x720 to 640x480: filled 0.667, K 0.500, centre 320 240
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-deps depthai==3.12.0 numpy==2.4.6
venv/bin/python - <<'PY' | tee seen
import os

os.environ["DEPTHAI_LEVEL"] = "off"
import depthai
import numpy as np

socket = depthai.CameraBoardSocket.CAM_A
for width, height in ((1920, 1080), (1280, 720)):
    focal = 0.625 * width
    handler = depthai.CalibrationHandler()
    handler.setCameraIntrinsics(socket, [[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]], width, height)
    for size in ((640, 360), (640, 320), (640, 400), (640, 480)):
        K = np.array(handler.getCameraIntrinsics(socket, *size))
        fill = max(size[0] / width, size[1] / height)
        print(f"{width}x{height} to {size[0]}x{size[1]}: filled {fill:.3f}, K {K[0, 0] / focal:.3f}, centre {K[0, 2]:.0f} {K[1, 2]:.0f}")
PY
diff seen - <<'EXPECTED'
1920x1080 to 640x360: filled 0.333, K 0.333, centre 320 180
1920x1080 to 640x320: filled 0.333, K 0.333, centre 320 160
1920x1080 to 640x400: filled 0.370, K 0.370, centre 320 200
1920x1080 to 640x480: filled 0.444, K 0.333, centre 320 240
1280x720 to 640x360: filled 0.500, K 0.500, centre 320 180
1280x720 to 640x320: filled 0.500, K 0.500, centre 320 160
1280x720 to 640x400: filled 0.556, K 0.556, centre 356 200
1280x720 to 640x480: filled 0.667, K 0.500, centre 320 240
EXPECTED
