from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from agentlightning import semconv
from agentlightning._graders import exact_match
from agentlightning._progress import Progress, sparkline
from agentlightning.algorithm import EvaluationReport
from agentlightning.cli._messages import Message, messages_of
from agentlightning.cli._output import ago, duration, number, print_json, shortened
from agentlightning.cli._trace import trace_tree
from agentlightning.errors import ConfigError
from agentlightning.observer import (
    Evaluated,
    EventLogged,
    MetricsLogged,
    PhaseStarted,
    RolloutFinished,
    RunFinished,
    RunStarted,
)
from agentlightning.types import (
    Attempt,
    AttemptStatus,
    Failure,
    FailureClass,
    Mode,
    RewardSource,
    Rollout,
    RolloutConfig,
    RolloutStatus,
    Run,
    RunKind,
    RunStatus,
    Span,
    SpanSource,
    SpanStatus,
    TokenRecord,
    reward_span,
)


def rollout(**changes: object) -> Rollout:
    fields = {
        "id": "ro-1",
        "task": {"question": "2+2"},
        "mode": Mode.TRAIN,
        "run_id": None,
        "group": None,
        "sample": 0,
        "seed": None,
        "resources": None,
        "config": RolloutConfig(),
        "priority": 0,
        "metadata": {},
        "status": RolloutStatus.SUCCEEDED,
        "attempts": 1,
        "created_at": 0.0,
    }
    return Rollout(**(fields | changes))


def span(
    name: str, *, at: int = 0, parent: str | None = None, attributes: object = None, **more: object
) -> Span:
    return Span(
        rollout_id="ro-1",
        attempt_id="at-1",
        span_id=name,
        trace_id="t",
        name=name,
        operation=more.pop("operation", semconv.OPERATION_OTHER),
        source=SpanSource.ADAPTER,
        start_ns=at,
        end_ns=at + 2_000_000,
        parent_id=parent,
        attributes=attributes or {},
        **more,
    )


def drawn(rollout: Rollout, *spans: Span, attempt: Attempt | None = None) -> str:
    console = Console(file=io.StringIO(), width=140)
    console.print(trace_tree(rollout, attempt=attempt, spans=spans))
    return console.file.getvalue()


QUESTION = {"role": "user", "parts": [{"type": "text", "content": "what is 2+2?"}]}
CALL = {
    "role": "assistant",
    "parts": [{"type": "tool_call", "name": "calculate", "arguments": {"expression": "2+2"}}],
}
RESULT = {"role": "tool", "parts": [{"type": "tool_call_response", "response": "4"}]}
ANSWER = {"role": "assistant", "parts": [{"type": "text", "content": "it is 4"}]}


def chat(name: str, inputs: list[object], output: object, *, at: int, **more: object) -> Span:
    attributes = {semconv.INPUT_MESSAGES: json.dumps(inputs), semconv.OUTPUT_MESSAGES: [output]}
    return span(name, at=at, attributes=attributes, operation=semconv.OPERATION_CHAT, **more)


def test_a_rollout_is_a_tree_of_messages_tool_calls_and_rewards() -> None:
    record = TokenRecord.pack([1, 2, 3], [4, 5], [-0.1, -0.2], version=7)
    text = drawn(
        rollout(output="it is 4"),
        span("solve"),
        chat("chat second", [QUESTION, CALL, RESULT], ANSWER, at=30, parent="solve"),
        chat("chat first", [QUESTION], CALL, at=10, parent="solve", tokens=(record,)),
        span(
            "execute_tool calculate",
            at=20,
            parent="solve",
            agent="helper",
            attributes={semconv.TOOL_CALL_ARGUMENTS: '{"expression": "2+2"}', semconv.TOOL_CALL_RESULT: 4},
        ),
        reward_span(
            rollout_id="ro-1", attempt_id="at-1", span_id="r", trace_id="t", time_ns=40, value=1.0,
            source=RewardSource.GRADER, reason="equal", target="solve",
        ),
    )  # fmt: skip
    lines = [line.strip(" │├└─") for line in text.splitlines()]
    assert lines.index("user: what is 2+2?") < lines.index("assistant: it is 4")
    assert text.count("what is 2+2?") == 1
    assert 'assistant: → calculate({"expression": "2+2"})' in lines
    assert "… 2 messages as before" in lines
    assert "3 + 2 tokens, policy 7" in text
    assert "execute_tool calculate  2 ms  helper" in lines
    assert "result: 4" in lines
    assert "reward 1  by grader  for solve  equal" in lines
    assert lines.index("output: it is 4") < len(lines)


