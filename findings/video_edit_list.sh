#!/usr/bin/env bash
# A trimmed video holds more frames by count than ever come out of it.
#
# Versions: av 18.1.0, opencv-python-headless 5.0.0.93, imageio 2.38.1; cut by the FFmpeg of imageio-ffmpeg 0.8.1.
# Belief: the number of frames that PyAV, OpenCV and imageio tell before decoding is how many will come; rows of poses
#   can be held against it.
# Behaviour: a clip that was cut without coding it anew starts at the key frame before the cut and tells players to
#   leave the first frames out. The counts have them, the decoders do not give them. What pairs by numbers from the
#   start is right; what trusts the count is not.
# Seen:
#   pyav tells 45, gives 39: 21 to 59
#   opencv tells 45, gives 39
#   imageio tells 45, gives 39
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-deps av==18.1.0 opencv-python-headless==5.0.0.93 imageio==2.38.1 imageio-ffmpeg==0.8.1 numpy==2.4.6 pillow==13.0.0
venv/bin/python - <<'PY' | tee seen
import subprocess

import av
import cv2
import imageio.v3 as imageio
import imageio_ffmpeg
import numpy as np

with av.open("whole.mp4", "w") as box:
    stream = box.add_stream("libx264", rate=30, options={"g": "15", "sc_threshold": "0"})
    stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
    for number in range(60):
        box.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((48, 64, 3), number * 4, np.uint8), format="rgb24")))
    box.mux(stream.encode())
cut = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-ss", "0.7", "-i", "whole.mp4", "-c", "copy", "clip.mp4"]
subprocess.run(cut, check=True)

with av.open("clip.mp4") as box:
    told = box.streams.video[0].frames
    numbers = [round(frame.to_ndarray(format="rgb24").mean() / 4) for frame in box.decode(video=0)]
print(f"pyav tells {told}, gives {len(numbers)}: {numbers[0]} to {numbers[-1]}")
capture = cv2.VideoCapture("clip.mp4")
told, given = round(capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0
while capture.read()[0]:
    given += 1
print(f"opencv tells {told}, gives {given}")
told = imageio.improps("clip.mp4", plugin="pyav").n_images
print(f"imageio tells {told}, gives {sum(1 for _ in imageio.imiter('clip.mp4', plugin='pyav'))}")
PY
diff seen - <<'EXPECTED'
pyav tells 45, gives 39: 21 to 59
opencv tells 45, gives 39
imageio tells 45, gives 39
EXPECTED
