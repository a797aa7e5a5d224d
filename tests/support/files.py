"""Writes input files and reads them back."""

from __future__ import annotations

import numpy as np

from multiembed.files import Inputs, open_output, output_format


def read(*paths, **how):
    with Inputs([str(path) for path in paths], **how) as inputs:
        return [text for chunk in inputs.chunks() for text in chunk.texts]


def faults(*paths, **how):
    """Where each row stands that cannot be embedded, and why."""
    with Inputs([str(path) for path in paths], **how) as inputs:
        return {chunk.location(row): why for chunk in inputs.chunks() for row, why in chunk.faults.items()}


def columns(*paths, **how):
    """The columns for Parquet, by their types."""
    with Inputs([str(path) for path in paths], **how) as inputs:
        return {column.name: column.type for column in inputs.survey(columns=True).columns}


def copied(source, out, *, form=None, dimensions=2, kept=None, **how):
    """Inputs written as an output, with vectors that tell the number of the row."""
    with Inputs([str(path) for path in source], **how) as inputs:
        survey = inputs.survey(columns=True)
        number = 0
        with open_output(out, form or output_format(out), columns=survey.columns, names=survey.names) as output:
            for chunk in inputs.chunks():
                rows = np.arange(number, number + len(chunk), dtype=np.float32)
                mask = np.ones(len(chunk), dtype=bool)
                mask[list(chunk.faults)] = False
                if kept is not None:
                    mask &= np.isin(rows, kept)
                output.write(chunk, np.repeat(rows[:, None], dimensions, axis=1), mask)
                number += len(chunk)
            output.finish()


def write(path, data):
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path
