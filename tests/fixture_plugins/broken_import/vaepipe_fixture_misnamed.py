"""Its entry points name something that is not there, and something that is no class."""


def make_prior():
    """No class."""