def test_what_went_wrong_is_shown_where_it_did() -> None:
    failure = Failure(kind=FailureClass.TIMED_OUT, message="took longer than 3 s")
    attempt = Attempt(
        id="at-1", rollout_id="ro-1", sequence=2, worker="w", token=1, status=AttemptStatus.TIMED_OUT,
        leased_at=0.0, expires_at=1.0, finished_at=65.0, failure=failure,
    )  # fmt: skip
    record = TokenRecord(incomplete="upstream gave no ids")
    text = drawn(
        rollout(status=RolloutStatus.FAILED),
        span("call", status=SpanStatus.ERROR, error="Connection refused", tokens=(record,), late=True),
        span("bad reward", operation=semconv.OPERATION_REWARD),
        attempt=attempt,
    )
    assert "attempt 2, 1 min 5 s" in text
    assert "timed_out: took longer than 3 s" in text
    assert "Connection refused" in text
    assert "upstream gave no ids" in text
    assert "late" in text
    assert "a reward must be a number" in text


def test_brackets_in_captured_text_are_text() -> None:
    assert "[red]not a colour[/red]" in drawn(rollout(task="[red]not a colour[/red]"), span("[bold]x"))


@pytest.mark.parametrize("parent", ["missing", "lonely"])
def test_a_span_whose_parent_is_unknown_is_shown_at_the_top(parent: str) -> None:
    assert "lonely" in drawn(rollout(), span("lonely", parent=parent))


