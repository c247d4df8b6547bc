#!/usr/bin/env bash
# A lossless video of 16-bit depth comes out of OpenCV and imageio with 8 bits, without a word.
#
# Versions: opencv-python-headless 5.0.0.93, imageio 2.38.1, av 18.1.0.
# Belief: FFV1 in gray16 is lossless, so a reader gives the millimetres that were written, or says that it can't.
# Behaviour: OpenCV and imageio, also with PyAV beneath it, give three equal channels of 8 bits: 2000 mm is 8. PyAV
#   itself gives the 16 bits, if to_ndarray is asked for no format.
# Seen:
#   pyav uint16 (48, 64) [2000]
#   opencv uint8 (48, 64, 3) [8]
#   imageio uint8 (48, 64, 3) [8]
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-deps opencv-python-headless==5.0.0.93 imageio==2.38.1 av==18.1.0 numpy==2.4.6 pillow==13.0.0
venv/bin/python - <<'PY' | tee seen
import av
import cv2
import imageio.v3 as imageio
import numpy as np

depth_mm = np.full((48, 64), 2000, np.uint16)
with av.open("depth.mkv", "w") as box:
    stream = box.add_stream("ffv1", rate=30)
    stream.width, stream.height, stream.pix_fmt = 64, 48, "gray16le"
    frame = av.VideoFrame.from_ndarray(depth_mm, format="gray16le")
    frame.pts = 0
    box.mux(stream.encode(frame))
    box.mux(stream.encode())
with av.open("depth.mkv") as box:
    pyav = next(box.decode(video=0)).to_ndarray()
readers = {
    "pyav": pyav,
    "opencv": cv2.VideoCapture("depth.mkv").read()[1],
    "imageio": imageio.imread("depth.mkv", plugin="pyav", index=0),
}
for name, frame in readers.items():
    print(name, frame.dtype, frame.shape, np.unique(frame))
PY
diff seen - <<'EXPECTED'
pyav uint16 (48, 64) [2000]
opencv uint8 (48, 64, 3) [8]
imageio uint8 (48, 64, 3) [8]
EXPECTED
