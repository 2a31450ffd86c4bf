"""The agent, the tool and the tasks that `agl demo` trains on."""
