#!/usr/bin/env bash
# White of a phone's HDR video is grey in PyAV and white in OpenCV 5.
#
# Versions: av 18.1.0, opencv-python-headless 5.0.0.93.
# Belief: two readers give a frame of one video in about the same RGB, near what the phone shows.
# Behaviour: phones record HDR with the HLG curve, in which paper white is 75 % of the signal. PyAV's rgb24 changes
#   the matrix and leaves the curve and the primaries: white is 189 of 255, red is dull. OpenCV 5 brings it to the
#   usual curve: white is 254. An encoder of pictures sees two different pictures. Of a video without HDR the two
#   agree within 2.
# Seen:
#   white, HDR: pyav [189, 189, 189], opencv [254, 254, 254]
#   red, HDR: pyav [154, 75, 63], opencv [206, 79, 72]
#   the same signal, no HDR: pyav [189, 189, 189], opencv [191, 189, 191]
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-deps av==18.1.0 opencv-python-headless==5.0.0.93 numpy==2.4.6
venv/bin/python - <<'PY' | tee seen
import av
import cv2
import numpy as np

HLG = {"colorspace": 9, "color_primaries": 9, "color_trc": 18}
USUAL = {"colorspace": 1, "color_primaries": 1, "color_trc": 1}


def write(path, signal, space):
    with av.open(path, "w") as box:
        stream = box.add_stream("libx265", rate=30, options={"x265-params": "log-level=none"})
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p10le"
        for name, value in space.items():
            setattr(stream.codec_context, name, value)
        frame = av.VideoFrame(320, 240, "yuv420p10le")
        for plane, value in zip(frame.planes, signal):
            plane.update(np.full(plane.buffer_size // 2, value, np.uint16).tobytes())
        for number in range(3):
            frame.pts = number
            box.mux(stream.encode(frame))
        box.mux(stream.encode())


for name, signal, space in (
    ("white, HDR", (721, 512, 512), HLG), ("red, HDR", (400, 450, 650), HLG), ("the same signal, no HDR", (721, 512, 512), USUAL),
):
    path = f"{name}.mp4"
    write(path, signal, space)
    with av.open(path) as box:
        pyav = next(box.decode(video=0)).to_ndarray(format="rgb24")[120, 160]
    opencv = cv2.VideoCapture(path).read()[1][120, 160, ::-1]
    print(f"{name}: pyav {pyav.tolist()}, opencv {opencv.tolist()}")
PY
diff seen - <<'EXPECTED'
white, HDR: pyav [189, 189, 189], opencv [254, 254, 254]
red, HDR: pyav [154, 75, 63], opencv [206, 79, 72]
the same signal, no HDR: pyav [189, 189, 189], opencv [191, 189, 191]
EXPECTED
