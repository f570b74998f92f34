"""Florence-2 in PyTorch. Knows nothing of HTTP, jobs, processes or tasks."""

from vision_server.engine.florence import Florence, Generation, Options

__all__ = ["Florence", "Generation", "Options"]
