"""The parts of `train_embedding_model.py`: text, words, streams, model, reductions and engine, each usable alone."""
