"""Files laid out as in the CTVR release, with videos and captions of our own, for tests that run without the release.

The layout is all that is taken over: task pickles of both data sets, the CSV of MSR-VTT's test captions and the two
query files of ActivityNet.
"""

from __future__ import annotations

import csv
import json
import pickle
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

MSRVTT_TEST = [226, 79, 141, 324, 137, 74, 77, 301, 122, 244, 173, 75, 139, 170, 171, 47, 185, 110, 137, 58]
"""Test videos of each category of the release's MSR-VTT."""
ACTNET_TASKS = [237, 285, 299, 259, 276, 236, 244, 256, 227, 284, 255, 274, 216, 233, 223, 235, 236, 209, 223, 203]
"""Test videos of each of the 20 tasks, ten categories each, of the release's ActivityNet."""
ACTNET_TEST = [total // 10 + (place < total % 10) for total in ACTNET_TASKS for place in range(10)]
"""As many in each of 200 categories, shared out evenly within a task."""


def msrvtt(folder: Path, test: Sequence[int], train: int = 16, tasks: Sequence[int] = (10, 20)) -> list[Path]:
    """Task pickles and the caption CSV: category c, a number, has `train` train videos and test[c] test videos."""
    videos = _videos(range(len(test)), test, train, "video{}".format)
    pickles = [_task_pickle(folder / f"MSRVTT_{count}_dataset.pkl", videos, count, dict) for count in tasks]
    path = folder / "MSRVTT_CL_validation.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["key", "vid_key", "video_id", "sentence"])
        asked = [video for listed in videos["val"].values() for video in listed]
        rows.writerows([f"ret{row}", f"msr{row}", video, f"what {video} shows"] for row, video in enumerate(asked))
    return [*pickles, path]


def actnet(folder: Path, test: Sequence[int], train: int = 16, tasks: Sequence[int] = (10, 20)) -> list[Path]:
    """Task pickles and both query files: category c, a name, has `train` train videos and test[c] test videos."""
    names = [f"Doing thing {number}" for number in range(len(test))]
    videos = _videos(names, test, train, "v_{:011d}".format)
    paths = [
        _task_pickle(folder / f"ACTNET_{count}_dataset.pkl", videos, count, lambda: defaultdict(list))
        for count in tasks
    ]
    for split in ("train", "val"):
        listed = [video for of_category in videos[split].values() for video in of_category]
        content = {
            video: {"duration": 80.5, "timestamps": [[1.5 + row % 7, 60.25]], "sentences": [f"  What {video} shows. "]}
            for row, video in enumerate(listed)
        }
        paths.append(folder / f"ACTNET_{split}_queries.json")
        paths[-1].write_text(json.dumps(content), encoding="utf-8")
    return paths


def _videos(names: Sequence[Any], test: Sequence[int], train: int, video: Any) -> dict[str, dict[Any, list[str]]]:
    """Split -> category -> video ids, each id used once."""
    numbers = iter(range(sum(test) + train * len(test)))
    sizes = {"train": [train] * len(test), "val": list(test)}
    return {
        split: {
            name: [video(next(numbers)) for _ in range(size)] for name, size in zip(names, sizes[split], strict=True)
        }
        for split in ("train", "val")
    }


def _task_pickle(path: Path, videos: dict[str, dict[Any, list[str]]], tasks: int, inner: Any) -> Path:
    """The categories in order, equally many a task, tasks numbered from 1; `inner` makes a task's empty dict."""
    content: dict[str, dict[int, Any]] = {split: {} for split in videos}
    for split, of_category in videos.items():
        for row, (category, listed) in enumerate(of_category.items()):
            task = content[split].setdefault(1 + row * tasks // len(of_category), inner())
            task[category] = listed
    path.write_bytes(pickle.dumps(content, protocol=4))
    return path
