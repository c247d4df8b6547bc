import numpy as np
import pytest
import torch

from clipfeat.types import Camera, FeatureMap, Picture, compose_affine, resize_affine

K = np.array([[500.0, 0.0, 319.5], [0.0, 490.0, 239.5], [0.0, 0.0, 1.0]])


def test_resized_camera_sees_a_point_where_the_resized_picture_shows_it():
    camera = Camera(K, 640, 480)
    small = camera.resized(216, 121)
    x, y, z = 0.31, -0.22, 1.7
    u, v = 500 * x / z + 319.5, 490 * y / z + 239.5
    u_small = small.intrinsics[0, 0] * x / z + small.intrinsics[0, 2]
    v_small = small.intrinsics[1, 1] * y / z + small.intrinsics[1, 2]
    # A picture position as a share of the whole width is what resizing keeps: edges map to edges.
    assert (u_small + 0.5) / 216 == pytest.approx((u + 0.5) / 640, abs=1e-12)
    assert (v_small + 0.5) / 121 == pytest.approx((v + 0.5) / 480, abs=1e-12)


def test_resizing_leaves_the_camera_itself_alone():
    camera = Camera(K, 640, 480)
    camera.resized(320, 240)
    np.testing.assert_array_equal(camera.intrinsics, K)
    with pytest.raises(ValueError, match="read-only"):
        camera.intrinsics[0, 0] = 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({(0, 0): 0.0}, "focal lengths must be positive, got fx=0"),
        ({(1, 1): -3.0}, "focal lengths must be positive, got fx=500, fy=-3"),
        ({(0, 2): np.nan}, "inf or NaN"),
        ({(2, 2): 2.0}, "not a camera matrix"),
    ],
)
def test_a_wrong_k_is_refused(change, message):
    k = K.copy()
    for where, value in change.items():
        k[where] = value
    with pytest.raises(ValueError, match=message):
        Camera(k, 640, 480)


def test_wrong_shape_and_size_are_refused():
    with pytest.raises(ValueError, match=r"intrinsics must be \(3, 3\), got \(4, 4\)"):
        Camera(np.eye(4), 640, 480)
    with pytest.raises(ValueError, match="picture size must be positive, got 0×480"):
        Camera(K, 0, 480)


def test_affine_maps_compose_in_order():
    first, second = resize_affine((640, 480), (224, 224)), resize_affine((224, 224), (14, 14))
    direct = resize_affine((640, 480), (14, 14))
    np.testing.assert_allclose(compose_affine(second, first), direct, atol=1e-15)


def test_a_picture_keeps_its_pixels_only_for_who_asks_for_that():
    decoded = []

    def decode(encoded):
        decoded.append(encoded)
        return np.zeros((2, 3, 3), np.uint8)

    picture = Picture((3, 2), b"x", decode)
    assert picture.decode().shape == (2, 3, 3)
    picture.decode()
    assert len(decoded) == 2
    assert picture.pixels is picture.pixels is picture.decode()
    assert len(decoded) == 3


def test_a_map_covers_what_the_network_saw():
    whole = FeatureMap(torch.zeros(1, 14, 14), resize_affine((640, 480), (14, 14)))
    corners = np.array([[-0.5, -0.5], [639.5, 479.5], [639.5, -0.5]])
    assert whole.covers(corners.astype(np.float32)).all()
    assert not whole.covers(corners * 1.01).any()
    # The middle 480 columns: a centre crop.
    cut = compose_affine(resize_affine((480, 480), (14, 14)), np.array([[1.0, 0, -80], [0, 1, 0]]))
    pixels = np.array([[79.0, 240], [80, 240], [559, 240], [560, 240], [300, 480]])
    assert FeatureMap(torch.zeros(1, 14, 14), cut).covers(pixels).tolist() == [False, True, True, False, False]
