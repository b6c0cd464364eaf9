"""The base of every spec about evaluation: frozen, strict about keys, keeping the order it was given."""

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """A value that is checked once, when it is made, and trusted afterwards."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
