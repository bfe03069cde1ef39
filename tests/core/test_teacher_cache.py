"""The teacher cache: the same numbers as without it, and never an answer that belongs to something else."""

import io
import os
import resource
import shutil
import signal
import zlib

import pytest
import torch

from marrow.core import teacher_cache
from marrow.core.cache_fill import check_room
from marrow.core.cache_records import FLOAT16, LOG, TOP, TOP_LOG, WHOLE, Records, kinds
from marrow.core.engine import Engine
from marrow.core.errors import Interrupted, MarrowError
from marrow.core.loader import Data
from marrow.core.progress import Progress
from marrow.core.settings import Optim, Settings

from .engine_pieces import Cut, Learn, Pictures, SmallNet, Sort, Supervise, noisy

COUNT, BATCH = 30, 7


class Content(Pictures):
    """Pictures whose fraction is the hash of what they show, as a data set's is."""

    def fraction(self, index):
        return zlib.crc32(self.images[index].numpy().tobytes()) / 2**32


def learn(cls=Learn, **arguments):
    torch.manual_seed(2)
    return cls(Sort(SmallNet()), **arguments)


class Losses:
    def __init__(self):
        self.found = []

    def log(self, step, values):
        self.found.append(values["kl"])

    def close(self):
        pass


def train(method, cache=None, source=None, stream=None, **settings):
    """(losses of every step, the engine's history)."""
    losses = Losses()
    given = {"steps": 16, "batch": BATCH, "optim": {"main": Optim("sgd", 0.05)}, "cached_views": 2, "log_every": 1}
    engine = Engine(Settings(**{**given, **settings}), device="cpu", logger=losses, cache=cache,
                    progress=Progress("learn", stream) if stream else None)  # fmt: skip
    engine.train(method, Data({"train": source or Content(COUNT)}))
    return losses.found, engine.history


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def asked(*args, **kwargs):
    """For how many views the teacher was asked."""
    return train(*args, **kwargs)[1]["teacher_cache"]["asked"]


def files(folder):
    return sorted(folder.glob("*/*.rows"))


@pytest.mark.parametrize("more", [{}, {"micro_batch": 7, "batch": 14}, {"workers": 2}])
def test_losses_and_weights_are_those_of_the_run_that_asks_at_every_step(tmp_path, more):
    online, first, second = learn(), learn(), learn()
    wanted, _ = train(online, **(more | {"workers": 0}))
    assert online.asked == 16 * ([7, 7] if "micro_batch" in more else [7])
    assert train(first, tmp_path, **more)[0] == wanted
    assert same(first, online)
    assert first.asked == [7] * (1 + 2 * 5)  # a trial, then 30 pictures twice, in batches of the training's size
    found, history = train(second, tmp_path, **more)
    assert found == wanted and same(second, online)
    assert second.asked == [7]
    assert history["teacher_cache"] == {"rows": 2 * COUNT, "asked": 0}


def test_views_repeat_after_so_many_epochs_and_not_before():
    def seen(epoch, views):
        from marrow.core.loader import Examples

        examples = Examples({"train": Content(COUNT)}, Cut(), 0, True, views)
        return examples.__getitems__({"train": [(epoch, i) for i in range(COUNT)]})[0]["image"]

    assert torch.equal(seen(0, 3), seen(3, 3)) and torch.equal(seen(2, 3), seen(2, None))
    assert not torch.equal(seen(0, 3), seen(1, 3)) and not torch.equal(seen(3, None), seen(0, None))


def test_labels_make_no_difference_so_mixed_streams_share_what_is_stored(tmp_path):
    from marrow.data.combine import Joined, Unlabelled

    parts = [Content(20), Content(10, seed=1)]
    mixed = Joined([parts[0], Unlabelled(parts[1])])
    assert "label" not in mixed[0]
    wanted, _ = train(learn(), source=mixed)
    assert train(learn(), tmp_path, mixed)[0] == wanted
    assert asked(learn(), tmp_path, Joined(parts)) == 0


def other_teacher(method):
    with torch.no_grad():
        next(method.teacher.module.parameters())[0] += 1e-3
    return method


