"""What the tests of the services of notebooks 06 and 08 share."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import yaml
from ray.serve.schema import ServeDeploySchema


def wait_for(condition: Callable[[], bool], seconds: float) -> None:
    """Look again and again, until the condition is true; fail after so many seconds."""
    end = time.time() + seconds
    while not condition():
        assert time.time() < end, f"not true after {seconds} seconds"
        time.sleep(0.05)


def valid_application(path: Path, service: ModuleType) -> dict:
    """The one application of a config file: valid, on this machine only, with the default settings of the module."""
    config = yaml.safe_load(path.read_text())
    schema = ServeDeploySchema.model_validate(config)
    assert schema.http_options.host == "127.0.0.1"
    (application,) = config["applications"]
    module, function = application["import_path"].split(":")
    assert module == service.__name__ and callable(getattr(service, function))
    assert service.Settings(**application["args"]) == service.Settings()
    return application
