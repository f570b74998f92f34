"""On-demand captioning daemon for Florence-2. Importing the package does nothing but name its version."""

__version__ = "0.1.0"
