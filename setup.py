"""Which packages a wheel holds; pyproject.toml, where all else stands, cannot add a folder to those that are found."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages("src"), "dress.configs", "hydra_plugins.dress_sweeper"],
    package_dir={"": "src", "dress.configs": "configs"},
)
