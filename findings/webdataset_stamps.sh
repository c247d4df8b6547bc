#!/usr/bin/env bash
# WebDataset takes all frames of a second for one sample where frames are named by TUM's time stamps.
#
# Versions: webdataset 1.0.2.
# Belief: a name is what stands before its ending, so each PNG of a TUM RGB-D recording (rgb/1341846313.592026.png) is
#   a sample.
# Behaviour: the name ends at its first dot: the key is the second, and what follows of the stamp becomes the field's
#   name. Frames of one second become one sample, without an error. What asks for the field png finds none.
# Seen:
#   rgb/1341846313 ['592026.png', '625989.png']
#   rgb/1341846314 ['022147.png']
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-deps webdataset==1.0.2 braceexpand==0.1.7 numpy==2.4.6 pyyaml==6.0.4
venv/bin/python - <<'PY' | tee seen
import io
import tarfile

import webdataset

with tarfile.open("frames.tar", "w") as archive:
    for stamp in ("1341846313.592026", "1341846313.625989", "1341846314.022147"):
        entry = tarfile.TarInfo(f"rgb/{stamp}.png")
        entry.size = 4
        archive.addfile(entry, io.BytesIO(b"data"))
samples = webdataset.WebDataset("frames.tar", shardshuffle=False)
for sample in samples:
    print(sample["__key__"], sorted(field for field in sample if not field.startswith("__")))
PY
diff seen - <<'EXPECTED'
rgb/1341846313 ['592026.png', '625989.png']
rgb/1341846314 ['022147.png']
EXPECTED
