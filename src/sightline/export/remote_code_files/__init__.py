"""Sources of the files that an exported composition carries. What they import of ours is carried with them, definition by definition (`remote_code_sources`)."""
