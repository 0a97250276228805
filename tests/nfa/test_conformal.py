"""The guarantee of the held-out specimens: exact on hand-made specimens, kept on random ones."""

import json
import math

import numpy as np
import pytest

from napari_uflow.nfa.conformal import ConformalOffset, HeldOutSpecimen, specimens_needed


def specimens(*lowest):
    """One image per specimen with one region each (None: no region)."""
    return ConformalOffset(
        tuple(HeldOutSpecimen(f"f{i}", ((),) if v is None else ((v,),)) for i, v in enumerate(lowest))
    )


def test_thresholds_of_four_fields():
    """Regions at -1, 0, 1, 2; the loss is bounded by 1 up to epsilon = 1/3: (number below + 1) / 5 <= epsilon."""
    offset = specimens(-1.0, 0.0, 1.0, 2.0)
    assert offset.smallest_guaranteed == 0.2
    assert -1.001 < offset.threshold(0.2) < -1
    assert -1.001 < offset.threshold(0.33) < -1
    assert offset.observed(0.2) == 0
    # epsilon = 1: bound 3, (number below + 3) / 5 <= 1: two of them
    assert 0.999 < offset.threshold(1.0) < 1
    assert offset.observed(1.0) == 0.5
    # epsilon = 10: bound 30, (number below + 30) / 5 <= 10
    assert offset.threshold(10.0) == 3


def test_below_the_smallest_guarantee_a_decade_is_a_decade():
    # the nominal law is stricter than the specimens: their threshold, continued
    assert specimens(-5.0, 0.0, 1.0, 2.0).threshold(0.02) == pytest.approx(-6)
    # it asks for more: the nominal law
    assert specimens(1.0, 1.0, 1.0, 2.0).threshold(0.02) == pytest.approx(math.log10(0.02))


def test_without_specimens_nominal_is_all_there_is():
    offset = ConformalOffset()
    assert offset.threshold(0.1) == -1
    np.testing.assert_array_equal(offset.guaranteed(np.array([-3.0, 0.5])), [-3.0, 0.5])
    assert math.isnan(offset.observed(1.0))


@pytest.mark.parametrize("n", [1, 2])
def test_one_or_two_specimens_guarantee_nothing_and_can_only_make_it_stricter(n):
    assert specimens(*[-4.0] * n).smallest_guaranteed == math.inf
    assert specimens(*[-4.0] * n).threshold(1.0) < -4
    assert specimens(*[2.0] * n).threshold(1.0) == 0
    assert specimens(*[None] * n).threshold(1.0) == 0


def test_specimens_without_regions():
    offset = specimens(None, None, None, None)
    assert offset.threshold(0.2) == 3
    assert offset.threshold(0.1) == -1


@pytest.mark.parametrize(
    ("false_alarms", "needed"), [(0.01, 99), (0.1, 9), (0.05, 19), (0.2, 4), (0.25, 3), (1, 3), (10, 3)]
)
def test_specimens_needed(false_alarms, needed):
    assert specimens_needed(false_alarms) == needed
    offset = specimens(*np.linspace(-3, 2, needed))
    assert offset.smallest_guaranteed <= false_alarms * (1 + 1e-9)


@pytest.mark.parametrize("epsilon", [0.01, 0.02, 0.05, 0.1, 0.2, 0.25])
def test_just_enough_specimens_are_enough(epsilon):
    """A region just below all of the held-out ones is reported at the smallest guarantee, through float32 too."""
    offset = specimens(*np.linspace(-3, 2, specimens_needed(epsilon)))
    guaranteed = offset.guaranteed(np.array([-3.01, -2.99]))
    assert (guaranteed <= math.log10(epsilon)).tolist() == [True, False]
    assert (guaranteed.astype(np.float32) <= math.log10(epsilon)).tolist() == [True, False]


