"""Does a model get as good with half the compute? `python -m benchmarks.data.experiment`.

Trains a small GPT on real text by several *arms*: all of a budget or half of it, without help, with a curriculum, with
random layerwise token dropping, with both (arms.py); learning rates swept for every arm alike, several seeds. A run is
one arm with one learning rate and one seed. Finished runs are lines of a file, which can be copied elsewhere to go on
there; an unfinished one has a checkpoint. Killed and started again, the command goes on where it was.
"""
