"""The two ways this package refuses: a model folder it cannot use, a merge it cannot make."""


class CheckpointError(ValueError):
    """A model folder cannot be used; the message names the folder or file and says what to do."""


class MergeError(ValueError):
    """A recipe cannot be carried out; the message names the group, setting or tensor."""
