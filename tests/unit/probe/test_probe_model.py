from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from safetensors.numpy import load_file

from medfuncta_dist.errors import FormatVersionError, IntegrityError, ObjectMissingError
from medfuncta_dist.probe.classifiers import candidates, predictions
from medfuncta_dist.probe.probe_model import ProbeModel, model_of
from medfuncta_dist.probe.question import Question

DRAWS = np.random.default_rng(0)
LATENTS = (DRAWS.normal(size=(120, 5)) * [1, 10, 0.1, 1, 1] + [0, 50, 0, 0, 0]).astype(np.float32)
ASKED = {
    "two classes": (Question("classes", (0,)), (LATENTS[:, 0] > 0).astype(int) * 3),
    "four classes": (Question("classes", (2,)), np.digitize(LATENTS[:, 0], [-1, 0, 1])),
    "labels": (Question("labels", (0, 4)), (LATENTS[:, [0, 3]] > 0).astype(int)),
    "target": (Question("target", (1,)), 1000 + 5 * LATENTS[:, 0]),
}


def fitted(asked: str, name: str):
    question, answers = ASKED[asked]
    one = next(c for c in candidates(question, [name], 120, 0) if c.name == name)
    return question, one.pipeline.fit(LATENTS, answers), np.unique(answers)


@pytest.mark.parametrize("name", ["linear", "mlp"])
@pytest.mark.parametrize("asked", ASKED)
def test_the_file_answers_as_the_trained_pipeline_does(asked: str, name: str):
    question, pipeline, classes = fitted(asked, name)
    data = model_of(pipeline, question, name, "d" * 64).to_bytes()
    model = ProbeModel.from_bytes(data)
    expected = predictions(pipeline, question, LATENTS, classes)
    size = 1000 if asked == "target" else 1
    assert model.predict(LATENTS) == pytest.approx(expected, abs=1e-4 * size)
    assert (model.kind, model.places, model.classifier) == (question.kind, question.places, name)
    assert model.classes == (tuple(classes) if question.kind == "classes" else ())
    assert model.network == "d" * 64
    assert data == model_of(pipeline, question, name, "d" * 64).to_bytes()


def test_a_few_lines_of_plain_python_apply_it(tmp_path: Path):
    """The lines of docs/how-to/probe.md."""
    question, pipeline, classes = fitted("four classes", "mlp")
    (tmp_path / "probe.safetensors").write_bytes(model_of(pipeline, question, "mlp", "d").to_bytes())
    latents = LATENTS

    model = load_file(tmp_path / "probe.safetensors")
    hidden = np.maximum(latents @ model["0.weight"] + model["0.bias"], 0)
    scores = hidden @ model["1.weight"] + model["1.bias"]

    assert np.array_equal(classes[scores.argmax(1)], pipeline.predict(LATENTS))


def rewritten(data: bytes, change: dict[str, object], **tensors: np.ndarray) -> bytes:
    size = int.from_bytes(data[:8], "little")
    about = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["probe"]) | change
    return safetensors.numpy.save(safetensors.numpy.load(data) | tensors, {"probe": json.dumps(about)})


def test_another_version_is_refused_by_name():
    question, pipeline, _ = fitted("two classes", "linear")
    data = model_of(pipeline, question, "linear", "d").to_bytes()
    with pytest.raises(FormatVersionError, match="format_version 2 is not a probe's model of version 1"):
        ProbeModel.from_bytes(rewritten(data, {"format_version": 2}))
    with pytest.raises(FormatVersionError, match="format_version None"):
        ProbeModel.from_bytes(safetensors.numpy.save({"0.weight": LATENTS}))


def test_damaged_files_are_refused():
    question, pipeline, _ = fitted("two classes", "mlp")
    data = model_of(pipeline, question, "mlp", "d").to_bytes()
    infinite = np.full((5, 128), np.inf, np.float32)
    damaged = [
        b"no file",
        data[:-4],
        rewritten(data, {"question": "guess"}),
        rewritten(data, {"classes": [0, 1, 2]}),
        rewritten(data, {"places": "zero"}),
        rewritten(data, {}, **{"0.weight": infinite}),
        rewritten(data, {}, **{"1.weight": np.zeros((7, 2), np.float32)}),
        rewritten(data, {}, **{"9.weight": np.zeros((7, 2), np.float32)}),
    ]
    for one in damaged:
        with pytest.raises(IntegrityError):
            ProbeModel.from_bytes(one)


def test_a_run_that_was_not_probed_has_none(tmp_path: Path):
    with pytest.raises(ObjectMissingError):
        ProbeModel.open(str(tmp_path), "small")
