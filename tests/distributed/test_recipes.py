"""Every recipe that comes with the project can be loaded, and says how it is run."""

import re
from pathlib import Path

import pytest

from distributed import recipe_file
from distributed.config import Recipe
from distributed.recipe_file import load_recipe


@pytest.mark.parametrize("path", sorted(recipe_file.RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_is_good_and_says_its_command(path: Path) -> None:
    recipe = load_recipe(path, [], Recipe)
    assert recipe.folder.name == recipe.name
    header = path.read_text().partition("\nname:")[0]
    assert "python -m distributed." in header or "make demo" in header
    assert not re.search("@[A-Z]+@", header)  # a place that was left for a figure
