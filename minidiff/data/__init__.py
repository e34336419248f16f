"""Where batches come from: procedural scenes, and every source that --data understands."""
