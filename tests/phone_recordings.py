"""Small recordings as phones write them, of frames whose every number is known. Made from the formats' descriptions."""

import io
import json
import struct
import zipfile
import zlib
from dataclasses import dataclass

import numpy as np
from PIL import Image

GL = np.diag([1.0, -1.0, -1.0, 1.0])
"""From OpenCV's camera axes to OpenGL's, multiplied from the right."""


@dataclass
class Shot:
    """A frame: (H, W, 3) colour, (h, w) metres, (h, w) confidence, (4, 4) cam_to_world of OpenCV's axes, (3, 3) K."""

    color: np.ndarray
    depth: np.ndarray
    confidence: np.ndarray
    pose: np.ndarray
    quaternion: np.ndarray
    k: np.ndarray


def shots(count=4, size=(32, 24), depth_size=(16, 12), seed=0):
    """Frames of smooth colour, as videos can hold it; depth is whole millimetres; each has its own K."""
    rng = np.random.default_rng(seed)
    w, h = size
    found = []
    for i in range(count):
        q = rng.normal(size=4)
        q /= np.linalg.norm(q)
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = rotation(q), rng.normal(size=3)
        color = np.full((h, w, 3), (20 + 23 * i % 200, 200 - 17 * i % 180, 90), np.uint8)
        depth = rng.integers(300, 4000, depth_size[::-1]) / 1000
        k = np.array([[0.9 * w + i, 0, w / 2 - 1], [0, 0.9 * w + i, h / 2], [0, 0, 1]])
        found.append(Shot(color, depth, rng.integers(0, 3, depth.shape).astype(np.uint8), pose, q, k))
    return found


def rotation(q):
    """(3, 3) of a unit quaternion x y z w, by the product with each axis."""
    xyz, w = q[:3], q[3]
    return np.stack([e + 2 * np.cross(xyz, np.cross(xyz, e) + w * e) for e in np.eye(3)], axis=1)


def quaternion_of(matrix):
    """x y z w of a rotation, whichever sign."""
    m = matrix
    w = np.sqrt(max(0, 1 + m[0, 0] + m[1, 1] + m[2, 2])) / 2
    x, y, z = (
        np.sqrt(max(0, 1 + m[0, 0] - m[1, 1] - m[2, 2])) / 2,
        np.sqrt(max(0, 1 - m[0, 0] + m[1, 1] - m[2, 2])) / 2,
        np.sqrt(max(0, 1 - m[0, 0] - m[1, 1] + m[2, 2])) / 2,
    )
    signs = m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1]
    return np.array([*np.copysign((x, y, z), signs), w])


def jpeg(color):
    out = io.BytesIO()
    Image.fromarray(color).save(out, "JPEG", quality=95)
    return out.getvalue()


def exr(depth, compression=3):
    """A file of one half-float channel R; 0: none, 2: ZIPS, 3: ZIP."""
    height, width = depth.shape
    window = struct.pack("<4i", 0, 0, width - 1, height - 1)
    attributes = [
        ("channels", "chlist", b"R\0" + struct.pack("<i4xii", 1, 1, 1) + b"\0"),
        ("compression", "compression", bytes([compression])), ("dataWindow", "box2i", window),
        ("displayWindow", "box2i", window), ("lineOrder", "lineOrder", b"\0"),
    ]  # fmt: skip
    head = b"\x76\x2f\x31\x01" + struct.pack("<I", 2)
    for name, kind, value in attributes:
        head += name.encode() + b"\0" + kind.encode() + b"\0" + struct.pack("<I", len(value)) + value
    head += b"\0"
    rows, blocks = 16 if compression == 3 else 1, []
    for first in range(0, height, rows):
        plain = depth[first : first + rows].astype("<f2").tobytes()
        split = np.frombuffer(plain[0::2] + plain[1::2], np.uint8).astype(int)
        packed = zlib.compress((np.diff(split, prepend=split[0] - 128 + 256) + 128 & 255).astype(np.uint8).tobytes())
        data = plain if compression == 0 or len(packed) >= len(plain) else packed
        blocks.append(struct.pack("<ii", first, len(data)) + data)
    starts = np.cumsum([0, *map(len, blocks[:-1])]) + len(head) + 8 * len(blocks)
    return head + starts.astype("<u8").tobytes() + b"".join(blocks)


def record3d_metadata(frames, own_k=True, **changes):
    """As Record3D writes it: K by columns, OpenGL poses. A change of None leaves the name out."""
    (h, w), (dh, dw) = frames[0].color.shape[:2], frames[0].depth.shape
    poses = [[*quaternion_of((f.pose @ GL)[:3, :3]), *f.pose[:3, 3]] for f in frames]
    found = {"w": w, "h": h, "dw": dw, "dh": dh, "fps": 60, "K": frames[0].k.T.ravel().tolist(), "poses": poses}
    if own_k:
        found["perFrameIntrinsicCoeffs"] = [[f.k[0, 0], f.k[1, 1], f.k[0, 2], f.k[1, 2]] for f in frames]
    return {name: value for name, value in (found | changes).items() if value is not None}


