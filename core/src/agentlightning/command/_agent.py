"""The agent: a command line, and how a task goes in and an output comes out."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from agentlightning.capture import RolloutContext, current_rollout
from agentlightning.command._environment import attempt_environment, inherited, secrets_of
from agentlightning.command._options import Keep, Result
from agentlightning.command._place import (
    fill_place,
    in_thread,
    make_place,
    read_bounded,
    remove_place,
    within,
)
from agentlightning.command._process import Command, Running
from agentlightning.command._streams import hide
from agentlightning.command._template import check, fill
from agentlightning.errors import AgentError, ConfigError, TargetError
from agentlightning.types import Json

_log = logging.getLogger("agentlightning.command")


class _Line(msgspec.Struct, frozen=True):
    """A command line as a list of its words; no shell reads it.

    Attributes:
        argv: Templates: `{task}` is the task, `{task.question}` a field of it, `{python}` this interpreter, and
            `{model}`, `{base_url}`, `{directory}`, `{seed}`, `{mode}`, `{rollout_id}`, `{attempt_id}` what they say.
    """

    argv: Sequence[str]


class CommandAgent(_Line, frozen=True, kw_only=True):
    """A command line as a trainable agent: `agl.CommandAgent(["my-cli", "--print", "{task.question}"])`.

    Each attempt runs it once, in a directory of its own, with an environment that points OpenAI's and Anthropic's SDKs
    at the gateway and names the attempt. When the attempt is over, for whatever reason, everything that the command has
    started is ended. It needs a POSIX system; processes that leave their session are found on Linux only.

    Attributes:
        stdin: Template of what it can read; None is the task, if nothing else mentions it.
        files: Templates of files by path in the working directory, written before it starts.
        environment: Templates of variables; they win over all others.
        inherit: Variables of the runner that it gets besides `command.INHERITED`, such as `HOME`.
        folder: Copied to be the working directory; None is an empty one.
        result: How its output is read.
        result_file: Path in the working directory that the output is read from; None is what it prints.
        statuses: Exit statuses that are no failure.
        timeout_s: Longest duration in seconds, besides the rollout's own; None is no limit.
        grace_s: How long it has to end by itself when it is told to, in seconds.
        max_output_bytes: Largest output; more is an error, except for `Result.LAST_JSON` and `Result.EXIT`.
        keep: Whether the attempt's directory stays; the log says where.
        parent: Where attempts' directories are made; None is the system's place for temporary files.
        telemetry: URL of a server (`agl serve`) that the command's OpenTelemetry exporters send to with the attempt's
            key; the server must know the key's secret (the same `AGL_KEY`). None is the server whose store the runner
            works for, if it is one with that secret; empty exports nothing.
    """

    stdin: str | None = None
    files: Mapping[str, str] = {}
    environment: Mapping[str, str] = {}
    inherit: Sequence[str] = ()
    folder: str | None = None
    result: Result = Result.TEXT
    result_file: str | None = None
    statuses: Sequence[int] = (0,)
    timeout_s: float | None = None
    grace_s: float = 2.0
    max_output_bytes: int = 2**20
    keep: Keep = Keep.NEVER
    parent: str | None = None
    telemetry: str | None = None

    def __post_init__(self) -> None:
        """Refuses what could not work.

        Raises:
            ConfigError: A setting cannot be used.
            TargetError: There is no such program.
        """
        _check(self)
        if "{" not in self.argv[0]:
            _program(self.argv[0], folder=self.folder and Path(self.folder), path=_path(self))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.argv[0]!r}, …)"  # arguments and variables may be private

    async def __call__(self, task: Json) -> Json:
        """Runs the command once on a task, in the current rollout if there is one.

        Raises:
            AgentError: It cannot be started, fails, or has no output that can be read.
            ConfigError: The task lacks a field that a template wants, or the folder cannot be copied.
            TimeoutError: It took longer than `timeout_s`.
        """
        context = current_rollout()
        values = _values(task, context)
        files = {name: fill(text, values) for name, text in self.files.items()}
        place = make_place(Path(self.parent) if self.parent else None)
        kept = self.keep != Keep.NEVER
        try:
            await in_thread(fill_place, place, Path(self.folder) if self.folder else None, files=files)
            output = await self._run(place, values | {"directory": str(place / "work")}, context)
            kept = self.keep == Keep.ALWAYS
        finally:
            if kept:
                _log.info("the attempt's directory is kept: %s", place)
            else:
                await in_thread(_remove, place)
        return output

    async def _run(self, place: Path, values: Mapping[str, Json], context: RolloutContext | None) -> Json:
        environment = _environment(self, place, values, context)
        secrets = secrets_of(
            {name: environment[name] for name in (*self.environment, *self.inherit) if name in environment},
            context=context,
        )
        argv = [fill(word, values) for word in self.argv]
        work = place / "work"
        running = Running(
            Command(
                program=_program(argv[0], folder=work, path=environment.get("PATH")),
                argv=argv,
                directory=work,
                environment=environment,
                stdin=fill(_stdin(self), values).encode("utf-8", "surrogatepass"),
                grace_s=self.grace_s,
                max_output_bytes=self.max_output_bytes,
            )
        )
        try:
            async with asyncio.timeout(self.timeout_s):
                status = await running.run()
        except TimeoutError as error:
            words = _last_words(running, secrets)
            raise TimeoutError(f"{argv[0]!r} took longer than {self.timeout_s} s; {words}") from error
        except asyncio.CancelledError as error:
            error.add_note(f"{argv[0]!r} was ended; {_last_words(running, secrets)}")
            raise
        good = status in self.statuses
        if status < 0 or not (good or self.result == Result.EXIT):
            raise AgentError(f"{argv[0]!r} {_ending(status)}; {_last_words(running, secrets)}")
        if self.result == Result.EXIT:
            return float(good)
        return self._output(await in_thread(self._written, running, work), secrets)

    def _written(self, running: Running, work: Path) -> bytes:
        """What the output is read from."""
        if self.result_file is not None:
            return read_bounded(within(work, self.result_file), limit=self.max_output_bytes)
        if not running.output.complete and self.result != Result.LAST_JSON:
            raise AgentError(
                f"{self.argv[0]!r} printed {running.output.size} bytes, and its output may have "
                f"{self.max_output_bytes}; raise max_output_bytes or print less"
            )
        return running.output.content()

    def _output(self, content: bytes, secrets: Sequence[str]) -> Json:
        text = hide(content.decode("utf-8", "replace"), secrets)
        if self.result == Result.TEXT:
            return text.rstrip("\r\n")
        if self.result == Result.LAST_JSON:
            text = next((line for line in reversed(text.splitlines()) if line.strip()), "")
        try:
            return msgspec.json.decode(text)
        except msgspec.DecodeError as error:
            raise AgentError(
                f"the output of {self.argv[0]!r} should be JSON and begins with {text[:80]!r}: {error}"
            ) from error


def _check(agent: CommandAgent) -> None:
    if os.name != "posix":
        raise ConfigError("command-line agents need a POSIX system, such as Linux; run a worker there")
    if isinstance(agent.argv, str) or not agent.argv or not all(isinstance(word, str) for word in agent.argv):
        raise ConfigError(
            f"a command is a list of words, such as ['my-cli', '{{task}}'], got {agent.argv!r}; no shell reads it"
        )
    if agent.result not in set(Result) or agent.keep not in set(Keep):
        raise ConfigError(
            f"result must be one of {', '.join(Result)} and keep one of {', '.join(Keep)}, "
            f"got {str(agent.result)!r} and {str(agent.keep)!r}"
        )
    if (
        agent.grace_s < 0
        or agent.max_output_bytes < 1
        or (agent.timeout_s is not None and agent.timeout_s <= 0)
    ):
        raise ConfigError(
            "timeout_s and max_output_bytes must be above 0 and grace_s not below it, "
            f"got {agent.timeout_s!r}, {agent.max_output_bytes!r} and {agent.grace_s!r}"
        )
    if agent.folder is not None and not Path(agent.folder).is_dir():
        raise ConfigError(f"there is no folder {agent.folder!r} to copy; name one that is there")
    for path in (*agent.files, *([agent.result_file] if agent.result_file is not None else [])):
        if not path or Path(path).is_absolute() or ".." in Path(path).parts:
            raise ConfigError(
                f"{path!r} is no path within the working directory; write one like 'out/answer.txt'"
            )
    for name in (*agent.environment, *agent.inherit):
        if not name or "=" in name or "\0" in name:
            raise ConfigError(f"{name!r} is no name of an environment variable")
    for text, of in _templates(agent):
        check(text, of=of)


def _templates(agent: CommandAgent) -> list[tuple[str, str]]:
    """Every template with what it is for."""
    return [
        *((word, "the argument") for word in agent.argv),
        *((text, f"the file {name!r}:") for name, text in agent.files.items()),
        *((text, f"the variable {name!r}:") for name, text in agent.environment.items()),
        *([(agent.stdin, "stdin")] if agent.stdin is not None else []),
    ]


def _stdin(agent: CommandAgent) -> str:
    if agent.stdin is not None:
        return agent.stdin
    return "" if any(check(text, of=of) for text, of in _templates(agent)) else "{task}"


def _path(agent: CommandAgent) -> str | None:
    return agent.environment.get("PATH", os.environ.get("PATH"))


def _program(name: str, *, folder: Path | str | None, path: str | None) -> str:
    """The program's path.

    Raises:
        TargetError: There is none that can be run.
    """
    if "/" in name and not name.startswith("/"):
        found = shutil.which(str(Path(folder or ".").resolve() / name))
        where = f"in the folder {str(folder)!r}" if folder else "in the empty working directory"
    else:
        found = shutil.which(name, path=path)
        where = "here" if "/" in name else f"on the PATH {path!r}"
    if found is None:
        raise TargetError(f"there is no program {name!r} {where}; install it, or name it by its whole path")
    return found


def _values(task: Json, context: RolloutContext | None) -> dict[str, Json]:
    endpoint = context.endpoint if context else None
    return {
        "task": task,
        "python": sys.executable,
        "model": endpoint.model if endpoint else None,
        "base_url": endpoint.base_url if endpoint else None,
        "seed": context.seed if context else None,
        "mode": context.mode.value if context else None,
        "rollout_id": context.rollout_id if context else None,
        "attempt_id": context.attempt_id if context else None,
    }


def _environment(
    agent: CommandAgent, place: Path, values: Mapping[str, Json], context: RolloutContext | None
) -> dict[str, str]:
    own = {"HOME": str(place / "home"), "TMPDIR": str(place / "tmp")}
    environment = own | inherited(os.environ, agent.inherit)
    if context is not None:
        environment |= attempt_environment(context, environment=environment, telemetry=agent.telemetry)
    return environment | {name: fill(text, values) for name, text in agent.environment.items()}


def _remove(place: Path) -> None:
    try:
        remove_place(place)
    except OSError as error:
        _log.warning("the attempt's directory %s cannot be removed: %s; remove it by hand", place, error)


def _ending(status: int) -> str:
    if status >= 0:
        return f"ended with exit status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"


def _last_words(running: Running, secrets: Sequence[str]) -> str:
    said = (("on stderr", running.errors), ("on stdout", running.output))
    words = [f"its last words {where}: {text!r}" for where, one in said if (text := one.tail(secrets))]
    return "; ".join(words) or "it said nothing"
