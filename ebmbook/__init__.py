"""What serves the book: exercises, saved runs, the museum, tables, demos, sliders."""
