"""A LangChain agent with tools, a stream, an error, embeddings and a retriever under OpenInference."""

import contextlib
import sys
from pathlib import Path

import openai
from langchain.agents import create_agent
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from openinference.instrumentation.langchain import LangChainInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from otlp_file import SpanFile
from work import MODEL

url, target = sys.argv[1:]
file = SpanFile()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(file))
LangChainInstrumentor().instrument(tracer_provider=provider)


@tool
def add(a: float, b: float) -> str:
    """Adds two numbers."""
    return f"{a + b:g}"


class Shelf(BaseRetriever):
    def _get_relevant_documents(self, query: str, *, run_manager: object) -> list[Document]:
        return [Document("Two and three are five.", metadata={"page": 7})]


model = ChatOpenAI(model=MODEL, base_url=url, api_key="x", max_retries=0, temperature=0.5)
agent = create_agent(model, [add], system_prompt="Calculate with the tool.", name="calculator")
agent.invoke({"messages": [{"role": "user", "content": "What is 2 + 3?"}]})
for _ in model.stream("Count to three."):
    pass
with contextlib.suppress(openai.BadRequestError):
    model.invoke("Fail.")
Shelf().invoke("two words")
file.write(Path(target))
