import numpy as np
import pytest

from ttp_jax import data
from ttp_jax.types import InputError

LABELS = np.arange(200) % 10
NAMES = tuple("abcdefghij")


def choose(**options):
    return data.sample(LABELS, names=NAMES, **options)


def test_golden_choice():
    # Fixed numbers: what a seed chooses may never change, or records lose their meaning.
    got = choose(classes=3, per_class=4, seed=7)
    assert got.class_ids == (0, 1, 4)
    assert got.indices.tolist() == [80, 121, 14, 160, 171, 114, 40, 151, 134, 10, 161, 74]
    assert got.seed == 7


def test_balanced_renumbered_and_distinct():
    got = choose(classes=4, per_class=6, seed=1)
    np.testing.assert_array_equal(np.bincount(got.labels), [6] * 4)
    np.testing.assert_array_equal(np.array(got.class_ids)[got.labels], LABELS[got.indices])
    assert got.class_names == tuple(NAMES[k] for k in got.class_ids)
    assert list(got.class_ids) == sorted(got.class_ids)
    assert len(set(got.indices.tolist())) == 24


def test_same_seed_same_choice_other_seed_other():
    again = [choose(classes=4, per_class=6, seed=s) for s in (1, 1, 2)]
    np.testing.assert_array_equal(again[0].indices, again[1].indices)
    assert set(again[0].indices.tolist()) != set(again[2].indices.tolist())
    assert len({choose(classes=4, seed=s).class_ids for s in range(20)}) > 10


def test_classes_and_pictures_are_chosen_evenly():
    seeds = range(1000)
    picked = [choose(classes=2, per_class=5, seed=s) for s in seeds]
    classes = np.bincount([k for got in picked for k in got.class_ids], minlength=10)
    # Each class 200 times on average, standard deviation sqrt(1000 0.2 0.8) = 12.6.
    assert np.abs(classes - 200).max() < 4.5 * 12.6
    ones = [choose(classes=("d",), per_class=5, seed=s).indices for s in seeds]
    positions = np.bincount(np.concatenate(ones) // 10, minlength=20)
    # 5 of 20: 250 each on average, standard deviation sqrt(1000 0.25 0.75) = 13.7.
    assert np.abs(positions - 250).max() < 4.5 * 13.7


def test_order_goes_round_the_classes_and_nests():
    large = choose(classes=3, per_class=9, seed=5)
    small = choose(classes=3, per_class=4, seed=5)
    np.testing.assert_array_equal(large.labels, np.tile([0, 1, 2], 9))
    np.testing.assert_array_equal(large.indices[:12], small.indices)


def test_pictures_of_a_class_do_not_depend_on_the_others():
    alone = choose(classes=("c",), per_class=5, seed=3)
    among = choose(classes=("h", "c", 0), per_class=5, seed=3)
    assert among.class_names == ("h", "c", "a")
    assert among.class_ids == (7, 2, 0)
    np.testing.assert_array_equal(among.indices[among.labels == 1], alone.indices)


def test_all_classes_and_all_pictures():
    labels = np.array([2, 2, 0, 2, 0, 3])
    got = data.sample(labels)
    assert (got.class_ids, got.class_names) == ((0, 2, 3), ("0", "2", "3"))
    np.testing.assert_array_equal(np.sort(got.indices), np.arange(6))
    np.testing.assert_array_equal(got.labels, [0, 1, 2, 0, 1, 1])
    np.testing.assert_array_equal(np.array(got.class_ids)[got.labels], labels[got.indices])


def test_classes_without_pictures_are_not_drawn():
    labels = np.array([0, 4, 9, 9])
    for seed in range(20):
        assert data.sample(labels, classes=3, seed=seed, names=NAMES).class_ids == (0, 4, 9)


def test_names_win_over_numbers():
    got = data.sample(np.array([0, 1]), classes=("1",), names=("1", "0"))
    assert got.class_ids == (0,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": 11}, r"must lie in 1\.\.10 .* got 11"),
        ({"classes": 0}, "got 0"),
        ({"classes": ()}, "empty list"),
        ({"classes": ("a", "zebra")}, r"one of a, b, .* got 'zebra'"),
        ({"classes": (10,)}, r"\(or 0\.\.9\), got 10"),
        ({"classes": (-1,)}, "got -1"),
        ({"classes": ("a", 0)}, "'a' more than once"),
        ({"per_class": 0}, "at least 1, got 0"),
        ({"per_class": -3}, "at least 1, got -3"),
        ({"seed": -1}, "seed"),
        ({"per_class": 21}, "'a' has 20 and 9 more .* --per-class 20 or fewer"),
        ({"classes": ("b",), "per_class": 21}, "class 'b' has 20; pass --per-class 20"),
    ],
)
def test_impossible_choices(options, message):
    with pytest.raises(InputError, match=message) as error:
        choose(**options)
    assert "\n" not in str(error.value)


def test_too_few_says_which_classes_would_do():
    labels = np.array([0, 0, 0, 1, 2, 2, 2])
    with pytest.raises(InputError, match=r"'1' has 1; .* among the 2 classes") as error:
        data.sample(labels, per_class=2)
    assert "--per-class 1 or fewer" in str(error.value)
    with pytest.raises(InputError, match="class 'd' has 0; choose among the 2"):
        data.sample(labels, classes=("d",), per_class=2, names=NAMES)


def test_a_close_name_is_suggested():
    with pytest.raises(InputError, match="did you mean 'sunflower'"):
        data.sample(np.array([0, 1]), classes=("sunflwer",), names=("rose", "sunflower"))


def test_read_task_reads_what_was_sampled():
    digits = data.load("digits")
    task = data.read_task(digits, classes=("3", "8"), per_class=5, seed=2, image_size=16)
    assert task.images.shape == (10, 16, 16, 1)
    assert (task.source, task.split) == ("digits", "train")
    assert task.class_names == ("3", "8")
    np.testing.assert_array_equal(digits.labels[task.sample.indices], task.labels * 5 + 3)
    plain = data.read_task(digits, classes=("3", "8"), per_class=5, seed=2)
    np.testing.assert_array_equal(plain.images, digits.read(task.sample.indices))
    # The sum is of what is stored: the size it is read at does not enter.
    assert plain.sha256 == task.sha256
    other = data.read_task(digits, classes=("3", "8"), per_class=5, seed=3)
    assert plain.sha256 != other.sha256


def test_held_out_pictures_are_the_next_ones():
    alone = choose(classes=3, per_class=4, seed=5)
    got = choose(classes=3, per_class=4, held_out=2, seed=5)
    larger = choose(classes=3, per_class=6, seed=5)
    assert (alone.held_out, alone.trained) == (0, 12)
    assert (got.held_out, got.trained) == (6, 12)
    np.testing.assert_array_equal(got.indices[: got.trained], alone.indices)
    np.testing.assert_array_equal(got.indices, larger.indices)
    np.testing.assert_array_equal(np.bincount(got.labels[got.trained :]), [2] * 3)


def test_held_out_pictures_must_be_there():
    with pytest.raises(
        InputError, match=r"21 pictures \(6 held out\), class '.' has 20"
    ) as e:
        choose(classes=3, per_class=15, held_out=6)
    assert "lower --per-class or --held-out" in str(e.value)
    for wrong in ({"per_class": 3, "held_out": -1}, {"held_out": 2}):
        with pytest.raises(InputError, match="held-out pictures of each class must not"):
            choose(classes=3, **wrong)
