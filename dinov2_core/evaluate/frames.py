"""Frames of a video file at chosen places, decoded by PyAV (the extra ``video``).

What is made of the frames belongs elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dinov2_core.errors import UserError

_TODO = "replace the file: test videos are not skipped"


def evenly(count: int, wanted: int = 8) -> list[int]:
    """The middles of ``wanted`` equal stretches of ``count`` frames; frames repeat where there are fewer."""
    if count < 1:
        raise ValueError("no frames")
    return [int((i + 0.5) * count / wanted) for i in range(wanted)]


def read(path: Path, wanted: int = 8) -> NDArray[np.uint8]:
    """``wanted`` evenly spaced frames, ``[wanted, H, W, 3]`` RGB.

    The container's frame count is a guess (it may be missing or wrong), so frames are counted by decoding: one pass
    where the guess is right, two otherwise.

    Raises:
        UserError: PyAV is missing, or the file cannot be opened or holds no frame.
    """
    guess = _stated(path)
    found, count = _pick(path, evenly(guess, wanted) if guess else [])
    if count != guess:
        if not count:
            raise UserError("no frame can be decoded", where=str(path), todo=_TODO)
        found, _ = _pick(path, evenly(count, wanted))
    return np.stack([found[i] for i in evenly(count, wanted)])


def all_frames(path: Path) -> Iterator[NDArray[np.uint8]]:
    """Every frame ``[H, W, 3]`` RGB, in order of display."""
    with _open(path) as container:
        for frame in _decode(container, path):
            yield frame.to_ndarray(format="rgb24")


def _pick(path: Path, places: Sequence[int]) -> tuple[dict[int, NDArray[np.uint8]], int]:
    """Frames at ``places`` as far as they exist, and how many frames there are."""
    wanted, found, count = set(places), {}, 0
    with _open(path) as container:
        for count, frame in enumerate(_decode(container, path), 1):
            if count - 1 in wanted:
                found[count - 1] = frame.to_ndarray(format="rgb24")
    return found, count


def _stated(path: Path) -> int:
    with _open(path) as container:
        return int(container.streams.video[0].frames)


def _decode(container: Any, path: Path) -> Iterator[Any]:
    import av

    try:
        yield from container.decode(video=0)
    except av.FFmpegError as error:
        # What follows a damaged packet would be another video.
        raise UserError(f"not a whole video ({type(error).__name__})", where=str(path), todo=_TODO) from error


def _open(path: Path) -> Any:
    try:
        import av
    except ImportError as error:
        raise UserError("PyAV is not installed", todo="install the extra `video`") from error
    try:
        container = av.open(str(path))
    except (av.FFmpegError, OSError) as error:
        raise UserError(f"not a readable video ({type(error).__name__})", where=str(path), todo=_TODO) from error
    if not container.streams.video:
        container.close()
        raise UserError("the file has no video stream", where=str(path), todo=_TODO)
    return container
