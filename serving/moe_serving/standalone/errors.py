"""What ends ``moe-serve``, each with the exit code that scripts can tell apart."""

from moe_serving.errors import MoEServingError


class StandaloneError(MoEServingError):
    """Something did not work; the message says what and what to do."""

    exit_code = 1


class UsageError(StandaloneError):
    """The arguments or the model cannot work; nothing was started."""

    exit_code = 2
