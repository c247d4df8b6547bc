"""Exports ScanNet's raw recordings (.sens) to the layout that data=scannet and other tools read.

A scene becomes a folder:

  <output>/<scene>/color/<i>.jpg     the stored picture, byte for byte (.png if it is stored as PNG or raw pixels)
  <output>/<scene>/depth/<i>.png     16 bits, in the recording's units (ScanNet: millimetres)
  <output>/<scene>/pose/<i>.txt      4x4 camera-to-world, all -inf where tracking was lost
  <output>/<scene>/intrinsic/{intrinsic,extrinsic}_{color,depth}.txt

Every file appears whole or not at all, so the same command again does what is missing.
No need to export for clipfeat's sake: clipfeat-extract data=sens reads recordings as they are.

For instance:
  python scripts/export_sens.py scans/scene0000_00/scene0000_00.sens exported
  python scripts/export_sens.py --every 20 scans exported        every 20th frame of every recording under scans/
"""

import argparse
import io
import sys
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from clipfeat.data.images import picture_size
from clipfeat.data.sens import SensDataset
from clipfeat.data.sens_file import SensFile
from clipfeat.errors import ClipfeatError, DataError, FrameError, OutputError
from clipfeat.system.atomic import atomic_file
from clipfeat.system.streaming import prefetch


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code: 0, or 1 if anything could not be exported."""
    args = _parser().parse_args(arguments)
    done: Counter[str] = Counter()
    unreadable = 0
    try:
        for path in find_recordings(args.input):
            try:
                done += export_recording(path, args.output / path.stem, every=args.every, workers=args.workers)
            except DataError as error:
                unreadable += 1
                print(f"not exported: {error}", file=sys.stderr)
    except ClipfeatError as error:
        print(f"export_sens: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("export_sens: interrupted; what was written is whole, the same command goes on", file=sys.stderr)
        return 130
    print(f"{done['written']} frames written to {args.output}, {done['there']} were there, {done['failed']} failed")
    if unreadable:
        print(f"{unreadable} recordings could not be read", file=sys.stderr)
    return 1 if done["failed"] or unreadable else 0


def find_recordings(source: Path) -> list[Path]:
    """The recording itself, or all in a folder, as ``data=sens`` finds them.

    Raises:
        DataError: If there is none.
    """
    if source.is_dir():
        dataset = SensDataset(source)
        return [dataset.path(scene_id) for scene_id in dataset.scenes()]
    return [source]


def export_recording(path: Path, scene: Path, *, every: int = 1, workers: int = 4) -> Counter[str]:
    """Exports one recording.

    Args:
        path: the ``.sens`` file.
        scene: the scene's folder; created if missing.
        every: frames 0, every, 2·every, … are exported.
        workers: threads that encode depth.

    Returns:
        How many frames were "written", were "there" already, or "failed" (each of those is named on stderr).

    Raises:
        DataError: If the recording can't be read.
        OutputError: If a file can't be written, or the folder holds the export of another recording.
    """
    file = SensFile(path)
    for warning in file.warnings:
        print(f"WARNING {warning}", file=sys.stderr)
    if file.header.depth_scale != 1000:
        print(f"{path}: read the export with data.depth_scale={file.header.depth_scale:g}", file=sys.stderr)
    frame_ids = range(0, len(file), every)
    color_size = _first_color_size(file, frame_ids)
    _write_intrinsics(file, scene / "intrinsic", color_size)
    done: Counter[str] = Counter()
    outcomes = prefetch(partial(_try_export, file, scene, color_size), frame_ids, workers, ahead=2 * workers)
    for outcome in tqdm(outcomes, path.stem, total=len(frame_ids), unit="frame", disable=None):
        done["failed" if isinstance(outcome, FrameError) else outcome] += 1
        if isinstance(outcome, FrameError):
            tqdm.write(f"not exported: {outcome}", file=sys.stderr)
    return done


def _try_export(file: SensFile, scene: Path, color_size: tuple[int, int], frame_id: int) -> str | FrameError:
    try:
        return export_frame(file, scene, color_size, frame_id)
    except FrameError as error:
        return error


def export_frame(file: SensFile, scene: Path, color_size: tuple[int, int], frame_id: int) -> str:
    """Exports one frame, colour last, because a colour file is what makes a frame of the layout.

    Args:
        file: the recording.
        scene: the scene's folder.
        color_size: (width, height) that the exported colour K belongs to.
        frame_id: number of the frame.

    Returns:
        "written", or "there" if nothing was missing.

    Raises:
        FrameError: If the frame can't be read, or its picture has another size.
        OutputError: If a file can't be written.
    """
    color_path = scene / "color" / f"{frame_id}{'.jpg' if file.header.color_kind == 'jpeg' else '.png'}"
    depth_path = scene / "depth" / f"{frame_id}.png"
    pose_path = scene / "pose" / f"{frame_id}.txt"
    if color_path.is_file() and pose_path.is_file() and (depth_path.is_file() or not file.depth_blob(frame_id)):
        return "there"
    color_blob, size = _color_as_file(file, frame_id)
    if size != color_size:
        raise FrameError(
            f"{file.name_of(frame_id)}: a picture of {size[0]}×{size[1]}, the others have {color_size[0]}×"
            f"{color_size[1]}: one intrinsic_color.txt can't serve both; read the recording with data=sens"
        )
    depth = file.raw_depth(frame_id)
    if depth is not None:
        with atomic_file(depth_path) as out:
            Image.fromarray(depth).save(out, "PNG", compress_level=3)
    _write(pose_path, matrix_text(file.pose(frame_id)))
    _write(color_path, color_blob)
    return "written"


def matrix_text(matrix: NDArray[np.float64]) -> bytes:
    """Rows of numbers with all their digits: the float32 of the recording come back as they were."""
    return "".join(" ".join(f"{value:.17g}" for value in row) + "\n" for row in matrix.tolist()).encode()


def _color_as_file(file: SensFile, frame_id: int) -> tuple[bytes, tuple[int, int]]:
    """What goes into the colour file, and (width, height) of the picture."""
    if file.header.color_kind != "raw":
        blob = file.color_blob(frame_id)
        return blob, picture_size(io.BytesIO(blob), f"{file.name_of(frame_id)}, colour")
    picture = Image.fromarray(file.picture(frame_id).pixels)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=3)
    return buffer.getvalue(), picture.size


def _first_color_size(file: SensFile, frame_ids: Sequence[int]) -> tuple[int, int]:
    """(width, height) of the first readable picture, which need not be the one in the header."""
    for frame_id in frame_ids:
        try:
            return _color_as_file(file, frame_id)[1]
        except FrameError:
            continue  # the export names it
    raise DataError(f"{file.path}: none of its {len(frame_ids)} colour pictures can be read")


def _write_intrinsics(file: SensFile, folder: Path, color_size: tuple[int, int]) -> None:
    k_color, k_depth = np.eye(4), np.eye(4)
    k_color[:3, :3] = file.header.color_camera.resized(*color_size).intrinsics
    k_depth[:3, :3] = file.header.depth_camera.intrinsics
    matrices = {
        "intrinsic_color": k_color,
        "intrinsic_depth": k_depth,
        "extrinsic_color": file.header.color_extrinsic,
        "extrinsic_depth": file.header.depth_extrinsic,
    }
    for name, matrix in matrices.items():
        path, text = folder / f"{name}.txt", matrix_text(matrix)
        if not path.exists():
            _write(path, text)
        elif path.read_bytes() != text:
            raise OutputError(f"{path}: of another recording or another tool's export; choose another output folder")


def _write(path: Path, data: bytes) -> None:
    with atomic_file(path) as out:
        out.write(data)


def _positive(text: str) -> int:
    if not (text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text}: expected a whole number of at least 1")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", type=Path, help="a .sens file, or a folder of <scene>/<scene>.sens or <scene>.sens")
    parser.add_argument("output", type=Path, help="folder for one folder a scene")
    parser.add_argument("--every", type=_positive, default=1, metavar="N", help="only frames 0, N, 2N, … (default: 1)")
    parser.add_argument("--workers", type=_positive, default=4, metavar="N", help="threads (default: 4)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
