"""What the tests run in other processes; imports no torch, so that a start costs little.

python -m tests.store.child ROOT hang          claim, write one part, say so, then sleep inside the claim
python -m tests.store.child ROOT compute       append a line to ROOT/computed unless done, wait, commit
python -m tests.store.child ROOT late          claim, write a part and half of a file, say so, and on a line from stdin the rest; commit
python -m tests.store.child ROOT die N WHEN    commit, SIGKILL before or after the N-th fsync, replace, rename

With LEASE=seconds in the environment the store excludes by leases that last so long in silence.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dmq_cli.errors import ArtifactError
from dmq_cli.store import ArtifactStore
from dmq_cli.store.files import write_text

KEY = "0123456789abcdef"


def hang(store: ArtifactStore) -> None:
    with store.claim("sample", KEY) as claim:
        (claim.work / "part-0").write_text("rows")
        print("claimed", flush=True)
        time.sleep(60)


def compute(store: ArtifactStore) -> None:
    logging.basicConfig(level=logging.INFO)
    with store.claim("sample", KEY) as claim:
        if claim.done is None:
            with (store.root / "computed").open("a") as file:
                file.write(f"{os.getpid()}\n")
            time.sleep(0.5)
            (claim.work / "a").write_text("content")
            claim.commit({"by": os.getpid()})
    print(claim.done, flush=True)


def late(store: ArtifactStore) -> None:
    try:
        with store.claim("sample", KEY) as claim:
            write_text(claim.work / "tmp-0", "first chunk")
            with (claim.work / "whole").open("w") as file:
                file.write("half, ")
                file.flush()
                print("claimed", flush=True)
                sys.stdin.readline()
                file.write("and half")
            write_text(claim.work / "tmp-1", "chunk of the late owner")
            claim.commit({"by": "late"})
            print("committed", flush=True)
    except ArtifactError as error:
        print(f"refused: {error}", flush=True)


def die(store: ArtifactStore, count: int, when: str) -> None:
    left = [count]
    with store.claim("sample", KEY) as claim:
        (claim.work / "a").write_text("content")
        (claim.work / "deep").mkdir(exist_ok=True)
        (claim.work / "deep" / "b").write_text("more")
        for name in ("fsync", "replace", "rename"):
            setattr(os, name, _deadly(getattr(os, name), left, when))
        claim.commit({"seed": 1})


def _deadly(function: Callable[..., Any], left: list[int], when: str) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        left[0] -= 1
        if left[0] == 0 and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*arguments)
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return call


def _made(root: Path) -> ArtifactStore:
    if (seconds := os.environ.get("LEASE")) is None:
        return ArtifactStore(root)
    return ArtifactStore(root, "lease", float(seconds))


if __name__ == "__main__":
    _store = _made(Path(sys.argv[1]))
    if sys.argv[2] == "die":
        die(_store, int(sys.argv[3]), sys.argv[4])
    else:
        {"hang": hang, "compute": compute, "late": late}[sys.argv[2]](_store)
