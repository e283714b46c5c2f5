"""Fine-tuning: a checkpoint learns the user's labels."""