def other_buffer(method):
    method.teacher.module.backbone.net[1].running_mean += 1e-3
    return method


def changed_image():
    source = Content(COUNT)
    source.images[COUNT - 1, 0, 0, 0] += 1
    return source


@pytest.mark.parametrize("change", [
    {"method": lambda: other_teacher(learn())},
    {"method": lambda: other_buffer(learn())},
    {"method": lambda: learn(view=Cut(5))},
    {"method": lambda: learn(view=noisy)},
    {"source": changed_image},
    {"seed": 1},
    {"precision": "bf16-mixed"},
])  # fmt: skip
def test_whatever_changes_an_answer_is_asked_anew(tmp_path, change):
    train(learn(), tmp_path)
    before = {f: f.read_bytes() for f in files(tmp_path)}
    method, source = change.pop("method", learn), change.pop("source", lambda: Content(COUNT))
    wanted, _ = train(method(), source=source(), **change)
    found, history = train(method(), tmp_path, source(), **change)
    assert found == wanted
    assert history["teacher_cache"]["asked"] == 2 * COUNT
    assert all(f.read_bytes() == content for f, content in before.items())  # what was there is left alone


def test_more_views_are_added_to_those_that_are_there(tmp_path):
    assert asked(learn(), tmp_path, cached_views=2, steps=16) == 2 * COUNT
    wanted, _ = train(learn(), cached_views=3, steps=16)
    found, history = train(learn(), tmp_path, cached_views=3, steps=16)
    assert found == wanted
    assert history["teacher_cache"] == {"rows": 3 * COUNT, "asked": COUNT}


def test_only_views_that_the_training_comes_to_are_stored(tmp_path):
    assert asked(learn(), tmp_path, cached_views=50, steps=5) == 2 * COUNT  # 35 of 30 examples
    # 28 of 30; the workers read ahead, into a view that is not there and that nobody asks for.
    assert asked(learn(view=Cut(5)), tmp_path, cached_views=50, steps=4, workers=2) == COUNT


def test_a_changed_image_costs_its_own_part_only(tmp_path):
    count = teacher_cache.ROWS + 200
    assert asked(learn(), tmp_path, Content(count), steps=2, batch=64, cached_views=1) == count
    source = Content(count)
    source.images[-1, 0, 0, 0] += 1
    assert asked(learn(), tmp_path, source, steps=2, batch=64, cached_views=1) == 200


@pytest.mark.parametrize("harm", ["a flipped bit", "cut off", "another's"])
def test_damage_is_found_said_and_mended(tmp_path, harm):
    wanted, _ = train(learn(), tmp_path)
    first, second = files(tmp_path)
    whole = first.read_bytes()
    if harm == "a flipped bit":
        first.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
    elif harm == "cut off":
        first.write_bytes(whole[:-1])
    else:
        shutil.copy(second, first)
    words = io.StringIO()
    found, history = train(learn(), tmp_path, stream=words)
    assert found == wanted and first.read_bytes() == whole
    assert history["teacher_cache"]["asked"] == COUNT
    assert f"{first.name} of the teacher's stored outputs is damaged and made again" in words.getvalue()


class Sudden(Content):
    """Something happens when an example is read for the so-many-th time."""

    def __init__(self, count, at, what):
        super().__init__(count)
        self.at, self.what = at, what

    def __getitem__(self, index):
        self.at -= 1
        if self.at == 0:
            self.what()
        return super().__getitem__(index)


def term():
    os.kill(os.getpid(), signal.SIGTERM)


