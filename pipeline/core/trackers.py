"""The packages that follow a training elsewhere (`train.report_to`): none of them comes along."""

from importlib.util import find_spec

from pipeline.core.errors import UserError

PACKAGES = {"mlflow": ("mlflow",), "wandb": ("wandb",), "tensorboard": ("tensorboard", "tensorboardX")}
"""What follows a training → the packages of which it needs one."""


def require(name: str) -> None:
    """See that what follows a training is installed; `none` always is.

    Raises:
        UserError: it is not.
    """
    packages = PACKAGES.get(name, ())
    if packages and not any(map(find_spec, packages)):
        raise UserError(f"{name}: the package {packages[0]} is not installed; pip install {packages[0]}, or set none")
