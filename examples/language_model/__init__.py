"""The parts of `train_language_model.py`: model, data, loop, checkpoint and report, each usable alone."""
