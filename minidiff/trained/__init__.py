"""A run, or a published folder, opened as the object that embeds or draws."""
