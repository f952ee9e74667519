"""Test videos that hold the frames of a training video, whatever they are called."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from ctvr_bench.features import schema


def shared_frames(
    frames_VFD: npt.NDArray[np.generic], count_V: npt.NDArray[np.integer], role_V: npt.NDArray[np.integer]
) -> list[int]:
    """Rows of test videos whose frames, byte for byte, are those of a training video.

    count_V: real frames of each video. Only videos that begin with the same frame are read whole.
    """
    test_N, train_N = np.flatnonzero(role_V == schema.TEST).tolist(), np.flatnonzero(role_V == schema.TRAIN).tolist()
    begins = {frames_VFD[row, 0].tobytes() for row in train_N} & {frames_VFD[row, 0].tobytes() for row in test_N}

    def content(row: int) -> bytes:
        return hashlib.sha256(frames_VFD[row, : count_V[row]].tobytes()).digest()

    trained = {content(row) for row in train_N if frames_VFD[row, 0].tobytes() in begins}
    return [row for row in test_N if frames_VFD[row, 0].tobytes() in begins and content(row) in trained]
