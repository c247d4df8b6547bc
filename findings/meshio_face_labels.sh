#!/usr/bin/env bash
# meshio can't read a PLY that has triangles, quads and a label a face, where a triangle follows a quad.
#
# Versions: meshio 5.3.5.
# Belief: PLY lets faces of several sizes follow each other, with properties beside them; a reader of meshes gives
#   faces and labels.
# Behaviour: faces are cut into runs of one size, labels are collected by size: with two runs of triangles the counts
#   differ, and the file is refused with a message about blocks. Sorted by size, the same mesh is read.
# Seen:
#   triangle, another triangle, quad [('triangle', 2), ('quad', 1)] [[7, 9], [8]]
#   triangle, quad, another triangle | Incompatible cell data 'label'. 3 cell blocks, but 'label' has 2 blocks.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-deps meshio==5.3.5 numpy==2.4.6 rich==15.0.0 pygments==2.21.0 markdown-it-py==4.3.0 mdurl==0.1.2
venv/bin/python - <<'PY' | tee seen
from pathlib import Path

import meshio

HEAD = """ply
format ascii 1.0
element vertex 5
property float x
property float y
property float z
element face 3
property list uchar int vertex_indices
property int label
end_header
0 0 0
1 0 0
1 1 0
0 1 0
2 0 0
"""
FACES = {"triangle": "3 0 1 2 7", "quad": "4 0 1 2 3 8", "another triangle": "3 1 4 2 9"}
for order in (["triangle", "another triangle", "quad"], ["triangle", "quad", "another triangle"]):
    Path("mesh.ply").write_text(HEAD + "\n".join(FACES[name] for name in order) + "\n")
    try:
        mesh = meshio.read("mesh.ply")
        print(", ".join(order), [(block.type, len(block)) for block in mesh.cells], [x.tolist() for x in mesh.cell_data["label"]])
    except ValueError as error:
        print(", ".join(order), "|", error)
PY
diff seen - <<'EXPECTED'
triangle, another triangle, quad [('triangle', 2), ('quad', 1)] [[7, 9], [8]]
triangle, quad, another triangle | Incompatible cell data 'label'. 3 cell blocks, but 'label' has 2 blocks.
EXPECTED
