"""What a user should know of a scene, said once."""

import logging


class ToldOnce:
    """A log in which nothing is said twice of one scene.

    Args:
        log: of the layout.
    """

    def __init__(self, log: logging.Logger):
        self._log = log
        self._told: set[tuple[str, str]] = set()

    def __call__(self, scene_id: str, about: str, message: str, level: int = logging.WARNING) -> None:
        """Logs a message, unless one ``about`` this was logged for the scene before."""
        if (scene_id, about) not in self._told:
            self._told.add((scene_id, about))
            self._log.log(level, "%s%s", "WARNING " if level >= logging.WARNING else "", message)
