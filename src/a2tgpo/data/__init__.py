"""Give questions to train and evaluate on: files and Hub data sets, and the generated world."""
