"""The outer learning rate, a pure function of the step: resuming needs no scheduler state."""

from __future__ import annotations

import math

from medfuncta_dist.config.sections.train_section import Train


def learning_rate(step: int, train: Train) -> float:
    """Rate of outer step ``step`` (0-based): linear warm-up, then constant, or cosine decay to 0 at the schedule's end.

    The first warm-up step already has 1/warmup of the rate; the last step of a cosine is close to, not at, zero. Steps
    beyond the schedule's end have its final rate: 0 of a cosine.
    """
    if step < train.warmup_steps:
        return train.rate * ((step + 1) / train.warmup_steps)
    if train.schedule == "constant":
        return train.rate
    length = max(1, train.horizon - train.warmup_steps)
    done = min(1.0, (step - train.warmup_steps) / length)
    return train.rate * 0.5 * (1 + math.cos(math.pi * done))