def test_an_interrupted_filling_goes_on_with_what_is_missing(tmp_path):
    count = 2 * teacher_cache.ROWS
    settings = {"steps": 3, "batch": 64, "cached_views": 1}
    with pytest.raises(Interrupted, match="while the teacher's outputs were stored"):
        train(learn(), tmp_path, Sudden(count, teacher_cache.ROWS + 300, term), **settings)
    assert len(files(tmp_path)) == 1 and not list(tmp_path.glob("*/*.part"))
    wanted, _ = train(learn(), source=Content(count), **settings)
    found, history = train(learn(), tmp_path, Content(count), **settings)
    assert found == wanted
    assert history["teacher_cache"] == {"rows": count, "asked": count // 2}


def test_a_full_disk_is_one_sentence_and_what_is_stored_stays(tmp_path):
    """The system refuses files above a size, as it would refuse all on a full disk."""
    limits, count = resource.getrlimit(resource.RLIMIT_FSIZE), 2 * teacher_cache.ROWS
    source = Sudden(count, teacher_cache.ROWS + 300, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (9, limits[1])))
    with pytest.raises(MarrowError, match=r"cannot be stored \(File too large\); what is stored stays. Make room"):
        try:
            train(learn(), tmp_path, source, steps=2, batch=64, cached_views=1)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len(files(tmp_path)) == 1 and not list(tmp_path.glob("*/*.part"))
    assert asked(learn(), tmp_path, Content(count), steps=2, batch=64, cached_views=1) == count // 2


class Until:
    """A logger that sends this process SIGTERM after a step."""

    def __init__(self, step):
        self.step = step

    def log(self, step, values):
        if step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)

    def close(self):
        pass


def test_resume_equals_uninterrupted(tmp_path):
    wanted = learn()
    train(wanted, tmp_path / "one")
    settings = Settings(steps=16, batch=BATCH, optim={"main": Optim("sgd", 0.05)}, cached_views=2, log_every=1)
    data = Data({"train": Content(COUNT)})
    for logger, ends in ((Until(9), Interrupted), (None, None)):
        method = learn()
        engine = Engine(settings, device="cpu", checkpoint=tmp_path / "c.pt", resume=True, logger=logger,
                        cache=tmp_path / "two")  # fmt: skip
        if ends:
            with pytest.raises(ends):
                engine.train(method, data)
            for file in files(tmp_path / "two"):
                file.unlink()  # and they come back the same
        else:
            engine.train(method, data)
    assert same(method, wanted)


def test_unreadable_examples_are_replaced_as_without_the_cache(tmp_path):
    class Broken(Content):
        pass

    source = Broken(COUNT, broken={3, 4, COUNT - 1})
    wanted, _ = train(learn(), source=source)
    assert train(learn(), tmp_path, source)[0] == wanted
    with pytest.raises(MarrowError, match="example .* of 'train' was readable when the teacher's outputs were stored"):
        train(learn(), tmp_path, Broken(COUNT, broken={3, 4, 11, COUNT - 1}))


@pytest.mark.parametrize("output, most", [("logits", 2 * 1500 + 5), ("top_logits", 4 * TOP + 9)])
def test_of_many_logits_half_precision_keeps_the_loss_within_a_thousandth(tmp_path, output, most):
    arguments = {"outputs": 1500, "sure": 300, "output": output}
    wanted, _ = train(learn(**arguments))
    found, _ = train(learn(**arguments), tmp_path)
    assert found != wanted
    assert found == pytest.approx(wanted, rel=1e-3)
    assert [f.stat().st_size for f in files(tmp_path)] == [teacher_cache.CHECKSUM + COUNT * most] * 2


def test_an_unsure_teacher_is_kept_whole():
    torch.manual_seed(0)
    logits = torch.randn(8, 3000)
    assert kinds({"top_logits": 12 * logits}) == {"top_logits": (TOP_LOG, 3000)}
    assert kinds({"top_logits": 3 * logits}) == {"top_logits": (LOG, 3000)}
    assert kinds({"other": logits}) == {"other": (FLOAT16, 3000)}


@pytest.mark.parametrize("scale", [1.0, 4.0, 12.0])
def test_log_probabilities_in_half_precision_keep_both_directions_of_the_divergence(scale):
    torch.manual_seed(0)
    teacher = scale * torch.randn(8, 4000)
    records = Records({"logits": (LOG, 4000)})
    kept = records.decode(records.encode({"logits": teacher}))["logits"]

    def symmetric(a, b):
        p, q = a.softmax(1), b.softmax(1)
        return ((p - q) * (a.log_softmax(1) - b.log_softmax(1))).sum(1).mean()

    for student in (torch.zeros(8, 4000), 0.9 * teacher + 0.3 * torch.randn(8, 4000)):
        torch.testing.assert_close(symmetric(student, kept), symmetric(student, teacher), rtol=1e-3, atol=0)


