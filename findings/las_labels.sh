#!/usr/bin/env bash
# laspy refuses a label that is too large in an old point format, and wraps it in a new one.
#
# Versions: laspy 2.7.0.
# Belief: a label that does not fit the file's classification field is refused in all point formats, as it is in some.
# Behaviour: in the formats up to 5 the field has 5 bits, and NYU40's 39 is refused. From 6 on it has 8, and
#   ScanNet200's ids go to 1191: 300 becomes 44 and 1191 becomes 167, without a word. The same holds for a label in 16
#   extra bits of one's own.
# Seen:
#   format 3: value 39 is greater than allowed (max: 31)
#   format 6: [44, 167]
#   extra 16 bits: [1191, 4464]
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-deps laspy==2.7.0 numpy==2.4.6
venv/bin/python - <<'PY' | tee seen
import laspy
import numpy as np


def cloud(point_format):
    las = laspy.create(point_format=point_format)
    las.x = las.y = las.z = np.zeros(2)
    return las


try:
    cloud(3).classification = np.array([39, 5])
except OverflowError as error:
    print("format 3:", error)
las = cloud(6)
las.classification = np.array([300, 1191])
print("format 6:", np.array(las.classification).tolist())
las.add_extra_dim(laspy.ExtraBytesParams("label", np.uint16))
las.label = np.array([1191, 70000])
print("extra 16 bits:", np.array(las.label).tolist())
PY
diff seen - <<'EXPECTED'
format 3: value 39 is greater than allowed (max: 31)
format 6: [44, 167]
extra 16 bits: [1191, 4464]
EXPECTED
