"""merak's collectives beside Gloo's, in the same processes, against the lower bound of the wires (`bounds`)."""
