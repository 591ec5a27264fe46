"""Many cases in child processes: a child that dies, hangs or needs too much memory is told from its last line.

python -m tests.fuzz.campaign load|inspect|quantize FIRST COUNT
"""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
ALLOWED = frozenset(
    {
        "refused",
        "refused as unreadable",
        "right",
        "accepted, but the original does not run",
        "the runtime dies of the original",
    }
)
PATIENCE = 120.0
"""Seconds that one step of one case may take on a busy machine."""


def campaign(stage: str, first: int, count: int, *, step: int = 1) -> tuple[Counter[str], dict[str, list[str]]]:
    """How many cases ended how, and the forbidden ones in words."""
    ends: Counter[str] = Counter()
    bad: defaultdict[str, list[str]] = defaultdict(list)
    done = 0
    while done < count:
        at = first + done * step
        for case in _child(stage, at, count - done, step):
            done += 1
            ends[case["end"]] += 1
            if case["end"] not in ALLOWED or case["end"] == "refused as unreadable":
                bad[case["end"]].append(f"{case['case']} {case.get('what', '')}: {case['why']}")
    return ends, dict(bad)


def _child(stage: str, first: int, count: int, step: int) -> list[dict[str, Any]]:
    """The cases of one child, up to the one that ended it."""
    words = [sys.executable, "-m", "tests.fuzz.worker", stage, str(first), str(count), "--step", str(step)]
    child = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    lines: queue.Queue[str | None] = queue.Queue()
    told: list[str] = []
    readers = [
        threading.Thread(target=lambda: [*map(lines.put, child.stdout or ()), lines.put(None)]),
        threading.Thread(target=lambda: told.extend(child.stderr or ())),
    ]
    for reader in readers:
        reader.start()
    cases: list[dict[str, Any]] = []
    last: dict[str, Any] = {"case": first, "step": "start"}
    hung = False
    while True:
        try:
            line = lines.get(timeout=PATIENCE)
        except queue.Empty:
            hung = True
            child.kill()
            continue
        if line is None:
            break
        last = json.loads(line)
        if "end" in last:
            cases.append(last)
    child.wait()
    for reader in readers:
        reader.join()
    if len(cases) < count:
        end = "hang" if hung else "signal"
        if last.get("step") == "original":
            end = "the runtime dies of the original"
        number = first + len(cases) * step
        why = f"exit {child.returncode} in step {last.get('step')}: {' '.join(''.join(told).split())[-300:]}"
        cases.append({"case": number, "end": end, "why": why})
    return cases


if __name__ == "__main__":
    stage, first, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    begun = time.monotonic()
    ends, bad = campaign(stage, first, count)
    print(f"{stage}: {count} mutated models in {time.monotonic() - begun:.0f} s")
    for end, number in ends.most_common():
        print(f"  {number:6d} {end}")
    for end, cases in bad.items():
        for case in cases:
            print(f"{end}: {case}")
    raise SystemExit(1 if set(bad) - ALLOWED else 0)
