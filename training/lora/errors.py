"""What the user can put right."""


class LoraError(Exception):
    """A model, adapter or run that can't be used, said in one line."""
