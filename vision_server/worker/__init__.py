"""Both ends of the pipe: the daemon's side (supervisor, runner, process) and the child that holds the model (child)."""
