#!/usr/bin/env bash
# evo pairs several poses of one trajectory with one and the same pose of the other.
#
# Versions: evo 1.38.1.
# Belief: association by time is one to one, as the TUM benchmark's own script does it; a pose that has its partner is
#   no one else's.
# Behaviour: each pose of the shorter trajectory takes the nearest of the longer, also one that is taken: four poses
#   within 15 ms are held against one. A burst or a stall of the tracker then counts several times in the error, and
#   no warning says so.
# Seen:
#   0.000 with 0.007
#   0.005 with 0.007
#   0.010 with 0.007
#   0.015 with 0.007
#   1.000 with 1.000
#   2.000 with 2.000
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-deps evo==1.38.1 numpy==2.4.6 scipy==1.17.1
venv/bin/python - <<'PY' | tee seen
import numpy as np
from evo.core.sync import associate_trajectories
from evo.core.trajectory import PoseTrajectory3D


def trajectory(stamps):
    still = np.tile([1.0, 0.0, 0.0, 0.0], (len(stamps), 1))
    return PoseTrajectory3D(np.zeros((len(stamps), 3)), still, np.array(stamps))


burst = trajectory([0.0, 0.005, 0.010, 0.015, 1.0, 2.0])
reference = trajectory([0.007, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
first, second = associate_trajectories(burst, reference, max_diff=0.02)
for pair in zip(first.timestamps, second.timestamps):
    print("%.3f with %.3f" % pair)
PY
diff seen - <<'EXPECTED'
0.000 with 0.007
0.005 with 0.007
0.010 with 0.007
0.015 with 0.007
1.000 with 1.000
2.000 with 2.000
EXPECTED
