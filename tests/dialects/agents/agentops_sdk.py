"""The OpenAI SDK under AgentOps, in an agent and a tool of its decorators."""

import os
import sys
from pathlib import Path

url, target = sys.argv[1:]
os.environ |= {"AGENTOPS_API_ENDPOINT": url, "AGENTOPS_EXPORTER_ENDPOINT": f"{url}/v1/traces"}

import agentops  # noqa: E402
import openai  # noqa: E402
from agentops.sdk.decorators import agent, operation, session, tool  # noqa: E402
from opentelemetry import trace  # noqa: E402
from opentelemetry.sdk.trace.export import SimpleSpanProcessor  # noqa: E402
from otlp_file import SpanFile  # noqa: E402
from work import add, everything  # noqa: E402

file = SpanFile()
agentops.init(
    api_key="00000000-0000-4000-8000-000000000000",
    endpoint=url,
    exporter_endpoint=f"{url}/v1/traces",
    auto_start_session=False,
    instrument_llm_calls=True,
    fail_safe=True,
)
trace.get_tracer_provider().add_span_processor(SimpleSpanProcessor(file))


@agent
class Calculator:
    @operation
    def run(self, question: str) -> str:
        everything(openai.OpenAI(base_url=url, api_key="x", max_retries=0), tool=tool(name="add")(add))
        return "done"


@session
def main(question: str) -> str:
    return Calculator().run(question)


main("What is 2 + 3?")
file.write(Path(target))
os._exit(0)  # without waiting for a server of its own
