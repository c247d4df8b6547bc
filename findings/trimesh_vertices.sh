#!/usr/bin/env bash
# trimesh changes the vertices of a PLY while it reads: seams are merged, and loose ones are dropped.
#
# Versions: trimesh 5.2.0.
# Belief: row k of mesh.vertices is row k of the file, so a list of labels a vertex (ScanNet's, for one) fits.
# Behaviour: vertices at one place become one, though their labels differ, and vertices that no face uses are dropped,
#   which moves all after them. process=False keeps the rows. Of a PLY without faces all are kept anyway, so trying it
#   on a point cloud tells nothing.
# Seen:
#   seam.ply: 4 vertices, with process=False 6
#   loose.ply: 3 vertices, with process=False 4
#   cloud.ply: 3 vertices, with process=False 3
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-deps trimesh==5.2.0 numpy==2.4.6
venv/bin/python - <<'PY' | tee seen
from pathlib import Path

import trimesh


def write(name, vertices, faces):
    lines = ["ply", "format ascii 1.0", f"element vertex {len(vertices)}", *(f"property float {axis}" for axis in "xyz")]
    lines += ["property int label", f"element face {len(faces)}", "property list uchar int vertex_indices", "end_header"]
    lines += [f"{place} {label}" for label, place in enumerate(vertices)] + [f"3 {face}" for face in faces]
    Path(name).write_text("\n".join(lines) + "\n")


write("seam.ply", ["0 0 0", "1 0 0", "1 1 0", "0 0 0", "1 1 0", "0 1 0"], ["0 1 2", "3 4 5"])
write("loose.ply", ["9 9 9", "0 0 0", "1 0 0", "1 1 0"], ["1 2 3"])
write("cloud.ply", ["0 0 0", "0 0 0", "1 1 0"], [])
for name in ("seam.ply", "loose.ply", "cloud.ply"):
    usual, plain = trimesh.load(name), trimesh.load(name, process=False)
    print(f"{name}: {len(usual.vertices)} vertices, with process=False {len(plain.vertices)}")
PY
diff seen - <<'EXPECTED'
seam.ply: 4 vertices, with process=False 6
loose.ply: 3 vertices, with process=False 4
cloud.ply: 3 vertices, with process=False 3
EXPECTED
