"""CT scans: volumes in world coordinates and the rules that a scan must keep."""
