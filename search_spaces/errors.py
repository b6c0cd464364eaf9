"""How a search space refuses: with the rule, the value met, and what to do next."""


class SpaceError(ValueError):
    """A space does not fit the model, or parameters do not fit the space."""