def write_r3d(path, frames, metadata=None, leave_out=()):
    """An archive, without the frames of ``leave_out``."""
    import lzfse

    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata", json.dumps(metadata or record3d_metadata(frames)))
        for i, frame in enumerate(frames):
            if i not in leave_out:
                archive.writestr(f"rgbd/{i}.jpg", jpeg(frame.color))
                archive.writestr(f"rgbd/{i}.depth", lzfse.compress(frame.depth.astype("<f4").tobytes()))
                archive.writestr(f"rgbd/{i}.conf", lzfse.compress(frame.confidence.tobytes()))
    return path


def write_record3d_export(folder, frames, metadata=None, leave_out=(), compression=3):
    """The folders of the app's export."""
    for name in ("rgb", "depth"):
        (folder / name).mkdir(parents=True)
    (folder / "metadata.json").write_text(json.dumps(metadata or record3d_metadata(frames)))
    for i, frame in enumerate(frames):
        if i not in leave_out:
            (folder / f"rgb/{i}.jpg").write_bytes(jpeg(frame.color))
            (folder / f"depth/{i}.exr").write_bytes(exr(frame.depth, compression))
    return folder


def write_video(path, pictures, codec="libx264", turned=0, **options):
    """A video, which asks viewers to turn it counterclockwise by so many degrees."""
    import av

    options = {"crf": "10", "g": "5", "x265-params": "log-level=none:keyint=5"} | options
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as box:
        chosen = {name: value for name, value in options.items() if ("x265" in name) <= (codec == "libx265")}
        stream = box.add_stream(codec, rate=60, options=chosen)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        if turned:
            stream.set_display_rotation(turned)
        for picture in pictures:
            box.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
        box.mux(stream.encode())
    return path


def write_stray(folder, frames, own_k=True, video=True, **options):
    """A scene of Stray Scanner; older ones have no K a frame."""
    for name in ("depth", "confidence"):
        (folder / name).mkdir(parents=True)
    rows = ["timestamp, frame, x, y, z, qx, qy, qz, qw" + (", fx, fy, cx, cy, distortion_center_x" if own_k else "")]
    for i, frame in enumerate(frames):
        Image.fromarray((frame.depth * 1000).round().astype(np.uint16)).save(folder / f"depth/{i:06d}.png")
        Image.fromarray(frame.confidence).save(folder / f"confidence/{i:06d}.png")
        k = [frame.k[0, 0], frame.k[1, 1], frame.k[0, 2], frame.k[1, 2]] if own_k else []
        numbers = [*frame.pose[:3, 3], *frame.quaternion, *k]
        rows.append(", ".join([f"{1000 + i / 60:.6f}", f"{i:06d}", *map(repr, map(float, numbers)), *([""] * own_k)]))
    (folder / "odometry.csv").write_text("\n".join(rows) + "\n")
    (folder / "camera_matrix.csv").write_text("\n".join(", ".join(map(str, row)) for row in frames[-1].k))
    if video:
        write_video(folder / "rgb.mp4", [frame.color for frame in frames], **options)
    return folder


def pack_depth_bin(depths, kind):
    """A depth.bin of (192, 256) depth in metres: "lz4" or "deflate" a frame, or "stream" for one of all."""
    if kind == "stream":
        packer = zlib.compressobj(1, wbits=-15)
        return b"".join(packer.compress(depth.astype("<f4").tobytes()) for depth in depths) + packer.flush()
    blocks = []
    for depth in depths:
        if kind == "lz4":
            import lz4.block

            blocks.append(lz4.block.compress((depth * 1000).round().astype("<u2").tobytes(), store_size=False))
        else:
            blocks.append(deflated(depth.astype("<f4").tobytes()))
    return b"".join(len(block).to_bytes(4, "little") + block for block in blocks)


def deflated(data):
    """Without a header, as depth.bin has it."""
    packer = zlib.compressobj(1, wbits=-15)
    return packer.compress(data) + packer.flush()


def write_scannetpp_raw(folder, frames, kind="deflate", video="rgb.mkv", **options):
    """The phone's part of a scene; its mesh's world is another than ARKit's."""
    inner = folder / "iphone"
    inner.mkdir(parents=True)
    (inner / "depth.bin").write_bytes(pack_depth_bin([frame.depth for frame in frames], kind))
    listed = {
        f"frame_{i:06d}": {
            "timestamp": i / 60, "pose": np.eye(4).tolist(), "intrinsic": frame.k.tolist(),
            "aligned_pose": frame.pose.tolist(), "imu": {},
        }
        for i, frame in enumerate(frames)
    }  # fmt: skip
    (inner / "pose_intrinsic_imu.json").write_text(json.dumps(listed))
    if video:
        write_video(inner / video, [frame.color for frame in frames], **options)
    return inner
