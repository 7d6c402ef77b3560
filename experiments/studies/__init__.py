"""Studies: many trainings that answer a question, by any number of workers that share a storage."""
