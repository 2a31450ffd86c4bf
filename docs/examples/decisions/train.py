"""Trains both agents of `deciding.py`: `python train.py`. Takes some seconds on a CPU; needs no model."""

from __future__ import annotations

import tempfile

import deciding

import agentlightning as agl

JOBS = {
    "tool": (deciding.pick_tool, deciding.tool_tasks(96), deciding.tool_tasks(60, start=1_000)),
    "branch": (deciding.take_branch, deciding.branch_tasks(64), deciding.branch_tasks(60, start=1_000)),
}


def main() -> None:
    """Prints the mean reward on held-out tasks before and after, with its 95 % interval."""
    for name, (agent, train, val) in JOBS.items():
        with tempfile.TemporaryDirectory() as folder:
            trainer = agl.Trainer(
                agent,
                algorithm="decisions",
                params={"updates": 20},
                train=train,
                val=val,
                store=f"sqlite:///{folder}/agl.db",
            )
            summary = trainer.fit().summary
        for label in ("before", "after"):
            found = summary[label]
            print(f"{name} {label}: {found['mean']:.2f} [{found['low']:.2f}, {found['high']:.2f}]")  # noqa: T201


if __name__ == "__main__":
    main()
