"""The OpenAI SDK under OpenTelemetry's own instrumentation, with messages as log records or as span attributes."""

import os
import sys
from pathlib import Path

url, target, form = sys.argv[1:]
if form == "attributes":
    os.environ["OTEL_SEMCONV_STABILITY_OPT_IN"] = "gen_ai_latest_experimental"
    os.environ["OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"] = "span_only"
else:
    os.environ["OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"] = "true"

import openai  # noqa: E402
from opentelemetry.instrumentation.openai_v2 import OpenAIInstrumentor  # noqa: E402
from opentelemetry.sdk._logs import LoggerProvider  # noqa: E402
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor  # noqa: E402
from opentelemetry.sdk.trace import TracerProvider  # noqa: E402
from opentelemetry.sdk.trace.export import SimpleSpanProcessor  # noqa: E402
from otlp_file import SpanFile, write_logs  # noqa: E402
from work import everything  # noqa: E402

file, logs = SpanFile(), InMemoryLogRecordExporter()
provider, logger_provider = TracerProvider(), LoggerProvider()
provider.add_span_processor(SimpleSpanProcessor(file))
logger_provider.add_log_record_processor(SimpleLogRecordProcessor(logs))
OpenAIInstrumentor().instrument(tracer_provider=provider, logger_provider=logger_provider)
everything(openai.OpenAI(base_url=url, api_key="x", max_retries=0))
file.write(Path(target))
if form == "logs":
    write_logs(list(logs.get_finished_logs()), Path(target).with_suffix(".logs.json"))
