"""The commands of the publishing kit."""
