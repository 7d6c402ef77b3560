"""The subcommands of `ahmf`, a typed dataclass each. What is heavy is imported by the command that needs it."""
