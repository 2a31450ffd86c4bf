"""The OpenAI SDK under OpenLLMetry, in a workflow with an agent and a tool of Traceloop's SDK."""

import sys
from pathlib import Path

import openai
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from otlp_file import SpanFile
from traceloop.sdk import Traceloop
from traceloop.sdk.decorators import agent, tool, workflow
from traceloop.sdk.instruments import Instruments
from work import add, everything

url, target = sys.argv[1:]
file = SpanFile()
Traceloop.init(
    app_name="calculator",
    processor=SimpleSpanProcessor(file),
    instruments={Instruments.OPENAI},
    telemetry_enabled=False,
    traceloop_sync_enabled=False,
)


@agent(name="calculator")
def calculate(question: str) -> str:
    everything(openai.OpenAI(base_url=url, api_key="x", max_retries=0), tool=tool(name="add")(add))
    return "done"


@workflow(name="arithmetic")
def run(question: str) -> str:
    return calculate(question)


run("What is 2 + 3?")
file.write(Path(target))
