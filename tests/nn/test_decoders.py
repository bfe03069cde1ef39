import pytest
import torch

from marrow.core.errors import MarrowError
from marrow.nn.deeplab import DeepLab
from marrow.nn.semantic_fpn import SemanticFPN

CHANNELS, STRIDES = (8, 12, 16, 20), (4.0, 8.0, 16.0, 32.0)


def maps(height: int, width: int) -> list[torch.Tensor]:
    """As a net with padding makes them: an odd size is rounded up."""
    return [torch.randn(2, c, -(-height // int(s)), -(-width // int(s)), requires_grad=True)
            for c, s in zip(CHANNELS, STRIDES)]  # fmt: skip


@pytest.mark.parametrize("size", [(64, 64), (60, 92), (32, 40)])
@pytest.mark.parametrize("decoder", [SemanticFPN, DeepLab])
def test_any_size_gives_the_size_of_the_finest_map(decoder, size):
    given = maps(*size)
    assert decoder(CHANNELS, STRIDES, 5, 16)(given).shape == (2, 5, *given[0].shape[-2:])


@pytest.mark.parametrize(("decoder", "read"), [(SemanticFPN, [0, 1, 2, 3]), (DeepLab, [0, 3])])
def test_which_maps_are_read(decoder, read):
    given = maps(64, 64)
    decoder(CHANNELS, STRIDES, 5, 16)(given).square().sum().backward()
    assert [i for i, m in enumerate(given) if m.grad is not None and m.grad.any()] == read


def test_fpn_levels_go_up_by_as_many_blocks_as_doublings():
    decoder = SemanticFPN(CHANNELS, STRIDES, 5, 16)
    assert [len(branch) for branch in decoder.branches] == [1, 1, 2, 3]


def test_fpn_brings_coarse_maps_to_a_quarter():
    single = SemanticFPN((8,), (16.0,), 5, 16)
    assert len(single.branches[0]) == 2
    assert single([torch.randn(1, 8, 4, 6)]).shape == (1, 5, 16, 24)


def test_deeplab_rates_cover_as_much_of_the_picture_at_any_stride():
    def rates(stride: float) -> list[int]:
        return [branch[0].dilation[0] for branch in DeepLab((8, 16), (4.0, stride), 5, 16).atrous]

    assert rates(16.0) == [1, 6, 12, 18] and rates(8.0) == [1, 12, 24, 36] and rates(32.0) == [1, 3, 6, 9]


def test_deeplab_trains_on_one_image_and_refuses_one_map():
    DeepLab((8, 16), (4.0, 16.0), 5, 16).train()([torch.randn(1, 8, 16, 16), torch.randn(1, 16, 4, 4)])
    with pytest.raises(MarrowError, match="maps of one stride"):
        DeepLab((8,), (16.0,), 5, 16)


@pytest.mark.parametrize("width", [8, 16, 32, 48])
def test_fpn_reads_a_map_of_one_pixel_alone_as_among_others(width):
    decoder, given = SemanticFPN((8, 16), (4.0, 32.0), 5, width), [torch.randn(2, 8, 8, 8), torch.randn(2, 16, 1, 1)]
    both, one = decoder(given), decoder([m[:1] for m in given])
    torch.testing.assert_close(one, both[:1])
