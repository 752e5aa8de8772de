"""32 mm cubes around nodules: extraction, stores, sources."""
