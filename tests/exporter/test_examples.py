import json
from pathlib import Path
from typing import Any

import digits
import export_models
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from models import bert, images, inception_v3, recurrent, resnet50, yolov4
from turnout_exporter.cli.export import export_command


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


def test_inception_has_the_expected_size() -> None:
    model = inception_v3.inception_v3()
    assert sum(parameter.numel() for parameter in model.parameters()) == 23_834_568
    with torch.inference_mode():
        assert model(torch.zeros(1, 3, 75, 80))["logits"].shape == (1, 1000)


SMALL: dict[str, Any] = {"vocabulary": 50, "width": 16}


def test_berts_answer_does_not_depend_on_ids_that_are_masked() -> None:
    model = bert.bert(**SMALL, positions=8, layers=2, heads=2)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    one, other = torch.full((2, 5), 3), torch.full((2, 5), 3)
    other[:, 3:] = 7
    with torch.inference_mode():
        first, second = model(one, mask)["logits"], model(other, mask)["logits"]
        short = model(one[:1, :3], mask[:1, :3])["logits"]
    torch.testing.assert_close(first[0], second[0])
    torch.testing.assert_close(first[:1], short)
    assert not torch.allclose(first[1], second[1])


def test_a_packed_row_is_answered_as_if_it_were_alone() -> None:
    model = recurrent.packed_lstm(**SMALL)
    ids = torch.arange(14).reshape(2, 7)
    with torch.inference_mode():
        together = model(ids, torch.tensor([3, 7]))
        alone = model(ids[:1, :3], torch.tensor([3]))
    torch.testing.assert_close(together["logits"][:1], alone["logits"])
    torch.testing.assert_close(together["states"][:1, :3], alone["states"])


def test_yolos_boxes_lie_around_their_cells() -> None:
    model = yolov4.yolov4(classes=5, width=4, blocks=(1, 1, 1, 1, 1))
    with torch.inference_mode():
        found = model(torch.rand(2, 3, 64, 96))
    cells = sum((64 // stride) * (96 // stride) for stride, _ in yolov4.ANCHORS)
    assert found["boxes"].shape == (2, 3 * cells, 4)
    assert found["scores"].shape == (2, 3 * cells, 5)
    x, y, width, height = found["boxes"][0, 0]
    assert 0 < x < 8
    assert 0 < y < 8
    assert 8 < width < 18
    assert 11 < height < 24
    assert 0 < float(found["scores"].min()) < float(found["scores"].max()) < 1


def test_made_up_images_differ_by_their_seed_and_lie_in_the_range() -> None:
    one, same, other = (images.for_yolo({"batch": 2}, seed)["image"] for seed in (1, 1, 2))
    assert one.shape == (2, 3, 416, 416)
    assert (float(one.min()), float(one.max())) == (0.0, 1.0)
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)
    assert images.normalised({"batch": 2}, 1)["image"].std() == pytest.approx(1.0, abs=1e-3)


# ResNet-50 and Inception have no small form; `make models` exports them.
@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", ["rnn", "yolov4", "bert", "gpt", "encoder"])
def test_a_small_example_is_exported_and_its_row_says_how(tmp_path: Path, name: str) -> None:
    example = next(example for example in export_models.EXAMPLES if example.name == name)
    result = CliRunner().invoke(export_command, example.command(tmp_path, is_small=True, variants=()))
    assert result.exit_code == 0, result.output
    model, exporter, _, _, sizes, error, variants = export_models.row(tmp_path / name / "1", 12.0)
    assert (model, exporter, variants) == (name, "torchscript" if name == "rnn" else "dynamo", "none")
    assert sizes.startswith("batch 1..8" if name == "yolov4" else "batch 1..32, seq 1..")
    assert float(error) < 1e-5
    assert json.loads((tmp_path / name / "1" / "model.json").read_text())["batch_axis"] == 0
