"""The OpenAI SDK under an older OpenLLMetry, which writes messages as numbered attributes."""

import sys
from pathlib import Path

import openai
from opentelemetry.instrumentation.openai import OpenAIInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from otlp_file import SpanFile
from work import everything

url, target = sys.argv[1:]
file = SpanFile()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(file))
OpenAIInstrumentor().instrument(tracer_provider=provider)
everything(openai.OpenAI(base_url=url, api_key="x", max_retries=0))
file.write(Path(target))
