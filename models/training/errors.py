"""Errors of the training script; each message says what to change."""


class TrainingError(Exception):
    """The model cannot be trained as asked."""


class CorpusError(TrainingError):
    """A domain has too little text on this machine."""
