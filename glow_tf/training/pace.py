"""The pace of a run: steps per second, and the time left with the evaluations to come."""

import collections
import contextlib
import math
import time
from collections.abc import Iterator

# The rate that is shown is that of the last half minute; the time left follows from the last ten minutes, in which the
# other work of a shared machine averages out.
RECENT_SECONDS = 30.0
WINDOW_SECONDS = 600.0


class Pace:
    """Measures the steps and the evaluations of a run.

    Saves between the steps count as part of the steps.

    Args:
        total_steps: the step at which the run ends.
        steps_per_evaluation: steps between two evaluations.

    Attributes:
        evaluation_seconds: duration of the last evaluation; of an earlier session until there is one; 0 if unknown.
        evaluation_steps: steps that probably take as long as an evaluation whose duration is unknown.
        last_extra_seconds: what the last evaluation takes longer than the others.
    """

    def __init__(self, total_steps: int, steps_per_evaluation: int) -> None:
        self._total_steps, self._steps_per_evaluation = total_steps, steps_per_evaluation
        self.evaluation_seconds = self.evaluation_steps = self.last_extra_seconds = 0.0
        self._start = self._once = self._paused = 0.0
        # (seconds without evaluations, step), about one a second.
        self._points: collections.deque[tuple[float, int]] = collections.deque()

    def step(self, step: int) -> None:
        """To be called after each step."""
        points, now = self._points, time.monotonic() - self._paused
        if len(points) > 1 and now - points[-2][0] < 1:
            points.pop()
        points.append((now, step))
        while len(points) > 2 and now - points[1][0] >= WINDOW_SECONDS:
            points.popleft()

    @contextlib.contextmanager
    def evaluation(self) -> Iterator[None]:
        """Leaves an evaluation out of the rate of the steps, and expects the next ones to take as long."""
        self._start, self._once = time.monotonic(), 0.0
        try:
            yield
        finally:
            self._paused += time.monotonic() - self._start
            self.evaluation_seconds = self.evaluation_so_far()

    def evaluation_so_far(self) -> float:
        """Seconds since the last evaluation began, without what later ones do not have."""
        return time.monotonic() - self._start - self._once

    @contextlib.contextmanager
    def once(self) -> Iterator[None]:
        """Marks the part of an evaluation that later ones do not have, such as the tracing of functions."""
        start = time.monotonic()
        yield
        self._once += time.monotonic() - start

    def steps_per_second(self, seconds: float = RECENT_SECONDS) -> float:
        """Rate of the last `seconds`, without evaluations; 0 before the second step."""
        if len(self._points) < 2:
            return 0.0
        end, last = self._points[-1]
        start, first = next((point for point in self._points if end - point[0] < seconds), (end, last))
        if first == last:  # the last step alone took longer
            start, first = self._points[-2]
        return (last - first) / (end - start) if end > start else 0.0

    def seconds_left(self) -> float:
        """Time until the run ends, its last evaluation included; infinite before the second step."""
        rate = self.steps_per_second(WINDOW_SECONDS)
        if not rate:
            return math.inf
        step, per = self._points[-1][1], self._steps_per_evaluation
        evaluations = 1 + math.ceil(self._total_steps / per) - math.ceil(step / per)
        evaluation = self.evaluation_seconds or self.evaluation_steps / rate
        return (self._total_steps - step) / rate + evaluations * evaluation + self.last_extra_seconds
