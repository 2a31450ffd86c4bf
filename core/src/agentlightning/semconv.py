"""Attribute and operation names: OpenTelemetry GenAI first, `agl.*` only where OpenTelemetry has no word.

The GenAI names follow semantic conventions 1.41; they are still in development, so they stand
here and nowhere else.
"""

from __future__ import annotations

from typing import Final

SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.41.0"

# OpenTelemetry GenAI
OPERATION: Final = "gen_ai.operation.name"
PROVIDER: Final = "gen_ai.provider.name"
AGENT_NAME: Final = "gen_ai.agent.name"
AGENT_ID: Final = "gen_ai.agent.id"
CONVERSATION_ID: Final = "gen_ai.conversation.id"
REQUEST_MODEL: Final = "gen_ai.request.model"
REQUEST_TEMPERATURE: Final = "gen_ai.request.temperature"
REQUEST_MAX_TOKENS: Final = "gen_ai.request.max_tokens"
REQUEST_STREAM: Final = "gen_ai.request.stream"
RESPONSE_ID: Final = "gen_ai.response.id"
RESPONSE_MODEL: Final = "gen_ai.response.model"
FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
INPUT_MESSAGES: Final = "gen_ai.input.messages"
OUTPUT_MESSAGES: Final = "gen_ai.output.messages"
SYSTEM_INSTRUCTIONS: Final = "gen_ai.system_instructions"
TOOL_DEFINITIONS: Final = "gen_ai.tool.definitions"
TOOL_NAME: Final = "gen_ai.tool.name"
TOOL_CALL_ID: Final = "gen_ai.tool.call.id"
TOOL_CALL_ARGUMENTS: Final = "gen_ai.tool.call.arguments"
TOOL_CALL_RESULT: Final = "gen_ai.tool.call.result"
INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
EVALUATION_NAME: Final = "gen_ai.evaluation.name"
EVALUATION_SCORE: Final = "gen_ai.evaluation.score.value"
EVALUATION_EXPLANATION: Final = "gen_ai.evaluation.explanation"
ERROR_TYPE: Final = "error.type"

# agentlightning
ROLLOUT_ID: Final = "agl.rollout.id"
ATTEMPT_ID: Final = "agl.attempt.id"
STATE: Final = "agl.state"
ACTION: Final = "agl.action"
MESSAGE: Final = "agl.message"
OBJECT: Final = "agl.object"
TASK: Final = "agl.task"
REWARD_SOURCE: Final = "agl.reward.source"
REWARD_TARGET: Final = "agl.reward.target"
POLICY_VERSION: Final = "agl.policy.version"
NATIVE_REQUEST: Final = "agl.native.request"
REQUEST_DIGEST: Final = "agl.request.digest"
TURN: Final = "agl.turn"
TURN_COMMON: Final = "agl.turn.common"
LOCATION: Final = "agl.location"
INCOMPLETE: Final = "agl.incomplete"
CANCELLED: Final = "agl.cancelled"
DECISION_NAME: Final = "agl.decision.name"
DECISION_OPTIONS: Final = "agl.decision.options"
DECISION_CHOICE: Final = "agl.decision.choice"
DECISION_PROPENSITY: Final = "agl.decision.propensity"

# operations
OPERATION_CHAT: Final = "chat"
OPERATION_COMPLETION: Final = "text_completion"
OPERATION_EMBEDDINGS: Final = "embeddings"
OPERATION_TOOL: Final = "execute_tool"
OPERATION_AGENT: Final = "invoke_agent"
OPERATION_ROLLOUT: Final = "agl.rollout"
OPERATION_STATE: Final = "agl.state"
OPERATION_ACTION: Final = "agl.action"
OPERATION_MESSAGE: Final = "agl.message"
OPERATION_OBJECT: Final = "agl.object"
OPERATION_REWARD: Final = "agl.reward"
OPERATION_DECISION: Final = "agl.decision"
OPERATION_TRUNCATED: Final = "agl.truncated"
OPERATION_OTHER: Final = "agl.operation"
