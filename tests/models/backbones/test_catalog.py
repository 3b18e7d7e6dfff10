"""Backbones by name and by where their class is; names that lead nowhere get one line."""

import pytest

from models.backbones.catalog import BACKBONES, backbone
from models.backbones.video_language import VideoLanguageConfig
from models.errors import UserError


@pytest.mark.parametrize("name", BACKBONES)
def test_every_name_leads_to_a_configuration(name: str) -> None:
    found = backbone(name)
    assert issubclass(found, VideoLanguageConfig)
    assert found.model_fields["name"].default == name
    assert backbone(BACKBONES[name]) is found


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("violett", "no such backbone; there are violet, allinone, "),
        ("nowhere:Config", "cannot be imported"),
        (":Config", "cannot be imported"),
        ("..here:Config", "cannot be imported"),
        ("models.backbones.catalog:BACKBONES", "has no BACKBONES that is a whole VideoLanguageConfig"),
        ("models.backbones.video_language:VideoLanguageConfig", "that is a whole VideoLanguageConfig"),
        ("models.backbones.violet.config:", "that is a whole VideoLanguageConfig"),
    ],
)
def test_names_that_lead_nowhere(name: str, message: str) -> None:
    with pytest.raises(UserError, match=f"^model.name='{name}': .*{message}"):
        backbone(name)
