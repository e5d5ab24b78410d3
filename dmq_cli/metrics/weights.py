"""Finds the weights of a feature extractor on this machine and checks that they are what was asked for."""

from __future__ import annotations

import hashlib

from dmq_cli.errors import EvaluationError, MissingWeightsError
from dmq_cli.paths import resolve

INCEPTION_URL = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
)
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"

_REMEDY = {
    "digits_cnn": "dmq ships it and makes it again with: dmq train model=ddim_digits",
    "inception-v3-compat": f"download {INCEPTION_URL} and give its place as protocol.extractor_path",
}


def read_weights(extractor: str, path: str | None, sha256: str | None = None) -> tuple[bytes, str]:
    """The bytes of an extractor's weights file and their sha256, nothing interpreted.

    extractor: `digits_cnn` or `inception-v3-compat`; the second must be the one published file, because its
    numbers are called FID. sha256: what the bytes must hash to besides, or None. Raises MissingWeightsError
    (exit code 4) if there is no such file and EvaluationError if it hashes to something else.
    """
    file = resolve(path) if path else None
    if file is None or not file.is_file():
        place = f"but {file} is not a file" if file else "but no path was given"
        raise MissingWeightsError(f"The weights of {extractor} were asked for, {place}; {_REMEDY[extractor]}")
    data = file.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    for wanted in (INCEPTION_SHA256 if extractor == "inception-v3-compat" else None, sha256):
        if wanted is not None and wanted.lower() != found:
            raise EvaluationError(
                f"The weights of {extractor} must have the sha256 {wanted}, but {file} has {found}; "
                f"{_REMEDY[extractor]}"
            )
    return data, found