def test_thresholds_never_fall_with_epsilon():
    rng = np.random.default_rng(0)
    for n in (1, 2, 5, 30):
        offset = specimens(*rng.normal(size=n))
        thresholds = [offset.threshold(e) for e in np.geomspace(1e-4, 10, 200)]
        assert (np.diff(thresholds) >= -1e-12).all()


@pytest.mark.parametrize("n", [1, 2, 5, 30])
def test_a_threshold_on_guaranteed_values_is_the_threshold_on_nominal_ones(n):
    rng = np.random.default_rng(n)
    offset = specimens(*rng.normal(size=n))
    values = rng.uniform(-8, 4, 500)
    guaranteed = offset.guaranteed(values)
    for epsilon in (0.001, 0.01, 0.1, 0.5, 1.0, 10.0):
        reported = values <= offset.threshold(epsilon)
        wrong = reported != (guaranteed <= math.log10(epsilon))
        # where no guarantee holds the curve is a row of steps of 0.01
        assert wrong.mean() < 0.01
        assert (np.abs(values[wrong] - offset.threshold(epsilon)) < 0.011).all()


@pytest.mark.parametrize("seed", range(30))
def test_guaranteed_values_keep_the_order_with_several_images_in_a_specimen(seed):
    """Guarantees differ by as little as 1 / (n + 1) over the images of a specimen."""
    rng = np.random.default_rng(seed)
    offset = ConformalOffset(
        tuple(
            HeldOutSpecimen(str(i), tuple(tuple(np.sort(rng.normal(-1, 1, rng.poisson(4)))) for _ in range(7)))
            for i in range(rng.integers(3, 40))
        )
    )
    values = np.sort(rng.uniform(-6, 3, 2000))
    guaranteed = offset.guaranteed(values)
    assert (np.diff(guaranteed) >= 0).all()
    for epsilon in (0.05, 0.1, 0.3, 1.0):
        reported = values[guaranteed <= math.log10(epsilon)]
        # within 0.5 %: what is reported at epsilon is guaranteed for 1.005 times as many
        assert reported.max(initial=-9) <= offset.threshold(1.005 * epsilon) + 1e-9


def test_many_specimens_need_little_time(monkeypatch):
    """The threshold is found by halving, not by looking at every region for every number of false alarms."""
    rng = np.random.default_rng(0)
    offset = ConformalOffset(tuple(HeldOutSpecimen(str(i), (tuple(np.sort(rng.normal(size=40))),)) for i in range(400)))
    n_counts = []
    loss = ConformalOffset._loss

    def watched(self, counts, bound):
        n_counts.append(counts.size)
        return loss(self, counts, bound)

    monkeypatch.setattr(ConformalOffset, "_loss", watched)
    offset.guaranteed(np.zeros(1))
    assert sum(n_counts) < 400 * (16_001 + 2000 * 20)


def test_guaranteed_values_keep_the_order():
    offset = specimens(-1.0, 0.0, 1.0, 2.0)
    values = np.sort(np.random.default_rng(0).uniform(-300, 3, 1000))
    guaranteed = offset.guaranteed(values)
    assert (np.diff(guaranteed) > 0).all()
    # far below a decade is a decade; what four specimens guarantee for 0.2 lies at -1
    assert offset.guaranteed(np.array([-100.0])) == pytest.approx(-99 + math.log10(0.2), abs=0.02)


def test_the_guarantee_holds_for_every_distribution():
    """Scores from a law that has nothing to do with the nominal one; an average over many sets of specimens."""
    rng = np.random.default_rng(0)
    n_sets, n_specimens, n_new = 300, 20, 50
    for epsilon in (0.05, 0.1, 0.3):
        any_false = 0
        for _ in range(n_sets):
            offset = specimens(*rng.standard_t(2, n_specimens) * 3 - 4)
            any_false += (rng.standard_t(2, n_new) * 3 - 4 <= offset.threshold(epsilon)).sum()
        n = n_sets * n_new
        # the draws that share a set of specimens are correlated: the SD of the sets is used
        assert any_false / n <= epsilon + 3 * math.sqrt(epsilon / n_specimens / n_sets)
        assert any_false / n >= epsilon - 1 / (n_specimens + 1) - 3 * math.sqrt(epsilon / n_specimens / n_sets)


