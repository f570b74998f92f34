"""The HTTP side: requests in, answers out. It knows the queue and the tasks, and nothing of processes or tensors."""
