"""Fused scenes to walk around in and to ask, in a browser: ``clipfeat-view``."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipfeat.errors import ClipfeatError
from clipfeat.mapping.scene_colors import score_limits, scores_rgb
from clipfeat.model.text import Texts
from clipfeat.queries.answers import open_source
from clipfeat.queries.ask import load_texts, text_prompts
from clipfeat.queries.config import QueryConfig
from clipfeat.results.page_server import as_text, open_server, paragraphs
from clipfeat.results.shown_scene import (
    PCA,
    ShownCamera,
    find_fused,
    load_scene,
    overview,
    shown_cameras,
    spacing,
    up_of,
)
from clipfeat.vis.pictures import spread_evenly

MAX_POINTS = 200_000
"""Points of a scene that are sent to the browser; of more, a random choice."""

MAX_CAMERAS = 200
"""Cameras of a scene that are drawn; of more, so many spread evenly."""

SCORE = "score"
"""What points are coloured by when something was asked for."""


class Viewer:
    """The page: a scene at a time, its cameras, and what can be changed about them. All browsers see the same.

    Args:
        path: folder of fused scenes, a file of one, or a run that has some in its folder ``fused``.
        host: address to listen at.
        port: port; 0 for any.
        texts: the text tower of the model that made the features, if it is loaded already; else it is loaded when
            something is asked for.

    Attributes:
        url: address of the page.
        scene: that is shown.
        cloud: its points, as they were sent.
        frusta: its cameras, as they were sent.

    Raises:
        ClipfeatError: If there is nothing to show, or viser is not installed.
    """

    def __init__(self, path: Path, host: str = "127.0.0.1", port: int = 8080, texts: Texts | None = None):
        place = find_fused(path)
        self._cfg = QueryConfig(store=str(place))
        self._source = open_source(self._cfg)
        scene_ids = [scene_id for scene_id, _ in self._source.keys]
        self._paths = {scene_id: place if place.is_file() else place / f"{scene_id}.npz" for scene_id in scene_ids}
        self._texts = texts
        self._prompts: Any = None
        self._scores: NDArray[np.float32] | None = None
        self._lock = threading.RLock()  # of browsers that ask for things at once
        self._read(self._paths[scene_ids[0]])
        self.frusta: list[Any] = []
        self.cloud: Any = None
        self._server = open_server(host, port)
        address = self._server.get_host()
        self.url = f"http://{f'[{address}]' if ':' in address else address}:{self._server.get_port()}"
        self._add_controls(scene_ids)
        self._show_scene()

    def close(self) -> None:
        """Ends the server."""
        self._server.stop()

    @property
    def facts(self) -> str:
        """What the page says of the scene, in HTML."""
        return str(self._facts.content)

    @property
    def answer(self) -> str:
        """What the page says of the text that was asked for, in HTML."""
        return str(self._answer.content)

    @property
    def clients(self) -> list[Any]:
        """The browsers that look at it."""
        return list(self._server.get_clients().values())

    def path_of(self, scene_id: str) -> Path:
        """The file of a scene."""
        return self._paths[scene_id]

    def choose(self, scene: str | None = None, color: str | None = None, unseen: bool | None = None) -> None:
        """Sets some of the controls, as a browser would; None leaves one as it is."""
        controls = ((self._choice, scene), (self._shade, color), (self._with_unseen, unseen))
        for control, value in controls:
            if value is not None:
                control.value = value

    def _add_controls(self, scene_ids: list[str]) -> None:
        gui = self._server.gui
        self._facts = gui.add_html("")
        self._choice = gui.add_dropdown("Scene", scene_ids, initial_value=scene_ids[0], visible=len(scene_ids) > 1)
        self._shade = gui.add_dropdown("Colours", [PCA], initial_value=PCA)
        self._size = gui.add_slider("Point size", 0.25, 4.0, 0.05, 1.0, hint="as a multiple of the points' distance")
        self._with_unseen = gui.add_checkbox("Unseen points", False, hint="in grey: no frame sees them")
        self._with_cameras = gui.add_checkbox("Cameras", True)
        self._form = gui.add_form("Look for")
        askable = self._source.model["head"] == "text"
        with self._form:
            self._text = gui.add_text("Text", "", hint="such as: a chair", disabled=not askable)
            button = gui.add_button("Colour by it", disabled=not askable)
            self._answer = gui.add_html("" if askable else self._why_not())
        self._choice.on_update(lambda _: self._load(self._choice.value))
        self._shade.on_update(lambda _: self._recolor())
        self._size.on_update(lambda _: self._resize())
        self._with_unseen.on_update(lambda _: self._draw_points())
        self._with_cameras.on_update(lambda _: self._show_cameras())
        self._form.on_submit(lambda _: self.ask(self._text.value))
        button.on_click(lambda _: self._form.submit())

    def _why_not(self) -> str:
        head = as_text(f"model/head={self._source.model['head']}")
        return paragraphs(
            f"These features are of <code>{head}</code>, which texts can't be compared to. "
            f"Extract with <code>model/head=text</code> to ask for things."
        )

    def _load(self, scene_id: str) -> None:
        with self._lock:
            if scene_id != self.scene.scene_id:
                self._read(self._paths[scene_id])
                self._show_scene()

    def _read(self, path: Path) -> None:
        self._file, self._stamp = path, _stamp(path)  # before it is read: another may take its place meanwhile
        self.scene = load_scene(path, MAX_POINTS)

    def refresh(self) -> bool:
        """Shows the scene anew if its file has changed, as that of a map that grows; whether it has."""
        with self._lock:
            if _stamp(self._file) == self._stamp:
                return False
            try:
                self._read(self._file)
            except ClipfeatError:
                return False  # it has gone; what is shown stays
            self._show_scene(moves=False)
            return True

    def _show_scene(self, *, moves: bool = True) -> None:
        """Shows the scene as it was loaded, in the colours that the last one had; from elsewhere, if the view moves."""
        server, scene = self._server, self.scene
        self._scores = None if self._prompts is None else self._prompts.scores(scene.pts_feat)[:, 0]
        self._spacing = spacing(scene.xyz)
        cameras, why_none = self._cameras()
        up = up_of(cameras)
        server.scene.set_up_direction(up)
        position, target = overview(scene.xyz[scene.seen] if scene.seen.any() else scene.xyz, up)
        server.initial_camera.position, server.initial_camera.look_at = position, target
        for client in self.clients if moves else []:
            client.camera.position, client.camera.look_at = position, target
        self._facts.content = self._facts_of(cameras, why_none)
        self._draw_points()
        self._offer_colors()
        for frustum in self.frusta:
            frustum.remove()
        self.frusta = [
            server.scene.add_camera_frustum(
                f"/cameras/{camera.frame_id}", camera.fov, camera.aspect, scale=0.12, color=(40, 90, 170),
                wxyz=camera.wxyz, position=camera.position, visible=self._with_cameras.value, thickness=0.008,
            )
            for camera in cameras
        ]  # fmt: skip

    def _cameras(self) -> tuple[list[ShownCamera], str]:
        """The cameras of the scene, or why there are none."""
        try:
            frames = spread_evenly(self.scene.frames, MAX_CAMERAS)
            return shown_cameras(self._source.run, self.scene.scene_id, frames), ""
        except (ClipfeatError, KeyError) as error:
            return [], f"No cameras: {error}"

    def _facts_of(self, cameras: Sequence[ShownCamera], why_none: str) -> str:
        scene, model = self.scene, self.scene.model
        lines = [f"<b>{as_text(scene.scene_id)}</b>"]
        if model.get("weights") == "random":
            lines.append("<b>weights=random</b>: the arithmetic is right, the features mean nothing.")
        points = f"{scene.total:,} points, {scene.seen.mean():.0%} of them seen by {len(scene.frames)} frames"
        lines.append(points if len(scene.xyz) == scene.total else f"{points}; {len(scene.xyz):,} of them are shown")
        if 0 < len(cameras) < len(scene.frames):
            lines.append(f"{len(cameras)} of the cameras are shown")
        lines.append(as_text("{arch}, head {head}, weights={weights}".format(**model)))
        return paragraphs(*lines, as_text(why_none))

    def _offer_colors(self) -> None:
        chosen = self._shade.value
        options = [*self.scene.colors, *([SCORE] if self._scores is not None else [])]
        self._shade.options = options
        self._shade.value = chosen if chosen in options else options[0]

    def _colors(self) -> NDArray[np.uint8]:
        if self._shade.value != SCORE or self._scores is None:
            return self.scene.colors.get(self._shade.value, self.scene.colors[PCA])
        return scores_rgb(self._scores, self.scene.seen)

    def _shown(self) -> NDArray[np.bool_]:
        return self.scene.seen | self._with_unseen.value

    def _draw_points(self) -> None:
        with self._lock:
            shown = self._shown()
            self.cloud = self._server.scene.add_point_cloud(
                "/points", self.scene.xyz[shown], self._colors()[shown], point_size=self._point_size(),
                point_shape="circle", precision="float32", point_shading="flat",
            )  # fmt: skip

    def _recolor(self) -> None:
        with self._lock:
            self.cloud.colors = self._colors()[self._shown()]

    def _point_size(self) -> float:
        return float(self._size.value * self._spacing)

    def _resize(self) -> None:
        with self._lock:
            self.cloud.point_size = self._point_size()

    def _show_cameras(self) -> None:
        with self._lock:
            for frustum in self.frusta:
                frustum.visible = self._with_cameras.value

    def _load_texts(self) -> Texts:
        if self._texts is None:
            self._answer.content = paragraphs("Loading the text tower …")
            self._texts = load_texts(self._source, self._cfg.text_cache)
        return self._texts

    def ask(self, text: str) -> None:
        """Colours the points by how much they look like a text; what goes wrong is told on the page."""
        with self._lock:
            if not text.strip():
                self._answer.content = paragraphs("Type what to look for, such as: a chair")
                return
            try:
                cfg = QueryConfig(store=self._cfg.store, text=text)
                self._prompts = text_prompts(cfg, self._source.model, self._load_texts)
            except ClipfeatError as error:
                self._answer.content = paragraphs(as_text(error))
                return
            self._scores = self._prompts.scores(self.scene.pts_feat)[:, 0]
            self._offer_colors()
            self._shade.value = SCORE
            self._recolor()
            low, high = score_limits(self._scores, self.scene.seen)
            against = f" against {', '.join(self._prompts.other_names)}" if self._prompts.other_names else ""
            said = f": {self._prompts.score}{against}, {low:.3f} (dark, the mean) to {high:.3f} (bright, the best 1 %)"
            self._answer.content = paragraphs(f"<b>{as_text(self._prompts.names[0])}</b>{as_text(said)}")


def _stamp(path: Path) -> int:
    """What tells a file from the one that took its place; 0 where there is none."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