@pytest.mark.parametrize(
    ("attribute", "messages"),
    [
        ([{"role": "user", "content": "hi"}], [Message("user", ("hi",))]),
        ({"role": "user", "content": "hi"}, [Message("user", ("hi",))]),
        ('[{"role": "user", "content": [{"type": "text", "text": "hi"}, {"type": "image_url"}]}]',
         [Message("user", ("hi", "[image_url]"))]),
        ([{"role": "assistant", "content": None,
           "tool_calls": [{"function": {"name": "f", "arguments": '{"x": 1}'}}, "?"]}],
         [Message("assistant", ('→ f({"x": 1})',))]),
        ([{"role": "a", "parts": [{"type": "reasoning", "content": "hm"}, "?"]}],
         [Message("a", ("(thinks) hm", "?"))]),
        ("not json", [Message("", ("not json",))]),
        (None, []),
        (3, []),
        ("3", []),
        ([1, "x"], []),
    ],
)  # fmt: skip
def test_messages_are_read_in_any_form(attribute: object, messages: list[Message]) -> None:
    assert messages_of(attribute) == messages


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "n/a"), (0.0123, "12 ms"), (3.21, "3.2 s"), (59.0, "59 s"), (60.0, "1 min"), (192.0, "3 min 12 s"),
     (7_200.0, "2 h"), (90_000.0, "1 d 1 h")],
)  # fmt: skip
def test_durations_have_at_most_two_units(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_values_are_written_for_people() -> None:
    assert ago(None) == "n/a"
    assert ago(100.0, now=160.0) == "1 min ago"
    assert ago(100.0, now=90.0) == "0 ms ago"
    assert [number(value) for value in (None, True, 12_345, 0.123456, "x")] == [
        "n/a",
        "True",
        "12,345",
        "0.1235",
        "x",
    ]
    assert shortened({"a": "b\nc"}) == '{"a": "b\\nc"}'
    assert shortened("a  b\n" * 50, 10) == "a b a b a…"
    assert sparkline([]) == ""
    assert sparkline([1.0, 1.0]) == "▁▁"
    assert sparkline([0.0, 0.5, 1.0]) == "▁▅█"


def test_numbers_that_json_lacks_are_refused() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        print_json({"x": float("nan")})


def test_exact_match_compares_with_the_answer() -> None:
    assert exact_match({"answer": "4"}, " 4\n") == 1.0
    assert exact_match({"answer": 4}, "4") == 0.0
    with pytest.raises(ConfigError, match="needs tasks with an 'answer', got 'x'"):
        exact_match("x", "4")


RUN = Run(
    id="run-1", kind=RunKind.TRAIN, algorithm="apo", status=RunStatus.SUCCEEDED, config={}, seed=0,
    created_at=0.0, updated_at=0.0,
)  # fmt: skip


def events() -> list[object]:
    failed = rollout(failure=Failure(kind=FailureClass.LOST, message="x"))
    report = EvaluationReport(mean=0.5, low=0.4, high=0.6, n=64)
    return [
        RunStarted(run=RUN),
        PhaseStarted(name="apo", total=10),
        RolloutFinished(rollout=rollout(), rewards={"reward": 1.0}),
        RolloutFinished(rollout=rollout(), rewards={"correct": 0.0, "brief": 1.0}),
        RolloutFinished(rollout=failed),
        MetricsLogged(step=3, metrics={"reward": 0.25, "loss": 0.125}),
        MetricsLogged(step=4, metrics={"reward": 0.5}),
        Evaluated(label="after", step=4, report=report),
        "something new",
    ]


def test_progress_outside_a_terminal_is_plain_lines() -> None:
    file = io.StringIO()
    time = iter(range(1000))
    progress = Progress(Console(file=file, width=120), clock=lambda: float(next(time)))
    for event in [*events(), RunFinished(run=RUN)]:
        progress.notify(event)
    text = file.getvalue()
    assert "run run-1 started (apo)" in text
    assert "apo …" in text
    assert "step 3: reward 0.25  loss 0.125" in text
    assert "after: 0.500 [0.400, 0.600] on 64 tasks" in text
    assert "run run-1 succeeded after" in text
    assert "\x1b" not in text


def test_progress_in_a_terminal_shows_band_speed_and_end() -> None:
    file = io.StringIO()
    console = Console(file=file, width=100, height=30, force_terminal=True)
    progress = Progress(console)
    for event in events():
        progress.notify(event)
    progress.notify(RunFinished(run=RUN))
    text = file.getvalue()
    for part in (
        "2/10",
        "0.750 ±",
        "3 (1 failed)",
        "loss 0.125",
        "after: 0.500",
        "apo ends in about",
        "succeeded",
    ):
        assert part in text


def test_a_phase_whose_steps_log_now_and_then_is_counted_in_steps() -> None:
    """The demo's warm start logs every twentieth of 3000 steps: counted by logs, its end would seem 20 times as far."""
    file, now = io.StringIO(), [0.0]
    console = Console(file=file, width=100, height=30, force_terminal=True)
    progress = Progress(console, clock=lambda: now[0])
    progress.notify(RunStarted(run=RUN))
    progress.notify(PhaseStarted(name="sft", total=100))
    for step in (19, 39, 39, 59):
        now[0] = step + 1.0
        progress.notify(MetricsLogged(step=step, metrics={"loss": 0.5}))
    progress.notify(MetricsLogged(step=80, metrics={"eval/before": 0.5}))
    progress.notify(RunFinished(run=RUN))
    shown = file.getvalue()
    assert "60/100" in shown
    assert "sft ends in about 40 s" in shown


@pytest.mark.parametrize("terminal", [False, True])
def test_what_a_run_tells_is_seen_while_it_runs_and_not_at_every_step(terminal: bool) -> None:
    file, now = io.StringIO(), [0.0]
    console = Console(file=file, width=100, height=30, force_terminal=terminal)
    progress = Progress(console, clock=lambda: now[0])
    progress.notify(RunStarted(run=RUN))
    for step in range(12):
        now[0] = step
        progress.notify(EventLogged(kind="nothing_to_train", message=f"update {step}"))
    progress.notify(EventLogged(kind="sft", message="8 answers"))
    progress.notify(EventLogged(kind="phase", message="apo"))
    progress.notify(RunFinished(run=RUN))
    told = file.getvalue()
    if not terminal:
        assert [line for line in told.splitlines() if "update" in line] == [
            "nothing_to_train: update 0",
            "nothing_to_train: update 10",
        ]
    assert "sft: 8 answers" in told
    assert "phase: apo" not in told


def test_an_evaluation_without_an_outcome_has_no_mean() -> None:
    file = io.StringIO()
    report = EvaluationReport(mean=0.0, low=0.0, high=1.0, n=0, failures={"agent_error": 2})
    Progress(Console(file=file, width=120)).notify(Evaluated(label="before", step=0, report=report))
    assert file.getvalue() == "before: no task has an outcome (agent_error 2)\n"
