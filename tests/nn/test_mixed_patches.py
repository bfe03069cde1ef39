import pytest
import torch

from marrow.core.errors import MarrowError
from marrow.nn.mixed_patches import beta, blended, mixed, pasted

GRID, SIDE, COUNT = (4, 3), 2, 6


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def numbered() -> torch.Tensor:
    """Every cell of every picture has a value of its own: picture + cell / 100."""
    cells = torch.arange(GRID[0] * GRID[1]).view(GRID).float() / 100
    image = cells.repeat_interleave(SIDE, 0).repeat_interleave(SIDE, 1)
    return (image + torch.arange(COUNT)[:, None, None])[:, None].repeat(1, 2, 1, 1)


def test_whole_cells_are_pasted_with_their_labels_from_elsewhere():
    moved = 0
    for seed in range(20):
        found = pasted(numbered(), torch.eye(COUNT), GRID, rng(seed))
        for k in range(COUNT):
            corner = found.image[k, :, ::SIDE, ::SIDE]
            whole = corner.repeat_interleave(SIDE, 1).repeat_interleave(SIDE, 2)
            assert torch.equal(whole, found.image[k]) and torch.equal(corner[0], corner[1])
            owner, cell = corner[0].long(), (corner[0] % 1 * 100).round().long()
            assert torch.equal(found.patch_shares[k].argmax(1), owner.flatten())
            assert set(owner.unique().tolist()) <= {k, COUNT - 1 - k}
            own = cell == torch.arange(GRID[0] * GRID[1]).view(GRID)
            assert own[owner == k].all()
            rows, columns = (owner != k).nonzero(as_tuple=True)
            if len(rows):  # one rectangle, moved as a whole
                assert len(rows) == (rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1)
                assert (cell - torch.arange(12).view(GRID))[owner != k].unique().numel() == 1
                moved += int(not own[owner != k].all())
            torch.testing.assert_close(found.shares[k, k], (owner == k).float().mean())
    assert moved > 20


def test_blended_pictures_share_their_labels_alike():
    found = blended(numbered(), torch.eye(COUNT), 12, rng())
    for k in range(COUNT):
        share = found.shares[k, k]
        torch.testing.assert_close(found.image[k], share * numbered()[k] + (1 - share) * numbered()[COUNT - 1 - k])
        assert torch.equal(found.patch_shares[k], found.shares[k].expand(12, -1))
    assert found.shares.diagonal().unique().numel() == COUNT


def test_half_is_pasted_and_half_is_blended_reproducibly():
    image = (torch.rand(5, 3, 8, 6, generator=rng()) * 255).byte()
    first, again, other = (mixed(image, torch.eye(5), GRID, rng(seed)) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, again)) and not torch.equal(first.image, other.image)
    assert first.image.shape == image.shape and 0 <= first.image.min() <= first.image.max() <= 1
    assert first.patch_shares.shape == (5, 12, 5)
    torch.testing.assert_close(first.shares.sum(1), torch.ones(5))
    assert set(first.patch_shares[:3].unique().tolist()) <= {0.0, 1.0}  # the half that is pasted into


def test_shares_are_those_of_the_beta_distribution():
    drawn = beta(0.8, 20_000, rng())
    assert drawn.mean() == pytest.approx(0.5, abs=0.01) and drawn.var() == pytest.approx(1 / (4 * 2.6), abs=0.003)


def test_pictures_without_equal_patches_are_refused():
    with pytest.raises(MarrowError, match="pictures of 9 x 6 have no 4 x 3 equal patches"):
        mixed(torch.rand(2, 3, 9, 6), torch.eye(2), GRID, rng())
