import digits
import pytest
import resnet50
import torch


@pytest.mark.parametrize(("kind", "accuracy"), [("cnn", 0.98), ("lstm", 0.95)])
def test_a_digits_classifier_learns_its_task(kind: str, accuracy: float) -> None:
    epochs: list[tuple[int, int]] = []
    trained = digits.train(kind, progress=lambda done, total: epochs.append((done, total)))
    assert trained.accuracy >= accuracy
    assert epochs[-1] == (digits.EPOCHS[kind], digits.EPOCHS[kind])
    assert not trained.model.training


def test_the_same_seed_gives_the_same_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(digits.EPOCHS, "cnn", 1)
    one, same, other = (digits.train("cnn", seed=seed).model.state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(value, same[key]) for key, value in one.items())
    assert not torch.equal(one["features.0.weight"], other["features.0.weight"])


def test_the_held_out_digits_are_a_quarter_of_each_class() -> None:
    data = digits.split()
    assert (len(data.train_digits), len(data.held_out_digits)) == (1347, 450)
    assert data.held_out_digits.bincount().min() >= 43
    assert (float(data.train_images.min()), float(data.train_images.max())) == (0.0, 1.0)


def test_resnet50_has_the_expected_size_and_the_same_weights_every_time() -> None:
    model, again = resnet50.resnet50(), resnet50.resnet50()
    assert sum(parameter.numel() for parameter in model.parameters()) == 25_557_032
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), again.parameters(), strict=True))
