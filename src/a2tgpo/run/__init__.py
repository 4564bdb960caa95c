"""Run a recipe from its file to its table: task, warm start, evaluation, training."""
