import numpy as np
import pytest

from clipfeat.vis.pca import LEAST_SPAN, fit_pca_colors, principal_axes


def smooth_features(count=400, channels=24, seed=0):
    rng = np.random.default_rng(seed)
    latent = rng.uniform(-1, 1, size=(count, 3)) * (3.0, 2.0, 1.5)
    return 5 + latent @ rng.normal(size=(3, channels)) + 0.01 * rng.normal(size=(count, channels))


def colors_by_svd(features):
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    centred = unit - unit.mean(axis=0)
    axes = np.linalg.svd(centred, full_matrices=False)[2][:3]
    columns, first_span = [], None
    for axis in axes:
        if axis[np.argmax(np.abs(axis))] < 0:
            axis = -axis
        x = centred @ axis
        low, high = np.percentile(x, [1, 99])
        first_span = first_span or high - low
        half = max(high - low, LEAST_SPAN * first_span) / 2
        columns.append(np.clip((x - (low + high) / 2 + half) / (2 * half), 0, 1))
    return np.stack(columns, axis=1)


@pytest.mark.parametrize(("count", "channels"), [(400, 24), (10, 64)])
def test_colors_are_those_of_an_svd(count, channels):
    features = smooth_features(count, channels)
    np.testing.assert_allclose(fit_pca_colors(features).colors(features), colors_by_svd(features), atol=1e-4)


def test_the_length_of_a_feature_does_not_count():
    features = smooth_features()
    longer = features * np.random.default_rng(1).uniform(0.1, 10, size=(len(features), 1))
    np.testing.assert_allclose(
        fit_pca_colors(longer).colors(longer), fit_pca_colors(features).colors(features), atol=1e-4
    )


def test_all_of_the_range_is_used_but_for_outliers():
    features = smooth_features()
    features[0] *= -1
    colors = fit_pca_colors(features).colors(features)
    assert colors.dtype == np.float32
    assert colors.min() == 0
    assert colors.max() == 1
    assert (np.percentile(colors, 90, axis=0) - np.percentile(colors, 10, axis=0) > 0.5).all()


def test_the_sign_does_not_depend_on_the_order_of_the_points():
    features = smooth_features()
    order = np.random.default_rng(3).permutation(len(features))
    np.testing.assert_allclose(
        fit_pca_colors(features[order]).colors(features), fit_pca_colors(features).colors(features), atol=1e-5
    )


def test_noise_beside_two_classes_stays_dim():
    rng = np.random.default_rng(0)
    classes = np.repeat(rng.normal(size=(2, 32)), 100, axis=0) + 1e-3 * rng.normal(size=(200, 32))
    colors = fit_pca_colors(classes).colors(classes)
    assert np.abs(colors[:100] - colors[:100].mean(axis=0)).max() < 0.05
    assert np.abs(colors[:100].mean(axis=0) - colors[100:].mean(axis=0)).max() > 0.9


@pytest.mark.parametrize("count", [0, 1, 2, 5])
@pytest.mark.parametrize("channels", [1, 2, 8])
def test_few_points_and_few_channels(count, channels):
    features = np.random.default_rng(0).normal(size=(count, channels)).astype(np.float32)
    colors = fit_pca_colors(features).colors(features)
    assert colors.shape == (count, 3)
    assert np.isfinite(colors).all()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [0.0, 0.3])
def test_equal_features_are_mid_grey(value):
    features = np.full((50, 16), value, np.float16)
    np.testing.assert_allclose(fit_pca_colors(features).colors(features), 0.5)


def test_axes_are_orthonormal_and_strongest_first():
    values = smooth_features()
    mean, axes = principal_axes(values, 5)
    np.testing.assert_allclose(mean, values.mean(axis=0))
    np.testing.assert_allclose(axes @ axes.T, np.eye(5), atol=1e-9)
    assert (np.diff(((values - mean) @ axes.T).var(axis=0)) < 0).all()


def test_axes_along_which_nothing_varies_are_zero():
    values = np.zeros((9, 4))
    values[:, 2] = np.arange(9)
    axes = principal_axes(values, 3)[1]
    np.testing.assert_allclose(axes, [[0, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]], atol=1e-12)
