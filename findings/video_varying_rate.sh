#!/usr/bin/env bash
# imageio-ffmpeg repeats frames of a phone's video, whose rate varies; imageio with PyAV does not.
#
# Versions: imageio 2.38.1, imageio-ffmpeg 0.8.1, av 18.1.0.
# Belief: reading a video gives the frames that were recorded, each once, so the k-th fits the k-th row of poses.
# Behaviour: through FFmpeg's programme it comes at an even rate: where the phone recorded slower, frames are
#   repeated, and all after them have another number. One call, another plugin, another number of frames.
# Seen:
#   pyav [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]
#   FFMPEG [0, 1, 2, 3, 3, 4, 4, 4, 5, 5, 5, 5, 6, 6, 6, 7, 7, 7, 8, 9, 10, 11]
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-deps imageio==2.38.1 imageio-ffmpeg==0.8.1 av==18.1.0 numpy==2.4.6 pillow==13.0.0
venv/bin/python - <<'PY' | tee seen
from fractions import Fraction

import av
import imageio.v3 as imageio
import numpy as np

SHOWN_MS = [0, 33, 66, 100, 200, 300, 400, 500, 533, 566, 600, 633]
with av.open("phone.mp4", "w") as box:
    stream = box.add_stream("libx264", rate=30)
    stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
    stream.codec_context.time_base = Fraction(1, 1000)
    for number, shown in enumerate(SHOWN_MS):
        frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), number * 20, np.uint8), format="rgb24")
        frame.pts, frame.time_base = shown, Fraction(1, 1000)
        box.mux(stream.encode(frame))
    box.mux(stream.encode())
for plugin in ("pyav", "FFMPEG"):
    print(plugin, [round(frame.mean() / 20) for frame in imageio.imiter("phone.mp4", plugin=plugin)])
PY
diff seen - <<'EXPECTED'
pyav [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]
FFMPEG [0, 1, 2, 3, 3, 4, 4, 4, 5, 5, 5, 5, 6, 6, 6, 7, 7, 7, 8, 9, 10, 11]
EXPECTED
