"""The commands: one module per group. Nothing else imports this package."""
