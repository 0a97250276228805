"""One module for each target; its ``TARGET`` is what is fuzzed."""
