import pytest
import torch

from marrow.core.errors import MarrowError
from marrow.data import open_source
from marrow.data.combine import Joined, Subset

SOME = {"images": "digits", "split": "val"}


def test_a_picture_and_its_partner_are_averaged_and_the_label_stays():
    base, other = open_source(SOME), open_source({"images": "digits", "split": "test"})
    blended = open_source({**SOME, "blend": {"images": "digits", "split": "test"}})
    partner = blended.partner(5)
    mean = (base[5]["image"].int() + other[partner]["image"]) // 2
    assert torch.equal(blended[5]["image"].int(), mean)
    assert blended[5]["label"] == base[5]["label"] == blended.label(5)
    assert blended.name(5) == f"{base.name(5)} + {other.name(partner)}"
    assert torch.equal(blended.undecoded(5)["image"], blended[5]["image"]) and blended.stored(5) is None
    partners = {blended.partner(i) for i in range(len(blended))}
    assert len(partners) > len(other) / 3


def test_what_lies_underneath_is_known_through_all_that_is_made_of_it():
    base = open_source(SOME)
    for keys in ({"blend": "black"}, {"blend": SOME}, {"blend": SOME, "turned": 1, "labels": False, "domain": "a"}):
        blended = open_source(SOME | keys)
        assert [blended.underneath(i) for i in range(9)] == [base.fraction(i) for i in range(9)]
        assert blended.fraction(0) != base.fraction(0)
    joined = Joined([Subset(open_source(SOME | {"blend": "black"}), [5]), base])
    assert [joined.underneath(i) for i in range(2)] == [base.fraction(5), base.fraction(0)]


def test_a_picture_is_left_out_where_others_lie_over_it_too():
    low = SOME | {"hash": [0.0, 0.5]}
    for other in (low, low | {"blend": "black"}, low | {"blend": SOME}):
        assert len(open_source(SOME | {"without": [other]})) == len(open_source(SOME | {"hash": [0.5, 1.0]}))


def test_pictures_and_videos_are_not_laid_over_each_other():
    videos = {"images": "moving_digits", "split": "val"}
    for base, other, words in (
        (SOME, videos, "is a picture and 'moving_digits/.*' a video of .* frames"),
        (videos, SOME, "is a video of .* frames and 'digits/.*' a picture"),
    ):
        with pytest.raises(MarrowError, match=f"^data.blend: '.*' {words}, which cannot be blended"):
            open_source({**base, "blend": other})[0]
    assert open_source({**videos, "blend": videos})[0]["image"].ndim == 4


def test_black_halves_a_picture():
    base, darker = open_source(SOME), open_source({**SOME, "blend": "black"})
    assert torch.equal(darker[0]["image"], base[0]["image"] // 2)
    assert darker.fraction(0) != base.fraction(0)


def test_another_salt_draws_other_partners():
    pairs = [open_source({**SOME, "blend": SOME, "salt": salt}) for salt in (0, 0, 1)]
    drawn = [[source.partner(i) for i in range(20)] for source in pairs]
    assert drawn[0] == drawn[1] != drawn[2]
    assert pairs[0].fingerprint() == pairs[1].fingerprint() != pairs[2].fingerprint()


def test_a_quarter_of_a_turn():
    base, turned = open_source(SOME), open_source({**SOME, "turned": 1})
    assert torch.equal(turned[0]["image"], torch.rot90(base[0]["image"], 1, (1, 2)))
    assert torch.equal(turned[0]["image"][:, 0, :], base[0]["image"][:, :, -1])  # what was at the right is at the top
    assert turned.label(0) == base.label(0)


def test_unlabelled_where_asked():
    assert "label" not in open_source({**SOME, "blend": SOME, "labels": False})[0]


def test_wrong_values_are_named():
    with pytest.raises(MarrowError, match="^data.blend: black or a source is needed, got 'white'"):
        open_source({**SOME, "blend": "white"})
    with pytest.raises(MarrowError, match=r"blend.image: unknown key 'image'; did you mean 'images'"):
        open_source({**SOME, "blend": {"image": "digits"}})
    with pytest.raises(MarrowError, match="turned: 1, 2 or 3 quarters of a turn is needed, got 4"):
        open_source({**SOME, "turned": 4})
