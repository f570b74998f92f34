"""The commands that ask a running server, and what they share: calls, terminal, drawing."""
