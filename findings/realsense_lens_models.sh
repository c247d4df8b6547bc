#!/usr/bin/env bash
# librealsense: for two of its lens models, projecting does not undo deprojecting.
#
# Versions: pyrealsense2 2.59.1.11053.
# Belief: rs2_project_point_to_pixel brings a point of rs2_deproject_pixel_to_point back to its pixel, whatever lens
#   the intrinsics name.
# Behaviour: for three models it does, to a thousandth of a pixel. For modified Brown-Conrady with mild coefficients
#   it misses by pixels near the corner, and for F-theta by tens: aligning depth to colour with such intrinsics draws
#   nothing where it was seen. No camera is needed to try it.
# Seen:
#   brown_conrady: 0.0 px
#   inverse_brown_conrady: 0.0 px
#   kannala_brandt4: 0.0 px
#   modified_brown_conrady: 4.9 px
#   ftheta: 48.3 px
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-deps pyrealsense2==2.59.1.11053
venv/bin/python - <<'PY' | tee seen
import itertools
import math

import pyrealsense2 as rs

MILD = [-0.056, 0.066, 0.0007, -0.0001, -0.021]
models = {
    "brown_conrady": MILD,
    "inverse_brown_conrady": MILD,
    "kannala_brandt4": [0.02, -0.01, 0.003, -0.001, 0.0],
    "modified_brown_conrady": MILD,
    "ftheta": [0.9, 0.0, 0.0, 0.0, 0.0],
}
for name, coefficients in models.items():
    lens = rs.intrinsics()
    lens.width, lens.height, lens.fx, lens.fy, lens.ppx, lens.ppy = 640, 480, 380, 380, 320, 240
    lens.model, lens.coeffs = getattr(rs.distortion, name), coefficients
    worst = 0.0
    for pixel in itertools.product((5.0, 160.0, 320.0, 600.0), (5.0, 240.0, 470.0)):
        point = rs.rs2_deproject_pixel_to_point(lens, list(pixel), 2.0)
        worst = max(worst, math.dist(pixel, rs.rs2_project_point_to_pixel(lens, point)))
    print(f"{name}: {worst:.1f} px")
PY
diff seen - <<'EXPECTED'
brown_conrady: 0.0 px
inverse_brown_conrady: 0.0 px
kannala_brandt4: 0.0 px
modified_brown_conrady: 4.9 px
ftheta: 48.3 px
EXPECTED
