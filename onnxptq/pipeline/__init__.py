"""The pipeline: the stages of a run as functions from one frozen value to the next."""
