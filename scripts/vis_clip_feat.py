"""Draws the pictures of one scene from its features, without the model: a script to copy and to change.

    python scripts/vis_clip_feat.py outputs/clip_feat scene0000_00 pictures --kind pca

``clipfeat-vis`` does it for all scenes, in processes, and goes on where it was stopped.
"""

import argparse
import sys
from pathlib import Path

from clipfeat import FeatureStore
from clipfeat.cli.main import pipe_may_close
from clipfeat.errors import ClipfeatError
from clipfeat.extraction.scans import Scans, read_run_config
from clipfeat.output.folders import picture_path
from clipfeat.vis.build import build_pictures, model_note
from clipfeat.vis.config import PAINTERS, VisConfig


def draw(folder: Path, scene_id: str, output: Path, kind: str) -> None:
    """Draws ``<output>/<scene>/vis_<i>.png`` of each of the scene's frames; their colours are comparable."""
    store = FeatureStore(folder)
    run = read_run_config(folder)
    scans = Scans(store, run.data)
    frames = store.frames(scene_id)
    pictures = build_pictures(VisConfig(kind), {scene_id: frames}, seed=run.seed, weights_note=model_note(store.model))
    sampled = []
    for frame_id in frames:
        frame = scans.load(scene_id, frame_id)
        # The features, whatever the format: .pts_feat (N, C), .uv_idx (N, 2), .xyz (N, 3), .conf_2d (N,), …
        features = store.load(scene_id, frame_id)
        rows = pictures.choose(scene_id, frame_id, len(features.pts_idx))
        if rows is None:  # more frames than get pictures: they are spread evenly
            continue
        path = picture_path(output, scene_id, frame_id)
        sampled.append(pictures.sample(scene_id, frame_id, frame.image, features.take(rows), path))
    pictures.draw(scene_id, sampled)
    pictures.close()
    print(f"{len(sampled)} pictures in {output / scene_id}")


@pipe_may_close()
def main() -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(description="Draws the pictures of one scene from its features.")
    parser.add_argument("store", type=Path, help="output_dir of clipfeat-extract")
    parser.add_argument("scene", help="one of the run's")
    parser.add_argument("output", type=Path, help="folder for the pictures")
    parser.add_argument("--kind", choices=list(PAINTERS), default="tsne")
    arguments = parser.parse_args()
    try:
        draw(arguments.store, arguments.scene, arguments.output, arguments.kind)
    except ClipfeatError as error:
        print(f"vis_clip_feat: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
