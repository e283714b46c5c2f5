"""Fine-tuning: a checkpoint gets a head and learns, wholly or in small parts, with transformers' Trainer and peft."""