def test_expected_numbers_are_kept_too():
    """Several regions per image, several images per specimen."""
    rng = np.random.default_rng(1)

    def draw():
        wild = rng.exponential()
        return tuple(tuple(np.sort(rng.normal(1, 1, rng.poisson(3 * wild)))) for _ in range(3))

    total, n = 0, 0
    for _ in range(200):
        offset = ConformalOffset(tuple(HeldOutSpecimen(str(i), draw()) for i in range(15)))
        threshold = offset.threshold(1.0)
        for image in (p for _ in range(5) for p in draw()):
            total += min(sum(v <= threshold for v in image), 4.0)  # epsilon times sqrt(16)
            n += 1
    assert 0.6 < total / n <= 1.1


def test_plain_values_bring_back_the_same():
    offset = specimens(-1.0, None, 2.5)
    assert ConformalOffset.from_list(json.loads(json.dumps(offset.to_list()))) == offset


# Areas


def test_a_larger_held_out_image_may_have_more_false_alarms():
    """Areas of 1 / 2 and 5 / 2 of the mean: two false alarms count as 1 in the small one, as 2 in the large one."""
    images = [((), 1.0)] * 8 + [((-2.0, -1.9), 1.0), ((), 5.0), ((), 5.0), ((), 5.0)]
    small = ConformalOffset(tuple(HeldOutSpecimen(str(i), (v,), (a,)) for i, (v, a) in enumerate(images)))
    images[8], images[9] = ((), 1.0), ((-2.0, -1.9), 5.0)
    large = ConformalOffset(tuple(HeldOutSpecimen(str(i), (v,), (a,)) for i, (v, a) in enumerate(images)))
    assert (small.area, small.largest_area) == (2.0, 5.0)
    lowest = [10 ** float(offset.guaranteed(np.array([-1.9]))[0]) for offset in (small, large)]
    assert lowest[0] == pytest.approx(2 / 13, rel=0.006)
    assert lowest[1] == pytest.approx(3 / 13, rel=0.006)


def test_areas_that_are_not_known_are_all_the_same():
    old = specimens(-1.0, None, 2.5)
    assert (old.area, old.largest_area) == (0, 0)
    known = ConformalOffset(tuple(HeldOutSpecimen(s.name, s.images, (7.0,)) for s in old.specimens))
    values = np.linspace(-4, 3, 50)
    np.testing.assert_array_equal(known.guaranteed(values), old.guaranteed(values))
    plain = [{key: value for key, value in item.items() if key != "areas"} for item in old.to_list()]
    assert ConformalOffset.from_list(plain) == old
    assert ConformalOffset.from_list(json.loads(json.dumps(known.to_list()))) == known


@pytest.mark.parametrize("areas", [[1.0, 2.0], [math.nan], [-1.0], [math.inf]])
def test_areas_that_no_training_measures_are_refused(areas):
    with pytest.raises(ValueError, match="areas"):
        ConformalOffset.from_list([{"name": "a", "images": [[0.0]], "areas": areas}])


@pytest.mark.parametrize("false_alarms", [0.1, 0.3, 1.0, 5.0])
def test_what_was_observed_is_within_what_is_guaranteed(false_alarms):
    """Of 20 specimens two have 60 regions: more than B in one of them count as B."""
    many = tuple(np.linspace(-3, 2, 60).tolist())
    offset = ConformalOffset(tuple(HeldOutSpecimen(str(i), (many if i < 2 else (),), (1.0,)) for i in range(20)))
    assert offset.observed(false_alarms) <= false_alarms
    if false_alarms == 0.3:
        assert offset.observed(false_alarms) == pytest.approx(2 * 0.3 * math.sqrt(21) / 20)
