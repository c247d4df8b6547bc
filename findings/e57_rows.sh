#!/usr/bin/env bash
# Rows of an E57 scan shift: pye57 drops invalid points, and applies the scan's pose, in one of its two readers.
#
# Versions: pye57 0.4.19.
# Belief: read_scan gives the rows that were written, in the scanner's frame, so a list of labels a row fits.
# Behaviour: read_scan leaves out rows whose state says invalid, without telling which, and gives world coordinates;
#   read_scan_raw gives all rows in the scanner's frame. Labels or features that were made with one do not fit the
#   other.
# Seen:
#   read_scan_raw [1.0, 2.0, 3.0]
#   read_scan [11.0, 13.0]
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-deps pye57==0.4.19 numpy==2.4.6 pyquaternion==0.9.9
venv/bin/python - <<'PY' | tee seen
import numpy as np
import pye57

scan = pye57.E57("scan.e57", mode="w")
scan.write_scan_raw(
    {
        "cartesianX": np.array([1.0, 2.0, 3.0]), "cartesianY": np.zeros(3), "cartesianZ": np.zeros(3),
        "cartesianInvalidState": np.array([0, 2, 0], np.uint8),
    },
    rotation=np.array([1.0, 0.0, 0.0, 0.0]), translation=np.array([10.0, 0.0, 0.0]),
)
scan.close()
scan = pye57.E57("scan.e57")
print("read_scan_raw", scan.read_scan_raw(0)["cartesianX"].tolist())
print("read_scan", scan.read_scan(0, ignore_missing_fields=True)["cartesianX"].tolist())
PY
diff seen - <<'EXPECTED'
read_scan_raw [1.0, 2.0, 3.0]
read_scan [11.0, 13.0]
EXPECTED
