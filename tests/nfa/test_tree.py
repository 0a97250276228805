import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from scipy import ndimage

from napari_uflow.nfa.tree import MaxTree, best_regions


def reference_regions(order, weight):
    """The rule in its own words, slowly: the whole tree, then prune and merge until nothing changes.

    A node is (the set of its pixels); the tree is a dict from node to its children.
    """
    nodes = []
    for level in np.unique(order[~np.isnan(order)])[::-1]:
        parts, n = ndimage.label(order >= level)
        for part in range(1, n + 1):
            inside = parts == part
            if order[inside].min() == level:
                nodes.append((frozenset(np.flatnonzero(inside)), inside.sum() * weight[inside & (order == level)][0]))
    value = dict(nodes)
    tree, roots = {}, []
    for node in value:  # from the leaves down, so the tops found so far are the candidates for children
        tree[node] = [top for top in roots if top < node]
        roots = [top for top in roots if not top < node] + [node]

    def prune(node):
        """Keep the best node (the highest if equal) of each chain from a leaf to a bifurcation."""
        chain = [node]
        while len(tree[chain[-1]]) == 1:
            chain.append(tree[chain[-1]][0])
        if tree[chain[-1]]:  # ends at a bifurcation: nothing to prune but above it
            tree[chain[-1]] = [prune(child) for child in tree[chain[-1]]]
            return node
        best = min(reversed(chain), key=value.__getitem__)
        tree[best] = []
        return best

    def merge(node):
        """Drop the children, all of them leaves, of a bifurcation that is no worse than the best of them."""
        children = tree[node]
        is_ready = len(children) > 1 and not any(tree[child] for child in children)
        if is_ready and value[node] <= min(value[child] for child in children):
            tree[node] = []
            return True
        return sum(merge(child) for child in children) > 0

    regions = []
    for root in roots:
        top = prune(root)
        while merge(top):
            top = prune(top)
        stack = [top]
        while stack:
            node = stack.pop()
            stack.extend(tree[node])
            if not tree[node]:
                regions.append((node, value[node]))
    return set(regions)


def as_sets(labels, values):
    return {(frozenset(np.flatnonzero(labels == r)), value) for r, value in enumerate(values, start=1)}


def energies(n_levels):
    shape = npst.array_shapes(min_dims=2, max_dims=2, max_side=8)
    return npst.arrays(np.float64, shape, elements=st.integers(0, n_levels - 1).map(float))


@pytest.mark.slow
@settings(deadline=None, max_examples=200)
@given(st.sampled_from([2, 3, 5, 1000]).flatmap(energies), st.floats(-2, 6), st.integers(0, 2**31))
def test_agrees_with_the_rule_in_its_own_words(order, zero, seed):
    for weight_of_level in (
        zero - np.arange(1000.0),  # as a log probability: falling
        np.random.default_rng(seed).integers(-6, 3, 1000).astype(float),  # any function of the level
    ):
        weight = weight_of_level[order.astype(int)]
        assert as_sets(*best_regions(order, weight)) == reference_regions(order, weight)


@pytest.mark.parametrize("n_levels", [2, 4, 8, 16, 10**6])
@pytest.mark.parametrize("smooth", [0.0, 1.5])
def test_agrees_on_larger_maps(n_levels, smooth):
    for seed in range(5):
        z = np.random.default_rng(seed).standard_normal((19, 23))
        z = ndimage.gaussian_filter(z, smooth)
        order = np.floor((z - z.min()) / (z.max() - z.min()) * (n_levels - 1))
        weight = 1.0 - (3.0 * order / n_levels) ** 3
        assert as_sets(*best_regions(order, weight)) == reference_regions(order, weight)


@settings(deadline=None)
@given(st.sampled_from([2, 3, 5, 1000]).flatmap(energies), st.integers(0, 7))
def test_early_stop_changes_no_region_below_zero(order, zero):
    weight = zero - order
    full = {region for region in as_sets(*best_regions(order, weight)) if region[1] < 0}
    assert as_sets(*best_regions(order, weight, cut=float(zero))) == full


@settings(deadline=None)
@given(energies(4))
def test_direction_of_the_scan_does_not_matter(order):
    labels, values = best_regions(order, 1.0 - order)
    for turn in (np.flipud, np.fliplr, np.transpose):
        turned, turned_values = best_regions(turn(order), 1.0 - turn(order))
        np.testing.assert_array_equal(turned_values, values)
        np.testing.assert_array_equal(turn(turned) > 0, labels > 0)


def test_chain_keeps_its_best_region():
    # Going down from 9: 1 * -9, 2 * -7 = -14, 3 * -4 = -12, 9 * 0.
    order = np.array([[9.0, 7, 4], [0, 0, 0], [0, 0, 0]])
    labels, values = best_regions(order, -order)
    np.testing.assert_array_equal(labels, [[1, 1, 0], [0, 0, 0], [0, 0, 0]])
    np.testing.assert_array_equal(values, [-14])


