"""The OpenAI SDK under OpenInference, with OpenInference's own agent and tool spans around it."""

import sys
from pathlib import Path

import openai
from openinference.instrumentation import TracerProvider
from openinference.instrumentation.openai import OpenAIInstrumentor
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from otlp_file import SpanFile
from work import add, everything

url, target = sys.argv[1:]
file = SpanFile()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(file))
OpenAIInstrumentor().instrument(tracer_provider=provider)
tracer = provider.get_tracer("calculator")


@tracer.agent(name="calculator")
def run(question: str) -> str:
    everything(openai.OpenAI(base_url=url, api_key="x", max_retries=0), tool=tracer.tool(name="add")(add))
    return "done"


run("What is 2 + 3?")
file.write(Path(target))
