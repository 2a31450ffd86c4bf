"""What the framework's spans say: inside of rollouts everything, outside what its user has chosen."""

from __future__ import annotations

from agent_framework.observability import ObservabilitySettings

from agentlightning.capture import current_rollout


class RolloutSettings(ObservabilitySettings):
    """Settings that know about rollouts. Instrumentation that was switched off stays off."""

    @property
    def SENSITIVE_DATA_ENABLED(self) -> bool:  # noqa: N802 - the framework's name
        """Whether messages, arguments and results are recorded."""
        return self.ENABLED and (self.enable_sensitive_data or current_rollout() is not None)

    @property
    def use_latest_experimental_gen_ai_semconv(self) -> bool:
        """Whether messages are attributes of spans."""
        return current_rollout() is not None or super().use_latest_experimental_gen_ai_semconv

    @property
    def enable_message_events(self) -> bool:
        """Whether messages are log records, too: those go to the user's log, so only where the user wants content."""
        wanted: bool = self.__dict__["enable_message_events"]
        return wanted and (self.enable_sensitive_data or current_rollout() is None)

    @enable_message_events.setter
    def enable_message_events(self, value: bool) -> None:
        self.__dict__["enable_message_events"] = value
