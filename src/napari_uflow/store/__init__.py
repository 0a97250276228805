"""Files: images are read lazily; every file is written whole or not at all."""
