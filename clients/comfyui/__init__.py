"""ComfyUI nodes that ask a vision-server about pictures. ComfyUI imports this folder and reads the two tables below."""

from .nodes import Caption, CaptionBatch, Detect, Unload

NODE_CLASS_MAPPINGS = {
    "VisionServerCaption": Caption,
    "VisionServerCaptionBatch": CaptionBatch,
    "VisionServerDetect": Detect,
    "VisionServerUnload": Unload,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "VisionServerCaption": "Caption Image (vision-server)",
    "VisionServerCaptionBatch": "Caption Batch (vision-server)",
    "VisionServerDetect": "Detect (vision-server)",
    "VisionServerUnload": "Unload Now (vision-server)",
}

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