def test_records_give_back_what_they_hold():
    torch.manual_seed(0)
    given = {
        "top_logits": 9 * torch.randn(5, 4000),
        "features": torch.randn(5, WHOLE + 1),
        "few": torch.randn(5, WHOLE),
    }
    records = Records(kinds(given))
    back = records.decode(records.encode(given))
    assert torch.equal(back["few"], given["few"])
    torch.testing.assert_close(back["features"], given["features"], rtol=1e-3, atol=1e-6)
    p, q = given["top_logits"].softmax(1), back["top_logits"].softmax(1)
    top = p.topk(TOP).indices
    torch.testing.assert_close(q.gather(1, top), p.gather(1, top), rtol=1e-2, atol=0)
    torch.testing.assert_close(back["top_logits"].logsumexp(1), given["top_logits"].logsumexp(1), rtol=1e-3, atol=0)
    rest = q.scatter(1, top, 0.0)
    torch.testing.assert_close(rest.sum(1), p.scatter(1, top, 0.0).sum(1), rtol=1e-2, atol=0)
    assert torch.equal(rest.amax(1), rest.topk(4000 - TOP).values[:, -1])  # they share it alike


def test_what_float16_cannot_hold_is_refused():
    with pytest.raises(MarrowError, match="'features' reaches 70000, more than float16 holds"):
        Records({"features": (FLOAT16, 2000)}).encode({"features": torch.full((1, 2000), 7e4)})
    with pytest.raises(MarrowError, match="the teacher's 'logits' is not finite"):
        Records({"logits": (LOG, 3)}).encode({"logits": torch.tensor([[0.0, torch.nan, 1.0]])})


class Maps(Learn):
    def targets(self, batch):
        return {"map": batch["image"].float()}


@pytest.mark.parametrize("method, words", [
    (lambda: Supervise(Sort(SmallNet())), "Supervise asks no frozen teacher, so there is nothing to store"),
    (lambda: learn(batch_stats=True), "the teacher uses the statistics of each batch"),
    (lambda: learn(view=lambda example: example), "the view holds a function, whose parameters are not known"),
    (lambda: learn(Maps), "the teacher's 'map' has 3 x 8 x 8 values an example, and only vectors are stored"),
])  # fmt: skip
def test_what_cannot_be_stored_is_refused(tmp_path, method, words):
    with pytest.raises(MarrowError, match=words):
        train(method(), tmp_path)
    assert not files(tmp_path)


def test_another_answer_of_the_same_teacher_is_noticed(tmp_path):
    """The last guard: a method whose answer changed by something that is not part of the key."""
    train(learn(), tmp_path)

    class Shifted(Learn):
        def targets(self, batch):
            return {"logits": super().targets(batch)["logits"].roll(1, 1)}

    with pytest.raises(MarrowError, match="the stored 'logits' is not what the teacher says now.*Delete this folder"):
        train(learn(Shifted), tmp_path)


def test_a_folder_that_says_something_else_is_refused(tmp_path):
    train(learn(), tmp_path)
    (about,) = tmp_path.glob("*/about.json")
    about.write_text(about.read_text().replace('"format": 1', '"format": 0'))
    with pytest.raises(MarrowError, match="about.json is not that of this teacher"):
        train(learn(), tmp_path)


def test_a_folder_that_cannot_be_written_is_said_in_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MarrowError, match=r"outputs cannot be stored \(Not a directory\).*MARROW_CACHE"):
        train(learn(), tmp_path / "file")


def test_too_little_room_names_both_numbers(tmp_path):
    need = shutil.disk_usage(tmp_path).free + 2 * 10**9
    with pytest.raises(MarrowError, match=r"for 4 views an image take [\d.]+ GB more, and [\d.]+ GB are free.*Lower"):
        check_room(need, tmp_path, 4)
    check_room(10, tmp_path, 4)
