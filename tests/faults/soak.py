"""A soak: one sweep whose processes are killed at random, again and again, until it is whole.

Each kill is `kill -9` of a worker, of the driver, or of both, at any moment: while they plan,
start, make, write or collate. Whoever dies is replaced: workers by the driver, the driver by
running the same command again.
"""

import contextlib
import json
import os
import random
import signal
import statistics
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runs import assert_same_atlas, finish, shards, start
from sweeps import command, working

SWEEP = (
    *("image_size=32", "optimizer.steps=32", "layers=[conv1,conv2]", "shard_size=8"),
    *("batch_size=8", "precision=fp32"),
    *("executor.devices=[cpu,cpu]", "executor.attempts=1000000"),
)
"""The demo network's first layers in shards of less than a second; eight of them per seed."""

VICTIMS = ("worker", "driver", "both")

LONGEST_WAIT = 12.0
"""Seconds between two kills, at most: enough for a driver and its workers to start."""


@dataclass
class Kill:
    """What was hit, and what it cost."""

    victim: str
    phase: str
    """What the run was at: planning, starting, making, collating, or nothing any more."""
    lost: dict[str, float] = field(default_factory=dict)
    """Seconds of work on each shard that was in the making or being written, and is not there."""


@dataclass
class Soak:
    """A sweep under fire."""

    root: Path
    """Where its output folder is to be."""
    n_seeds: int
    """Of the sweep: how long it is."""
    dice: random.Random
    kills: list[Kill] = field(default_factory=list)
    ends: Counter[int] = field(default_factory=Counter)
    """Exit codes of drivers that ended by themselves."""
    complaints: list[str] = field(default_factory=list)
    """Promises that were broken; none, if all is well."""

    def __post_init__(self) -> None:
        self.sweep = (*SWEEP, f"seeds={list(range(self.n_seeds))}".replace(" ", ""))
        self.folder = self.root / "demo"
        self.driver = self._started()
        self.committed: dict[str, tuple[int, int]] = {}
        self.begun: dict[str, float] = {}

    def run(self, n_kills: int) -> None:
        """Kill so many times, let the sweep finish, and compare it with an undisturbed one."""
        while len(self.kills) < n_kills:
            self._watch_until_its_time()
            self._kill()
        self._compare(*finish(self.driver, timeout=3600))

    def _compare(self, code: int, said: str) -> None:
        self._look()
        if code:
            self.complaints.append(f"the last run ended with {code}: {said}")
        code, said = finish(start("run", self.root / "undisturbed", *self.sweep), timeout=3600)
        assert code == 0, said
        try:
            whole = self.root / "undisturbed" / "demo" / "atlas.h5"
            assert_same_atlas(whole, self.folder / "atlas.h5")
        except (OSError, AssertionError) as error:
            self.complaints.append(f"the atlas is another: {error}")

    def _started(self) -> "subprocess.Popen[str]":
        return start("run", self.root, *self.sweep)

    # --- looking ---

    def _watch_until_its_time(self) -> None:
        """Wait for a random while; half of the times a short one, once the next shard is there."""
        longest = LONGEST_WAIT
        if self.dice.random() < 0.5:
            n, patience = len(self.committed), time.monotonic() + 2 * LONGEST_WAIT
            while self._look() == n and time.monotonic() < patience:
                longest = 1.0
        end = time.monotonic() + self.dice.uniform(0, longest)
        while time.monotonic() < end:
            self._look()
            if self.driver.poll() is not None:
                self._run_again()

    def _look(self) -> int:
        """See what is committed, what is in the making, and whether the driver still runs."""
        now = shards(self.folder)
        gone = self.committed.items() - now.items()
        self.complaints += [f"committed, then lost or made again: {name}" for name, _ in gone]
        self.committed = now
        for heartbeat in self._heartbeats(working(self.driver.pid)):
            for key in (*heartbeat["tasks"], *heartbeat["unwritten"]):
                self.begun.setdefault(key, time.monotonic())
        time.sleep(0.02)
        return len(now)

    def _run_again(self) -> None:
        """Run again; a sweep that is finished is collated anew, so that this is under fire, too."""
        self.driver.communicate()
        self.ends[self.driver.returncode] += 1
        if self.driver.returncode == 0:
            (self.folder / "atlas.h5").unlink()
        self.driver = self._started()

    def _heartbeats(self, workers: list[int]) -> Iterator[dict[str, Any]]:
        """What some workers say of themselves."""
        for path in self.folder.glob("logs/*.heartbeat"):
            with contextlib.suppress(OSError, ValueError):
                heartbeat = json.loads(path.read_text())
                if heartbeat["pid"] in workers:
                    yield heartbeat

    def _phase(self, workers: list[int]) -> str:
        if not workers:
            return "planning"
        if any("collate-here" in command(pid) for pid in workers):
            return "collating"
        begun = any(heartbeat["tick"] for heartbeat in self._heartbeats(workers))
        return "making" if begun else "starting"

    # --- killing ---

    def _kill(self) -> None:
        workers = working(self.driver.pid)
        kill = Kill(self.dice.choice(VICTIMS) if workers else "driver", self._phase(workers))
        victims = [self.dice.choice(workers)] if kill.victim != "driver" else []
        if kill.victim != "worker":
            victims.append(self.driver.pid)
        doing = {heartbeat["pid"]: heartbeat for heartbeat in self._heartbeats(workers)}
        for pid in victims:
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.kill(pid, signal.SIGKILL)
        now = time.monotonic()
        if self.driver.pid in victims:
            self.driver.communicate()
            victims += workers  # which die with it
            self.driver = self._started()
        time.sleep(0.2)
        self._look()
        for pid in victims:
            heartbeat = doing.get(pid, {"tasks": (), "unwritten": ()})
            for key in {*heartbeat["tasks"], *heartbeat["unwritten"]}:
                begun = self.begun.pop(key, now)
                if not any(key in name for name in self.committed):
                    kill.lost[key] = now - begun
        self.kills.append(kill)


def report(soak: Soak, seconds: float) -> str:
    """What a soak showed, for people."""
    lost = [seconds for kill in soak.kills for seconds in kill.lost.values()]
    per_kill = [sum(kill.lost.values()) for kill in soak.kills]
    by_victim = Counter(kill.victim for kill in soak.kills)
    by_phase = Counter(kill.phase for kill in soak.kills)
    most = max((len(kill.lost) for kill in soak.kills), default=0)
    return "\n".join(
        [
            f"kills                 {len(soak.kills)} in {seconds / 60:.0f} min",
            f"  of                  {told(by_victim)}",
            f"  while               {told(by_phase)}",
            f"drivers that ended by themselves, by exit code: {told(soak.ends) or 'none'}",
            f"committed shards      {len(soak.committed)}",
            f"work lost             {len(lost)} shards, {sum(lost):.0f} s altogether",
            f"  per kill            {statistics.mean(per_kill):.1f} s in the mean, "
            f"{max(per_kill):.1f} s and {most} shards at most",
            f"broken promises       {len(soak.complaints)}",
            *soak.complaints,
        ]
    )


def told(counts: "Counter[Any]") -> str:
    return ", ".join(f"{what}: {n}" for what, n in counts.most_common())
