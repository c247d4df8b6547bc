"""Which pose of a trajectory file is which picture's, and when the two numberings contradict each other."""

from collections.abc import Sequence

from clipfeat.errors import DataError


class PoseRowsError(DataError):
    """Poses and pictures whose numbers contradict each other."""


def rows_of_pictures(
    numbers: Sequence[int], frame_ids: Sequence[int], *, by_order: bool, first: int | None, where: str
) -> dict[int, int]:
    """The row of each picture's pose; a picture without one is left out.

    Poses 0 to 4 and pictures 1 to 5 are off by one: by their numbers four pictures would have the next one's pose.

    Args:
        numbers: of the poses, as their file has them, or their places in it.
        frame_ids: of the pictures, ascending.
        by_order: the k-th pose is the k-th picture's. Otherwise a pose is that of the picture of its number.
        first: number of the picture that the first pose is of; the others' follow. None: as in ``numbers``, which is
            then not a statement of the user's, and is refused where another reading suits all pictures.
        where: source of the poses, for messages.

    Raises:
        PoseRowsError: If another reading than the one that is taken suits the files as well or better.
    """
    if by_order:
        _check_order(len(numbers), frame_ids, where)
        return {frame_id: row for row, frame_id in enumerate(frame_ids[: len(numbers)])}
    if first is not None:
        numbers = [number - numbers[0] + first for number in numbers]
    else:
        _check_numbers(numbers, frame_ids, where)
    pictures = set(frame_ids)
    return {number: row for row, number in enumerate(numbers) if number in pictures}


def _check_numbers(numbers: Sequence[int], frame_ids: Sequence[int], where: str) -> None:
    known = set(numbers)
    if known.issuperset(frame_ids):
        return
    lowest, highest = min(numbers), max(numbers)
    shifts = (frame_ids[0] - lowest, frame_ids[-1] - highest)
    shifted = any(shift and known.issuperset(number - shift for number in frame_ids) for shift in shifts)
    if not shifted and len(numbers) != len(frame_ids):
        return  # poses are missing, which the frames without one tell
    raise PoseRowsError(
        f"{where}: poses {lowest} to {highest} ({len(numbers)}), but pictures {frame_ids[0]} to {frame_ids[-1]} "
        f"({len(frame_ids)}), which may be off by one; if the first pose is that of picture {frame_ids[0]}, say "
        f"data.pose_rows=picture_order; if pose k is that of picture k and some have none, data.pose_first={numbers[0]}"
    )


def _check_order(count: int, frame_ids: Sequence[int], where: str) -> None:
    span = frame_ids[-1] - frame_ids[0] + 1
    if len(frame_ids) < count == span:
        raise PoseRowsError(
            f"{where}: {count} poses for {len(frame_ids)} pictures, whose numbers {frame_ids[0]} to {frame_ids[-1]} "
            f"have gaps: by data.pose_rows=picture_order those after a gap would get another's pose; say "
            f"data.pose_rows=frame_number data.pose_first={frame_ids[0]}, or remove the other poses"
        )
