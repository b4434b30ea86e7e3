"""Loads the plugin that runs the notebooks; here, so that `pytest` finds it however it is started."""

pytest_plugins = ["tests.notebook_plugin"]
