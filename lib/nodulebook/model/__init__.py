"""The networks, their training and its checkpoints; set up before Keras is imported."""

from nodulebook.model.environment import set_environment

set_environment()