def test_equal_values_keep_the_smaller_region():
    order = np.array([[6.0, 3, 2, 0]])  # 1 * -6 = 2 * -3 = 3 * -2
    labels, _ = best_regions(order, -order)
    np.testing.assert_array_equal(labels, [[1, 0, 0, 0]])


def test_bifurcation_merges_when_it_is_no_worse():
    order = np.array([[0.0, 0, 0], [9, 3, 8], [0, 0, 0]])  # 3 * -3 = -9 equals the best child, -9
    labels, values = best_regions(order, -order)
    np.testing.assert_array_equal(labels, [[0, 0, 0], [1, 1, 1], [0, 0, 0]])
    np.testing.assert_array_equal(values, [-9])


def test_bifurcation_that_refuses_stays_for_ever():
    # 9 and 8 join at 2 (3 * -2 = -6 > -9: refused). All nine at 1.5 would be worth -13.5, but come too late.
    order = np.array([[1.5, 1.5, 1.5], [9, 2, 8], [1.5, 1.5, 1.5]])
    labels, values = best_regions(order, -order)
    np.testing.assert_array_equal(labels, [[0, 0, 0], [1, 0, 2], [0, 0, 0]])
    np.testing.assert_array_equal(values, [-9, -8])


def test_plateau_is_one_node_with_three_children():
    # The corners 9, 8, 7 join in the plateau of 1.6: 9 * -1.6 = -14.4 <= -9, so the plateau swallows all of them.
    order = np.array([[9, 1.6, 8], [1.6, 1.6, 1.6], [7, 1.6, 1.6]])
    labels, values = best_regions(order, -order)
    np.testing.assert_array_equal(labels, np.ones((3, 3)))
    np.testing.assert_array_equal(values, [-14.4])


def test_corners_do_not_connect():
    order = np.array([[5.0, 0], [0, 5]])
    labels, _ = best_regions(order, -order)
    np.testing.assert_array_equal(labels, [[1, 0], [0, 2]])


def test_nan_separates_and_is_in_no_region():
    order = np.array([[9.0, np.nan, 8.0], [5.0, np.nan, 5.0]])
    labels, values = best_regions(order, -order)
    np.testing.assert_array_equal(labels, [[1, 0, 2], [1, 0, 2]])
    np.testing.assert_array_equal(values, [-10, -10])


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (4, 5)])
@pytest.mark.parametrize("value", [-1.0, 0.0, 3.0, np.inf])
def test_constant_map_is_one_region(shape, value):
    labels, values = best_regions(np.full(shape, value), np.full(shape, -2.0))
    np.testing.assert_array_equal(labels, np.ones(shape))
    np.testing.assert_array_equal(values, [-2.0 * labels.size])


@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (1, 1), (3, 4)])
def test_maps_without_a_region(shape):
    for order, cut in ((np.full(shape, np.nan), None), (np.zeros(shape), 0.0)):
        labels, values = best_regions(order, -order, cut=cut)
        assert labels.shape == shape
        assert labels.dtype == np.int32
        assert not labels.any()
        assert values.shape == (0,)
        assert values.dtype == np.float64


def test_regions_are_numbered_by_value_then_position():
    order = np.array([[3.0, 0, 5, 0, 3, 0, 9]])
    labels, values = best_regions(order, -order)
    np.testing.assert_array_equal(labels, [[3, 0, 2, 0, 4, 0, 1]])
    np.testing.assert_array_equal(values, [-9, -5, -3, -3])


def test_deep_chain_needs_no_recursion():
    order = np.linspace(1.5, 2, 300_000)[None, :]
    labels, values = best_regions(order, -order)
    assert values.size == 1
    assert labels.all()


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="one shape"):
        best_regions(np.zeros((2, 3)), np.zeros((3, 2)))
    with pytest.raises(ValueError, match="one shape"):
        best_regions(np.zeros(3), np.zeros(3))


def test_correlated_pixels_count_less_but_a_single_one_in_full():
    order = np.array([[5.0, 0.0, 4.0, 4.0, 4.0]])
    weight = np.where(order > 0, -order, np.nan)
    labels, value = best_regions(order, weight, correlation_area=4.0)
    # alone: 1 * -5; three together: (1 + 2 / 4) * -4
    assert labels.tolist() == [[2, 0, 1, 1, 1]]
    np.testing.assert_allclose(value, [-6.0, -5.0])
    np.testing.assert_allclose(best_regions(order, weight)[1], [-12.0, -5.0])


def test_a_tree_that_grows_in_chunks_has_the_same_regions():
    order = np.round(ndimage.gaussian_filter(np.random.default_rng(4).normal(size=(30, 40)), 1) * 8) / 8
    expected = best_regions(order, -order, cut=0.0, correlation_area=3.0)
    tree = MaxTree(order, -order, cut=0.0, correlation_area=3.0)
    n_chunks = 0
    while not tree.is_complete:
        tree.grow(100)
        n_chunks += 1
    assert n_chunks == -(-np.count_nonzero(order > 0) // 100)
    for whole, chunked in zip(expected, tree.best_regions(), strict=True):
        np.testing.assert_array_equal(whole, chunked)
