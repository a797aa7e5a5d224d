"""Input files of texts and output files of vectors, read and written in constant memory, without a network.

inputs = Inputs(["docs.jsonl"], column="text")
survey = inputs.survey()
with open_output("docs.parquet", columns=survey.columns) as output:
    for chunk in inputs.chunks():
        output.write(chunk, vectors_of(chunk), kept_rows_of(chunk))
    output.finish()
"""

from __future__ import annotations

from multiembed.files.arrow import abandon
from multiembed.files.atomic_write import WholeFile, check_place, naming
from multiembed.files.formats import INPUT_FORMATS
from multiembed.files.inputs import Inputs, Survey
from multiembed.files.outputs import OUTPUT_FORMATS, Output, open_output, output_format
from multiembed.files.rows import Chunk, InputError, shortened

__all__ = [
    "INPUT_FORMATS",
    "OUTPUT_FORMATS",
    "Chunk",
    "InputError",
    "Inputs",
    "Output",
    "Survey",
    "WholeFile",
    "abandon",
    "check_place",
    "naming",
    "open_output",
    "output_format",
    "shortened",
]
