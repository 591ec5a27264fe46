"""Time of an evaluation by its workers, in turns: python -m benchmarks.workers [SCENES] [TURNS]

Every session has one thread; run it with OMP_NUM_THREADS=1. Processes are started before the clock.
"""

from __future__ import annotations

import statistics
import sys
import time

from onnxptq.evaluate.models import open_sam
from onnxptq.evaluate.task import evaluate_task
from onnxptq.evaluate.tasks.scenes import SceneBoxes
from onnxptq.workers import Workers, opened

COUNTS = (None, 1, 2)


def seconds(workers: Workers, scenes: int) -> float:
    """One evaluation of the zoo's Segment Anything."""
    begun = time.monotonic()
    evaluate_task(SceneBoxes("val", scenes), {"sam": open_sam("zoo:sam-mini", threads=1)}, workers=workers)
    return time.monotonic() - begun


def main(scenes: int, turns: int) -> None:
    """Medians, and their ratio to one process without workers."""
    found: dict[int | None, list[float]] = {count: [] for count in COUNTS}
    for _ in range(turns):
        for count in COUNTS:
            with opened(count) as workers:
                seconds(workers, workers.count)
                found[count].append(seconds(workers, scenes))
    alone = statistics.median(found[None])
    for count, times in found.items():
        median = statistics.median(times)
        print(f"{count or 'no'} workers: {median:.1f} s, {alone / median:.2f} times as fast as without")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200, int(sys.argv[2]) if len(sys.argv) > 2 else 5)
