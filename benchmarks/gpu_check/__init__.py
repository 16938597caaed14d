"""What a machine with a GPU is asked once: does the engine run there, is it exact, and how fast is it."""
