"""Datasets: what they hold, that they are the same each time, and what a broken file says."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from picoformer.datasets import Dataset, augment_digits, digits, load_dataset, save_dataset, synthetic_signal
from picoformer.errors import DataError
from picoformer.samples import load_samples


@pytest.fixture
def small() -> Dataset:
    return synthetic_signal(seed=1, n=24, seq=5, features=3, classes=3)


def _arrays(dataset: Dataset) -> dict[str, Any]:
    return {field.name: getattr(dataset, field.name) for field in dataclasses.fields(dataset)}


def test_digits_are_split_by_class_and_scaled() -> None:
    data = digits(seed=3)
    assert data.x_train.shape[1:] == (8, 8) and data.x_train.dtype == np.float32
    assert len(data.x_train) + len(data.x_test) == 1797 and 355 <= len(data.x_test) <= 365
    assert data.x_train.min() == 0.0 and data.x_train.max() == 1.0
    share = np.bincount(data.y_test) / np.bincount(np.concatenate((data.y_train, data.y_test)))
    assert np.abs(share - 0.2).max() < 0.01
    train = {image.tobytes() for image in data.x_train}
    assert sum(image.tobytes() in train for image in data.x_test) == 0


def test_digits_depend_on_the_seed_alone() -> None:
    assert np.array_equal(digits(seed=3).x_test, digits(seed=3).x_test)
    assert not np.array_equal(digits(seed=3).x_test, digits(seed=4).x_test)


@pytest.mark.parametrize("fraction", [0.0, 1.0, float("nan")])
def test_digits_fraction_out_of_range(fraction: float) -> None:
    with pytest.raises(DataError, match="test_fraction"):
        digits(test_fraction=fraction)


def test_augmentation_without_change_is_the_identity() -> None:
    x = digits().x_train[:20]
    same = augment_digits(x, np.random.default_rng(0), shift=0.0, rotate=0.0, scale=0.0)
    np.testing.assert_allclose(same, x, atol=1e-6)


def test_augmentation_moves_by_less_than_its_shift() -> None:
    x = np.zeros((200, 9, 9), dtype=np.float32)
    x[:, 4, 4] = 1.0
    moved = augment_digits(x, np.random.default_rng(0), shift=1.0, rotate=0.0, scale=0.0)
    assert moved.dtype == np.float32
    np.testing.assert_allclose(moved.sum(axis=(1, 2)), 1.0, atol=1e-5)
    centre = (moved * np.arange(9)[None, :, None]).sum(axis=(1, 2))
    assert centre.min() > 3.0 and centre.max() < 5.0 and centre.std() > 0.3


def test_augmentation_turns_and_resizes() -> None:
    x = np.zeros((100, 9, 9), dtype=np.float32)
    x[:, 4, 8] = 1.0
    turned = augment_digits(x, np.random.default_rng(0), shift=0.0, rotate=20.0, scale=0.0)
    rows = (turned * np.arange(9)[None, :, None]).sum(axis=(1, 2)) / np.maximum(turned.sum(axis=(1, 2)), 1e-9)
    assert rows.std() > 0.3
    x = np.ones((100, 9, 9), dtype=np.float32)
    resized = augment_digits(x, np.random.default_rng(0), shift=0.0, rotate=0.0, scale=0.2)
    assert resized.sum(axis=(1, 2)).std() > 1.0


def test_synthetic_signal_is_balanced_and_repeatable(small: Dataset) -> None:
    assert small.x_train.shape == (24, 5, 3) and small.x_test.shape == (6, 5, 3)
    assert np.bincount(np.concatenate((small.y_train, small.y_test))).tolist() == [10, 10, 10]
    again = synthetic_signal(seed=1, n=24, seq=5, features=3, classes=3)
    assert np.array_equal(again.x_train, small.x_train)
    assert not np.array_equal(synthetic_signal(seed=2, n=24, seq=5, features=3, classes=3).x_train, small.x_train)


def test_save_and_load(small: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    save_dataset(small, path)
    loaded = load_dataset(path)
    assert loaded.name == small.name and loaded.classes == small.classes
    for key in ("x_train", "y_train", "x_test", "y_test"):
        assert np.array_equal(getattr(loaded, key), getattr(small, key))
    before = path.read_bytes()
    save_dataset(small, path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("key", "change", "message"),
    [
        ("x_train", lambda a: np.where(np.arange(3) == 1, np.float32("nan"), a), "x_train holds NaN"),
        ("x_test", lambda a: a[:, :, :2], "same type and sample shape"),
        ("x_test", lambda a: a.astype(np.float64), "x_test is float64"),
        ("y_train", lambda a: a[:-1], "23"),
        ("y_train", lambda a: a + 1, "must lie in 0 to 2"),
        ("y_test", lambda a: a - 1, "must lie in 0 to 2"),
        ("y_test", lambda a: a.astype(np.int32), "y_test is int32"),
    ],
)
def test_broken_arrays_are_named(small: Dataset, tmp_path: Path, key: str, change: Any, message: str) -> None:
    arrays = _arrays(small)
    arrays[key] = change(arrays[key])
    path = tmp_path / "data.npz"
    np.savez(path, **arrays)
    with pytest.raises(DataError, match=message) as caught:
        load_dataset(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("missing", ["x_train", "y_test", "name", "classes"])
def test_missing_arrays_are_named(small: Dataset, tmp_path: Path, missing: str) -> None:
    arrays = _arrays(small)
    del arrays[missing]
    np.savez(tmp_path / "data.npz", **arrays)
    with pytest.raises(DataError, match=f"'{missing}' is missing"):
        load_dataset(tmp_path / "data.npz")


def test_files_that_are_no_data_set(small: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    with pytest.raises(DataError, match="no such file"):
        load_dataset(path)
    path.write_bytes(b"")
    with pytest.raises(DataError, match="not a readable"):
        load_dataset(path)
    save_dataset(small, path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match="not a readable"):
        load_dataset(path)
    with open(path, "wb") as stream:
        np.save(stream, np.zeros(3))
    with pytest.raises(DataError, match="one array"):
        load_dataset(path)
    np.savez(path, **{**_arrays(small), "name": np.array(object(), dtype=object)})
    with pytest.raises(DataError, match="not a readable"):
        load_dataset(path)


def test_no_broken_byte_gets_through_as_another_error(small: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    save_dataset(small, path)
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        broken = np.frombuffer(whole, dtype=np.uint8).copy()
        broken[rng.integers(len(broken), size=2)] = rng.integers(256, size=2)
        path.write_bytes(broken.tobytes())
        try:
            load_dataset(path)
        except DataError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 100


def test_sizes_are_checked() -> None:
    with pytest.raises(DataError, match="classes = 1"):
        synthetic_signal(classes=1)


def test_samples_come_out_of_a_data_set_or_are_refused(tmp_path: Path) -> None:
    x, y = np.arange(12, dtype=np.float32).reshape(6, 2), np.arange(6)
    np.savez(tmp_path / "data.npz", x_train=x, y_train=y, x_test=x[:2], y_test=y[:2])
    assert load_samples(tmp_path / "data.npz")["labels"].tolist() == [0, 1]
    assert load_samples(tmp_path / "data.npz", "train", 3)["labels"].tolist() == [0, 2, 5]
    for bad in (np.float32(1), x[:1]):
        np.savez(tmp_path / "bad.npz", x_train=x, y_train=y, x_test=bad, y_test=y[:2])
        with pytest.raises(DataError, match=r"bad\.npz: x_test is .* make the data set again"):
            load_samples(tmp_path / "bad.npz")
