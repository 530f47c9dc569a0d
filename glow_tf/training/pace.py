"""The speed of a run in steps per second, and the estimated time left, including evaluations."""

import collections
import contextlib
import math
import time
from collections.abc import Iterator

# The displayed rate covers the last half minute. The time left is estimated from the last ten minutes, over which the
# load of a shared machine averages out.
RECENT_SECONDS = 30.0
WINDOW_SECONDS = 600.0


class Pace:
    """Measures the steps and the evaluations of a run; the time for saving between steps counts as part of the steps.

    Attributes:
        evaluation_seconds: duration of the last evaluation, before the first that of an earlier session; 0 if unknown.
        evaluation_steps: estimate of an evaluation's duration, in steps, for use while `evaluation_seconds` is unknown.
        last_extra_seconds: extra duration of the evaluation at the end of the run.
    """

    def __init__(self, total_steps: int, steps_per_evaluation: int) -> None:
        self._total_steps, self._steps_per_evaluation = total_steps, steps_per_evaluation
        self.evaluation_seconds = self.evaluation_steps = self.last_extra_seconds = 0.0
        self._start = self._once = self._paused = 0.0
        # (time without evaluations, step), about one per second.
        self._points: collections.deque[tuple[float, int]] = collections.deque()

    def step(self, step: int) -> None:
        """Records the time after a step; call it after each one."""
        points, now = self._points, time.monotonic() - self._paused
        if len(points) > 1 and now - points[-2][0] < 1:
            points.pop()
        points.append((now, step))
        while len(points) > 2 and now - points[1][0] >= WINDOW_SECONDS:
            points.popleft()

    @contextlib.contextmanager
    def evaluation(self) -> Iterator[None]:
        """Excludes the evaluation inside from the rate of steps, and takes its duration for that of the next ones."""
        self._start, self._once = time.monotonic(), 0.0
        try:
            yield
        finally:
            self._paused += time.monotonic() - self._start
            self.evaluation_seconds = self.evaluation_so_far()

    def evaluation_so_far(self) -> float:
        """Seconds since the last evaluation began, without the parts marked by `once`."""
        return time.monotonic() - self._start - self._once

    @contextlib.contextmanager
    def once(self) -> Iterator[None]:
        """Marks a part of an evaluation that later ones do not repeat, such as tracing."""
        start = time.monotonic()
        yield
        self._once += time.monotonic() - start

    def steps_per_second(self, seconds: float = RECENT_SECONDS) -> float:
        """The rate over the last `seconds`, evaluations excluded; 0 before the second step."""
        if len(self._points) < 2:
            return 0.0
        end, last = self._points[-1]
        start, first = next((point for point in self._points if end - point[0] < seconds), (end, last))
        if first == last:  # the last step alone took longer than that
            start, first = self._points[-2]
        return (last - first) / (end - start) if end > start else 0.0

    def seconds_left(self) -> float:
        """Time until the run ends, including the last evaluation; infinite before the second step."""
        rate = self.steps_per_second(WINDOW_SECONDS)
        if not rate:
            return math.inf
        step, per = self._points[-1][1], self._steps_per_evaluation
        evaluations = 1 + math.ceil(self._total_steps / per) - math.ceil(step / per)
        evaluation = self.evaluation_seconds or self.evaluation_steps / rate
        return (self._total_steps - step) / rate + evaluations * evaluation + self.last_extra_seconds
