"""The room `planner`: which plan trains a model fastest on a cluster."""
