"""Sound: WAV files and arrays to waveforms at a model's rate, a stream to utterances, frames to text."""
