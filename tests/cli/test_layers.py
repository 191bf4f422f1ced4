"""`atlas layers` lists the layers of a published network without downloading its weights."""

import pytest
import torch

from layer_atlas.cli import commands


@pytest.mark.parametrize("name", ["squeezenet1_1", "timm/resnet18"])
def test_layers_need_no_download(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("weights were downloaded")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    assert commands.main(["layers", f"models=[{name}]"]) == 0
    assert "Conv2d" in capsys.readouterr().out
