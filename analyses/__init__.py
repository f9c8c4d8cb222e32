"""Questions, answered: each a function from a model or a process to labelled numbers and a display."""
