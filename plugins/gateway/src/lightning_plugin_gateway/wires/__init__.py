"""Client protocols that the gateway speaks, each translated to and from chat completions."""
