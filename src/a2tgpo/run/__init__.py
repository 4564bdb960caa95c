"""One run from recipe to table: task, warm start, evaluation, training."""
