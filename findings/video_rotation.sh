#!/usr/bin/env bash
# A phone's video that asks to be turned comes turned out of OpenCV and as it was recorded out of PyAV.
#
# Versions: opencv-python-headless 5.0.0.93, av 18.1.0.
# Belief: two readers of one file give the same pixels, of the size that the stream says; K of the recording fits both.
# Behaviour: cv2.VideoCapture turns each frame by the note in the file, so width and height change places and the pixel
#   (u, v) is another; PyAV gives the stored pixels and only tells the note. The two even say it with other numbers:
#   270 is OpenCV's word for PyAV's 90. K, depth and poses of a recorder belong to the stored pixels.
# Seen:
#   opencv (64, 48) white corner: bottom left, note 270
#   pyav (48, 64) white corner: top left, note 90
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet opencv-python-headless==5.0.0.93 av==18.1.0
venv/bin/python - <<'PY' | tee seen
import av
import cv2
import numpy as np

picture = np.zeros((48, 64, 3), np.uint8)
picture[:24, :32] = 255
with av.open("turned.mp4", "w") as box:
    stream = box.add_stream("libx264", rate=30)
    stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
    stream.set_display_rotation(90)
    box.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
    box.mux(stream.encode())


def corner(pixels):
    rows, columns = {"top": 8, "bottom": -8}, {"left": 8, "right": -8}
    [name] = [f"{r} {c}" for r, y in rows.items() for c, x in columns.items() if pixels[y, x].mean() > 200]
    return f"{pixels.shape[:2]} white corner: {name}"


capture = cv2.VideoCapture("turned.mp4")
print("opencv", corner(capture.read()[1]) + f", note {capture.get(cv2.CAP_PROP_ORIENTATION_META):.0f}")
with av.open("turned.mp4") as box:
    frame = next(box.decode(video=0))
print("pyav", corner(frame.to_ndarray(format="rgb24")) + f", note {frame.rotation}")
PY
diff seen - <<'EXPECTED'
opencv (64, 48) white corner: bottom left, note 270
pyav (48, 64) white corner: top left, note 90
EXPECTED
