"""What the networks see, and tiles without seams: against the network on the whole image."""

import pytest
import torch
from torch import nn

from noiseflow.denoise import NETWORKS, DnCNN, NAFNet, UNet, denoise, denoise_whole
from noiseflow.denoise.apply import pad_to_multiple
from noiseflow.files import load_denoiser, save
from noiseflow.shot import Shot


def randomised(network, seed=0):
    """In inference mode, float64, no weight at zero: the last layer and the scales of NAFNet start there."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    return network.double().eval()


def summing(network):
    """The same layers with positive weights and nothing that hides a path: what an output sees is what it sums."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.MaxPool2d):
                setattr(module, name, nn.AvgPool2d(2))
            elif isinstance(child, nn.ReLU | nn.LeakyReLU | nn.BatchNorm2d):
                setattr(module, name, nn.Identity())
            elif isinstance(child, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.constant_(child.weight, 0.1)
                if child.bias is not None:
                    nn.init.zeros_(child.bias)
    return network.double().eval()


def seen_from(network, rows, width, places):
    """First and last row that an output pixel's gradient reaches, relative to it, for some rows of a tall image."""
    noisy = torch.rand(1, 1, rows, width, dtype=next(network.parameters()).dtype, requires_grad=True)
    found = network(noisy)
    ends = []
    for place in places:
        (slope,) = torch.autograd.grad(found[0, 0, place, width // 2] / found.max().detach(), noisy, retain_graph=True)
        reached = slope.abs().sum(dim=(0, 1, 3)).nonzero().flatten()
        ends.append((int(reached.min()) - place, int(reached.max()) - place))
    return ends


def test_reach_of_dncnn_by_autograd():
    assert seen_from(summing(DnCNN(1, 2, 5)), 24, 8, [12]) == [(-5, 5)]
    assert DnCNN(1, 2, 5).reach == 5


def test_reach_of_unet_by_autograd():
    """How far a pixel sees depends on its place in a cell of 32; the reach is the furthest of all."""
    network = summing(UNet(1)).float()
    places = (0, 13, 31)
    for place, ends in zip(places, seen_from(network, 448, 32, [224 + place for place in places]), strict=True):
        low, high = network._seen_from(place)
        assert ends == (low - place, high - place)
    assert network.reach == max(max(p - network._seen_from(p)[0], network._seen_from(p)[1] - p) for p in range(32))


def test_reach_of_nafnet_by_autograd():
    network = randomised(NAFNet(1, width=2))
    ends = seen_from(network, 224, 8, range(112, 116))
    assert max(max(-low, high) for low, high in ends) == network.reach


CASES = [(DnCNN(4, 8, 5), (75, 61), 16), (NAFNet(4, 4), (230, 21), 12), (UNet(1), (550, 40), 96)]


@pytest.mark.parametrize("network, size, tile", CASES, ids=lambda case: type(case).__name__)
def test_tiles_have_no_seams(network, size, tile):
    network = randomised(network)
    if isinstance(network, UNet):
        network.float().to(memory_format=torch.channels_last)  # float64 takes a minute
    dtype = next(network.parameters()).dtype
    noisy = torch.rand(1, network.channels, *size, dtype=dtype, generator=torch.Generator().manual_seed(1))
    shot = Shot.of(noisy, camera="a", iso=100)
    with torch.no_grad():
        whole = denoise(network, pad_to_multiple(noisy, network.size_multiple), shot)[..., : size[0], : size[1]]
        naive = denoise(network, pad_to_multiple(noisy[..., :tile, :], network.size_multiple), shot)[..., :tile, :]
    found = denoise_whole(network, noisy, shot, tile=tile)
    # about thirty layers, each a sum of a few hundred products in another order
    assert (found - whole).abs().max() < 1e4 * torch.finfo(dtype).eps * whole.abs().max()
    assert (naive[..., : size[1]] - whole[..., :tile, :]).abs().max() > 1e-2 * whole.abs().max()  # overlap is needed


def test_one_tile_is_the_whole_image():
    network = randomised(DnCNN(3, 4, 3)).float()
    noisy = torch.rand(1, 3, 20, 30)
    shot = Shot.of(noisy, camera="a", iso=100)
    assert torch.equal(denoise_whole(network, noisy, shot), network(noisy).detach())
    with pytest.raises(ValueError, match="tile: expected 1 or more"):
        denoise_whole(network, noisy, shot, tile=-5)


def test_nafnet_starts_as_the_identity_and_learns_from_there():
    network = NAFNet(4, width=4)
    noisy = torch.rand(2, 4, 16, 16)
    assert torch.equal(network(noisy), noisy)
    network(noisy).square().mean().backward()
    assert network.leave.weight.grad.abs().max() > 0


def test_window_mean_is_the_mean_of_the_part_inside():
    from noiseflow.denoise.networks import _window_mean

    x = torch.rand(1, 2, 9, 7, dtype=torch.float64)
    for row, column in ((0, 0), (4, 3), (8, 6), (1, 5)):
        part = x[..., max(0, row - 3) : row + 4, max(0, column - 3) : column + 4]
        assert torch.allclose(_window_mean(x, 3)[..., row, column], part.mean(dim=(2, 3)), rtol=1e-13)


@pytest.mark.parametrize("name", NETWORKS)
def test_saved_and_loaded(name, tmp_path):
    network = NETWORKS[name](3).eval()
    save(network, tmp_path / "denoiser.safetensors")
    noisy = torch.rand(1, 3, 32, 32)
    assert torch.equal(load_denoiser(tmp_path)(noisy), network(noisy))


def test_sides_that_do_not_divide():
    with pytest.raises(ValueError, match="divide by 4, got 8×6"):
        NAFNet(1, 2)(torch.rand(1, 1, 8, 6))
    with pytest.raises(ValueError, match="width: expected at least 1"):
        NAFNet(1, 0)
