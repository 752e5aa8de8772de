"""The networks, their layers and losses, augmentation and training."""
