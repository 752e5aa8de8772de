"""Grad-CAM, Grad-CAM++ and the faithfulness of maps."""
